"""Batch, layer and group normalisation: modes, statistics, momentum, eps, what is fused."""

from itertools import product

import pytest
from parity.sides import (
    ALL,
    both_refuse,
    compare,
    each,
    lines,
    only_ours_refuses,
    positive,
    refusals,
    whole,
)

TRAINED = "m = m.detach(); v = v.detach(); y = F.batch_norm({}, m, v, {}, True, {}, {}); [y, m, v]"
EVALUATED = "F.batch_norm({}, m.detach(), v.detach(), {}, False, 0.1, {})"

CASES = [
    *lines(  # in training: the output, and the running statistics afterwards
        "\n".join(
            TRAINED.format(x, affine, momentum, eps)
            for (x, affine), (momentum, eps) in product(
                [("x", "w, b"), ("x", "None, None"), ("r", "w, b"), ("x", "w, None")],
                [(0.1, 1e-5), (0.0, 1e-5), (1.0, 1e-5), (0.3, 0.1)],
            )
        ),
        x=(3, 4, 5, 2),
        r=(6, 4),
        m=(4,),
        v=positive(4),
        w=(4,),
        b=(4,),
    ),
    *lines(  # in evaluation: the running statistics are numbers
        "\n".join(
            EVALUATED.format(x, affine, eps)
            for x, affine, eps in product(
                ["x", "r", "x[:1]"], ["w, b", "None, None", "w, None"], [1e-5, 0.5]
            )
        ),
        x=(3, 4, 5, 2),
        r=(6, 4),
        m=(4,),
        v=positive(4),
        w=(4,),
        b=(4,),
    ),
    *lines(  # the batch's statistics, none are kept
        """
        F.batch_norm(x, None, None, training=True)
        F.batch_norm(x, None, None, w, b, True)
        F.batch_norm(x, None, None, w, b, True, 0.1, 1.0)
        F.batch_norm(x, None, None, weight=w, bias=b, training=True, momentum=0.5, eps=1e-3)
        F.batch_norm(x * 100 + 3, None, None, w, b, True)
        F.batch_norm(x * 1e-3, None, None, w, b, True)
        F.batch_norm(x[:1], None, None, w, b, True)
        F.batch_norm(x[:2, :, :1, :1], None, None, w, b, True, 0.1, 0.1)
        F.batch_norm(x[:, :1], None, None, w[:1], b[:1], True)
        F.batch_norm(x.transpose(2, 3), None, None, w, b, True)
        F.batch_norm(x[:, :, ::2], None, None, w, b, True)
        F.batch_norm(x.permute(0, 3, 1, 2)[:, :4], None, None, w, b, True)
        F.batch_norm(x[:1].expand(2, -1, -1, -1) * 1, None, None, w, b, True)
        F.batch_norm(x, None, None, w[:1].expand(4), b, True)
        F.batch_norm(x.detach(), None, None, w, b, True)
        F.batch_norm(x, None, None, w.detach(), b, True)
        F.batch_norm(x, None, None, w, b.detach(), True)
        F.batch_norm(x.flatten(1)[:, :4], None, None, w, b, True)
        F.batch_norm(x[..., 0, 0], None, None, w, b, True, 0.1, 0.1)
        """,
        x=(3, 4, 3, 4),
        w=(4,),
        b=(4,),
    ),
    *lines(  # what follows in a residual network
        """
        F.batch_norm(x, None, None, w, b, True).relu()
        F.batch_norm(x, None, None, w, b, True) + x
        (F.batch_norm(x, None, None, w, b, True) + x).relu()
        (x + F.batch_norm(x, None, None, w, b, True)).relu()
        (F.batch_norm(x, None, None, w, b, True) + F.batch_norm(z, None, None, b, w, True)).relu()
        y = F.batch_norm(x, None, None, w, b, True); y += z; y.relu_()
        y = F.batch_norm(x, None, None, w, b, True); [y.relu(), y.mean()]
        y = F.batch_norm(x, None, None, w, b, True); y * y
        y = F.batch_norm(x, None, None, w, b, True).relu(); y + y.mean((0, 2, 3), keepdim=True)
        F.batch_norm(F.batch_norm(x, None, None, w, b, True).relu(), None, None, w, b, True)
        F.batch_norm(x + z, None, None, w, b, True).relu()
        F.batch_norm(x.relu(), None, None, w, b, True)
        F.batch_norm(x, m.detach(), v.detach(), w, b).relu()
        (F.batch_norm(x, m.detach(), v.detach(), w, b) + z).relu()
        (F.batch_norm(x, m.detach(), v.detach(), w, b) + x).relu() * 2
        F.batch_norm(x, None, None, w, b, True).mean((2, 3))
        F.batch_norm(x, None, None, w, b, True).flatten(1)
        F.adaptive_avg_pool2d(F.batch_norm(x, None, None, w, b, True).relu(), 1)
        F.max_pool2d(F.batch_norm(x, None, None, w, b, True).relu(), 2)
        F.batch_norm(x, None, None, w, b, True).sum()
        F.batch_norm(x, None, None, w, b, True)[:, 1:].relu()
        """,
        x=(2, 3, 4, 3),
        z=(2, 3, 4, 3),
        m=(3,),
        v=positive(3),
        w=(3,),
        b=(3,),
    ),
    *lines(  # each sample by itself
        """
        F.layer_norm(x, 5) <=> F.layer_norm(x, (5,))
        F.layer_norm(x, (5,))
        F.layer_norm(x, [5])
        F.layer_norm(x, (4, 5))
        F.layer_norm(x, (6, 4, 5))
        F.layer_norm(x, (2, 6, 4, 5))
        F.layer_norm(x, (5,), u)
        F.layer_norm(x, (5,), u, v)
        F.layer_norm(x, (5,), None, v) <=> F.layer_norm(x, (5,)) + v  # which fails there
        F.layer_norm(x, (5,), u, v, 0.1)
        F.layer_norm(x, (4, 5), s, t, eps=1e-3)
        F.layer_norm(x[0, 0], (5,), u, v)
        F.layer_norm(x[0, 0, 0], (5,), u, v)
        F.layer_norm(x[:, :, :, :1], (1,), u[:1], v[:1])
        F.layer_norm(x.transpose(2, 3), (4,), s[:, 0])
        F.layer_norm(x * 100 + 7, (5,), u, v)
        F.layer_norm(x[:0], (5,), u, v)
        F.layer_norm(x.relu(), (4, 5)).relu()
        F.group_norm(x, 1)
        F.group_norm(x, 2)
        F.group_norm(x, 3)
        F.group_norm(x, 6)
        F.group_norm(x, 2, w)
        F.group_norm(x, 3, w, b)
        F.group_norm(x, 3, None, b) <=> F.group_norm(x, 3) + b[:, None, None]
        F.group_norm(x, 6, w, b, 0.1)
        F.group_norm(x, 2, weight=w, bias=b, eps=1e-3)
        F.group_norm(x[..., 0], 2, w, b)
        F.group_norm(x[..., 0, 0], 2, w, b)
        F.group_norm(x[..., None], 3, w, b)
        F.group_norm(x.transpose(2, 3), 3, w, b)
        F.group_norm(x[:1, :, :1, :1], 2, w, b)
        F.group_norm(x * 100 + 7, 2, w, b)
        F.group_norm(x, 2, w, b).relu() + x
        """,
        x=(2, 6, 4, 5),
        u=(5,),
        v=(5,),
        s=(4, 5),
        t=(4, 5),
        w=(6,),
        b=(6,),
    ),
]

WRONG = lines(
    """
    F.batch_norm(x, None, None, w[:2], b, True)
    F.batch_norm(x, None, None, w, b[:2], True)
    F.batch_norm(x, m[:2].detach(), v.detach())
    F.batch_norm(x, m.detach(), v[:2].detach())
    F.batch_norm(x, m[:2].detach(), v[:2].detach(), training=True)
    F.batch_norm(x[:1, :, :1, :1], None, None, w, b, True)  # one value for a variance
    F.batch_norm(x[:1, :, 0, 0], None, None, w, b, True)
    F.batch_norm(x[0, 0, 0], None, None, training=True)
    F.batch_norm(x, m.detach(), v.detach(), w.float(), b)
    F.batch_norm(x.float(), m.detach(), v.detach(), w, b)
    F.batch_norm(i, m.detach(), v.detach())
    F.batch_norm(x)
    F.batch_norm(None, m, v)
    F.batch_norm(x, m.detach(), v.detach(), w, b, True, "fast")
    F.batch_norm(x, m.detach(), v.detach(), w, b, True, 0.1, "small")
    F.batch_norm(x, 0.0, 1.0)
    F.batch_norm(x, m.detach(), v.detach(), 1.0, 0.0)
    F.batch_norm(x, None, None, w, b, True, variance=1)
    """,
    x=(2, 3, 4, 5),
    i=whole(2, 3, 4, 5),
    m=(3,),
    v=positive(3),
    w=(3,),
    b=(3,),
)

WRONG += lines(
    """
    F.layer_norm(x, (4,))
    F.layer_norm(x, (6, 5))
    F.layer_norm(x, (3, 2, 6, 4, 5))
    F.layer_norm(x, ())
    F.layer_norm(x)
    F.layer_norm(x, (5,), w)
    F.layer_norm(x, (5,), None, w)
    F.layer_norm(x, (4, 5), w[:5])
    F.layer_norm(x, "5")
    F.layer_norm(x, None)
    F.layer_norm(x, (5,), w[:5].float())
    F.layer_norm(i, (5,))
    F.group_norm(x, 4)
    F.group_norm(x, 0)
    F.group_norm(x, -2)
    F.group_norm(x, 12)
    F.group_norm(x, 2.0)
    F.group_norm(x, None)
    F.group_norm(x)
    F.group_norm(x, 2, w[:5])
    F.group_norm(x, 2, w, w[:2])
    F.group_norm(x, 2, w.float())
    F.group_norm(x[0, 0, 0], 1)
    F.group_norm(i, 2)
    """,
    x=(2, 6, 4, 5),
    i=whole(2, 6, 4, 5),
    w=(6,),
)

# eps and momentum that make no sense, and shapes that the network families here do not have.
DIFFERENT = refusals(
    {
        "F.batch_norm(x, m.detach(), v.detach(), w, b, True, 1.5)": "momentum a finite number",
        "F.batch_norm(x, m.detach(), v.detach(), w, b, True, -0.1)": "momentum a finite number",
    },
    x=(2, 3, 4, 5),
    m=(3,),
    v=positive(3),
    w=(3,),
    b=(3,),
)


@pytest.mark.slow
@each(CASES, ALL)
def test_values_and_derivatives(case, ways):
    compare(case, ways)


@each(WRONG)
def test_both_refuse(case):
    both_refuse(case)


@each(DIFFERENT)
def test_only_minires_refuses(case):
    only_ours_refuses(case)
