"""Reductions over one dimension, several and all; softmax and its relatives."""

import pytest
from parity.sides import (
    BOTH,
    both_refuse,
    compare,
    distinct,
    each,
    lines,
    mask,
    only_ours_refuses,
    refusals,
    ties,
    whole,
)

CASES = [
    *lines(
        """
        x.sum()
        x.sum(0)
        x.sum(1)
        x.sum(-1)
        x.sum(dim=2)
        x.sum((0, 1))
        x.sum((0, 2))
        x.sum([1, -1])
        x.sum((2, 0, 1))
        x.sum(1, keepdim=True)
        x.sum((0, -1), keepdim=True)
        x.sum((0, 1, 2), True)
        x.sum(axis=1)
        x.sum(axis=(0, 2), keepdims=True) <=> x.sum(dim=(0, 2), keepdim=True)
        torch.sum(x)
        torch.sum(x, 1)
        torch.sum(x, dim=(1, 2), keepdim=True)
        x.mean()
        x.mean(0)
        x.mean(-1)
        x.mean((0, 1))
        x.mean((1, 2), keepdim=True)
        x.mean(dim=(0, 2))
        torch.mean(x)
        torch.mean(x, 1, True)
        torch.mean(x, (0, 1, 2))
        x.var()
        x.var(0)
        x.var(1)
        x.var(-1, keepdim=True)
        x.var((0, 2))
        x.var((1, 2), keepdim=True)
        x.var(1, correction=0)
        x.var((0, 1), correction=0, keepdim=True)
        x.var(correction=2)
        torch.var(x)
        torch.var(x, 1)
        torch.var(x, (0, 2), correction=0)
        torch.var(x, dim=0, keepdim=True)
        x.std()
        x.std(1)
        x.std((0, -1))
        x.std(2, correction=0)
        x.std((0, 2), keepdim=True)
        torch.std(x)
        torch.std(x, -1)
        torch.std(x, (1, 2), correction=0, keepdim=True)
        (x - x.mean(2, keepdim=True)) / x.std(2, keepdim=True)
        (x - x.mean((0, 2), keepdim=True)) / (x.var((0, 2), keepdim=True) + 1e-3).sqrt()
        x.sum(1).sum(1).sum()
        (x * x).sum()
        (x * x).sum((0, 1)).sqrt()
        x.exp().mean() * x.sum()
        """,
        x=(2, 3, 4),
    ),
    *lines(  # no ties
        """
        x.max()
        x.min()
        torch.max(x)
        torch.min(x)
        x.max(0)
        x.max(1)
        x.max(-1)
        x.max(dim=2)
        x.max(1).values
        x.max(1).indices
        x.max(2)[0]
        x.max(1, keepdim=True)
        torch.max(x, 1)
        torch.max(x, 2, True)
        x.min(0)
        x.min(-2)
        x.min(2, keepdim=True)
        torch.min(x, 0)
        torch.min(x, dim=1, keepdim=True)
        x.amax()
        x.amax(0)
        x.amax((0, 1))
        x.amax((1, 2), keepdim=True)
        x.amax(dim=(0, 1, 2))
        torch.amax(x, 1)
        torch.amax(x, (0, 2), True)
        x.amin(0)
        x.amin((0, -1))
        x.amin(1, keepdim=True)
        torch.amin(x, 2)
        torch.amin(x, dim=(0, 1))
        x.argmax()
        x.argmax(0)
        x.argmax(-1)
        x.argmax(1, keepdim=True)
        x.argmax(dim=2)
        torch.argmax(x)
        torch.argmax(x, 1)
        x.argmin()
        x.argmin(0)
        x.argmin(2, True)
        torch.argmin(x, dim=1)
        x.max() - x.min()
        (x - x.amax(1, keepdim=True)).exp()
        x.max(1).values.sum() * x.min(2).values.mean()
        (x.argmax(1) == x.argmin(1)).sum()
        x.max(0).values[0]
        """,
        x=distinct(2, 3, 4),
    ),
    *lines(
        """
        x.topk(2)
        x.topk(1, 0)
        x.topk(3, dim=1)
        x.topk(2, largest=False)
        x.topk(2, 1, largest=False)
        torch.topk(x, 2)
        torch.topk(x, 4, -1, True, True)
        x.topk(2).values.sum()
        x.topk(0)
        x.norm()
        x.norm(2)
        x.norm(1)
        x.norm(3)
        x.norm(float("inf"))
        x.norm(float("-inf"))
        x.norm(dim=1)
        x.norm(2, 1)
        x.norm(1, (0, 2))
        x.norm(2, (1, 2), True)
        x.norm(p=2, dim=-1, keepdim=True)
        torch.norm(x)
        torch.norm(x, 2, 0)
        x / x.norm(2, 1, keepdim=True)
        """,
        x=distinct(2, 3, 4),
    ),
    *lines(  # ties: amax and max() share the gradient evenly, max(dim) gives it to the index
        """
        x.max()
        x.min()
        x.amax()
        x.amax(0)
        x.amax((0, 1))
        x.amin((1, 2), keepdim=True)
        x.amin(2)
        x.max(1)
        x.max(-1).values
        x.min(0)
        x.min(2).indices
        x.argmax()
        x.argmax(1)
        x.argmin(-1)
        x.argmin(0, keepdim=True)
        """,
        x=ties(3, 4, 5),
    ),
    *lines(
        """
        x.logsumexp(0)
        x.logsumexp(1)
        x.logsumexp(-1, keepdim=True)
        x.logsumexp((0, 2))
        x.logsumexp((0, 1, 2))
        torch.logsumexp(x, 1)
        torch.logsumexp(x, (1, 2), keepdim=True)
        torch.logsumexp(x, dim=-1)
        (x * 30).logsumexp(1)
        (x.detach() * 300).logsumexp(1)
        (x - 2000).logsumexp(2)
        (x + 2000).logsumexp((0, 1))
        x.softmax(0)
        x.softmax(1)
        x.softmax(-1)
        x.softmax(dim=2)
        torch.softmax(x, 1)
        torch.softmax(x, dim=-1)
        F.softmax(x, 1)
        F.softmax(x, dim=-2)
        (x * 30).softmax(1)
        (x + 1000).softmax(-1)
        x.softmax() <=> x.softmax(-1)
        x.softmax((0, 1)) <=> x.flatten(0, 1).softmax(0).reshape(2, 3, 4)
        x.logsumexp() <=> x.logsumexp((0, 1, 2))
        x.log_softmax(0)
        x.log_softmax(1)
        x.log_softmax(-1)
        torch.log_softmax(x, 1)
        torch.log_softmax(x, dim=0)
        F.log_softmax(x, 1)
        F.log_softmax(x, dim=-1)
        (x * 300).log_softmax(2)
        (x - 1000).log_softmax(1)
        -(x.softmax(1) * x.log_softmax(1)).sum(1)
        x.softmax(1).log()
        x[:, :1].softmax(1)
        x[:, :1].log_softmax(1)
        x.softmax(1)[:, 0].sum()
        x.transpose(1, 2).softmax(1)
        x[:, ::2].log_softmax(-1)
        """,
        x=(2, 3, 4),
    ),
    *lines(  # one dimension, none, and sizes 1 and 0
        """
        v.sum(0)
        v.mean(-1)
        v.var()
        v.max(0)
        v.softmax(0)
        v.logsumexp(0)
        s.sum()
        s.mean()
        s.max()
        s.amax()
        s.argmax()
        s.var(correction=0)
        s.sum(0)
        s.sum(-1, keepdim=True)
        s.sum((0,))
        s.mean(0)
        s.max(0)
        s.min(-1)
        s.max(0, keepdim=True)
        s.amax(-1)
        s.amin((0,), keepdim=True)
        s.argmax(0)
        s.argmin(-1, keepdim=True)
        s.var(0, correction=0)
        s.logsumexp(0)
        s.logsumexp(-1, keepdim=True)
        s.softmax(0)
        s.log_softmax(-1)
        F.softmax(s, -1)
        s.all(0)
        s.any(-1)
        s.topk(1)
        s.topk(1, 0, False)
        s.norm(2, 0)
        s.norm(1, -1, True)
        s.transpose(0, -1)
        s.squeeze(0)
        s.flatten(0, -1)
        one.sum((0, 1), keepdim=True)
        one.mean(1)
        one.max(0)
        one.var(1, correction=0)
        one.softmax(1)
        none.sum()
        none.sum(0)
        none.sum(1)
        none.sum((0, 1), keepdim=True)
        none.mean(1)
        none.amax(1)
        none.max(1)
        none.softmax(1)
        none.softmax(0)
        none.log_softmax(0)
        none.logsumexp(1)
        none.all()
        none.any()
        none.var(1)
        """,
        v=(5,),
        s=(),
        one=(1, 1),
        none=(0, 3),
    ),
    *lines(  # memory in another order
        """
        x.transpose(0, 2).sum(0)
        x.permute(2, 0, 1).mean((0, 1))
        x[:, ::2].sum(1)
        x[..., 1:].var(2)
        x[:1].expand(3, -1, -1).sum(0)
        x.transpose(1, 2).amax((0, 1))
        x.permute(2, 0, 1).max(0)
        x.permute(1, 2, 0).logsumexp((0, 2))
        x.transpose(0, 1).argmax(2)
        """,
        x=distinct(2, 3, 4),
    ),
    *lines(  # infinities
        """
        torch.where(x > 0, x, float("-inf")).logsumexp(1)
        torch.where(x > 0, x, float("-inf")).softmax(1)
        torch.where(x > 0, x, float("-inf")).max(1)
        torch.where(x > 0, x, float("-inf")).amax(0)
        torch.where(x > 0, x, float("-inf")).sum(1)
        torch.where(x > 0, x, float("inf")).min(0)
        torch.where(x > 9, x, float("-inf")).detach().logsumexp(1)
        torch.where(x > 0, x, float("nan")).detach().max(1)
        torch.where(x > 0, x, float("nan")).detach().argmin()
        """,
        x=distinct(3, 4),
    ),
    *lines(  # integers and bools
        """
        i.sum()
        i.sum(0)
        i.sum((0, 1), keepdim=True)
        i.max()
        i.max(1)
        i.min(0, keepdim=True)
        i.amax(0)
        i.amin((0, 1))
        i.argmax()
        i.argmin(1)
        m.sum()
        m.sum(1)
        m.sum(0, keepdim=True)
        m.all()
        m.any()
        m.all(1)
        m.any(0)
        m.any(-1, keepdim=True)
        m.all((0, 1))
        m.all(dim=0)
        torch.all(m)
        torch.any(m)
        torch.any(m, 1)
        torch.all(m, dim=-1, keepdim=True)
        i.any()
        i.all(1) <=> i.bool().all(1)
        (i > 2).sum()
        (i > 2).sum(1)
        (i == i.max()).sum()
        m.max()
        """,
        i=whole(3, 4),
        m=mask(3, 4),
    ),
]

WRONG = [
    *lines(
        """
        x.sum(3)
        x.sum(-4)
        x.sum((0, 3))
        x.sum((0, 0))
        x.sum((1, -2))
        x.sum("0")
        x.sum(1.5)
        x.sum(0, 1, 2, 3)
        x.sum(dimension=1)
        x.mean(3)
        x.mean((0, -3))
        x.mean(0.5)
        i.mean()
        m.mean()
        i.mean(0)
        x.var(3)
        x.var((1, 1))
        i.var()
        x.std(-5)
        m.std()
        x.max(3)
        x.max(-4)
        x.max((0, 1))
        x.max(0.0)
        x.min(5)
        x.min((0, 1))
        x.amax(3)
        x.amax((0, 0))
        x.amin("all")
        x.argmax(3)
        x.argmax((0, 1))
        x.argmin(-4)
        x.argmax(1.0)
        x.softmax(3)
        x.softmax(-4)
        i.softmax(0)
        m.softmax(0)
        x.log_softmax(3)
        i.log_softmax(1)
        F.softmax(x, 7)
        F.log_softmax(x, -9)
        x.logsumexp(3)
        x.logsumexp((0, 0))
        x.all(3)
        x.any(-4)
        m.all((0, 0))
        none.max()
        none.min()
        none.max(0)
        none.amax()
        none.amax(0)
        none.amin((0, 1))
        none.argmax()
        none.argmax(0)
        none.argmin(0)
        torch.sum()
        torch.sum([1.0])
        torch.mean(2.0)
        torch.max(None)
        torch.softmax(1, 0)
        s.sum(1)
        s.sum(-2)
        s.sum((0, -1))
        s.max(1)
        s.argmin(-2)
        s.softmax(1)
        s.topk(2, 0)
        s.transpose(0, 1)
        s.flatten(1)
        s.squeeze(1)
        s.split(1)
        s.chunk(1)
        torch.cat([s, s])
        x.topk(5)
        x.topk(-1)
        x.topk(1, 3)
        x.topk(1.5)
        x.topk()
        x.norm(dim=3)
        x.norm("euclid")
        i.norm()
        """,
        x=(2, 3, 4),
        i=whole(2, 3),
        m=mask(2, 3),
        none=(0, 3),
        s=(),
    ),
]

# The mean and the variance of nothing, for which PyTorch gives NaN.
DIFFERENT = refusals(
    {
        "none.mean()": "expected at least one entry",
        "none.mean(0)": "expected at least one entry",
        "none.logsumexp(0)": "expected at least one entry",
        "one.var(0)": "Use correction=0 for the population variance",
        "one.std()": "expected more than 1 entries",
        "none.var(0)": "expected more than 1 entries",
        "i.logsumexp(0)": "expected a floating-point tensor",
    },
    none=(0, 3),
    one=(1, 1),
    i=whole(2, 3),
)


@pytest.mark.slow
@each(CASES, BOTH)
def test_values_and_derivatives(case, ways):
    compare(case, ways)


@each(WRONG)
def test_both_refuse(case):
    both_refuse(case)


@each(DIFFERENT)
def test_only_minires_refuses(case):
    only_ours_refuses(case)
