"""Cross entropy with all its options; dropout, by its statistics."""

from itertools import product

import numpy as np
import pytest
from parity.sides import (
    ALL,
    Ours,
    both_refuse,
    compare,
    each,
    lines,
    only_ours_refuses,
    positive,
    refusals,
    theirs,
    whole,
)


def sweep(pattern, *choices):
    """The pattern once for every combination of the choices, a line each."""
    return "\n".join(pattern.format(*row) for row in product(*choices))


REDUCTIONS = ['"mean"', '"sum"', '"none"']
TARGETS = {
    "x": (6, 4),
    "t": whole(6, high=4),
    "p": positive(6, 4) / positive(6, 4).sum(1, keepdims=True),
    "q": positive(6, 4),
}

CASES = [
    *lines(
        sweep(
            "F.cross_entropy(x, t, reduction={}, label_smoothing={}, ignore_index={})",
            REDUCTIONS,
            [0.0, 0.1, 1.0],
            [-100, 0, 2],
        ),
        **TARGETS,
    ),
    *lines(
        sweep(
            "F.cross_entropy(x, {}.detach(), reduction={}, label_smoothing={})",
            ["p", "q"],
            REDUCTIONS,
            [0.0, 0.3],
        ),
        **TARGETS,
    ),
    *lines(
        """
        F.cross_entropy(x, t)
        F.cross_entropy(x, p)  # a gradient for the probabilities, too
        F.cross_entropy(x, p, reduction="sum")
        F.cross_entropy(x, p, label_smoothing=0.2)
        F.cross_entropy(input=x, target=t)
        F.cross_entropy(x, x.argmax(1))
        F.cross_entropy(x, x.detach().softmax(1))
        F.cross_entropy(x[:1], t[:1])
        F.cross_entropy(x[:, :1], t * 0)
        F.cross_entropy(x[:0], t[:0], reduction="sum")
        F.cross_entropy(x[:0], t[:0], reduction="none")
        F.cross_entropy(x[::2], t[::2])
        F.cross_entropy(x[:, 1:], t.clamp(0, 2))
        F.cross_entropy(x.transpose(0, 1), t[:4])
        F.cross_entropy(x * 200, t)
        F.cross_entropy(x + 1000, t)
        F.cross_entropy(x - 1000, t, label_smoothing=0.1)
        F.cross_entropy(x * 0, t)
        F.cross_entropy(x, t) * 2 + F.cross_entropy(x, t, reduction="none").mean()
        F.cross_entropy(x, t, reduction="none")[2:].sum()
        F.cross_entropy(x.log_softmax(1), t)
        F.cross_entropy(x.relu(), t, label_smoothing=0.1)
        -x.log_softmax(1)[torch.arange(6), t].mean()
        torch.logsumexp(x, 1).mean() - x[torch.arange(6), t].mean()
        ((x - p) ** 2).mean()
        (x - p).abs().sum()
        """,
        **TARGETS,
    ),
    *lines(
        sweep(
            "F.nll_loss(x.log_softmax(1), t, reduction={}, ignore_index={})", REDUCTIONS, [-100, 2]
        ),
        **TARGETS,
    ),
    *lines(
        """
        F.nll_loss(x, t)
        F.nll_loss(x, t, x[0].detach() ** 2 + 0.1)
        F.nll_loss(x[:1], t[:1])
        F.nll_loss(x[:0], t[:0], reduction="sum")
        F.nll_loss(F.log_softmax(x, 1), x.argmax(1), reduction="none")
        F.nll_loss(x.transpose(0, 1), t[:4])
        """,
        **TARGETS,
    ),
    *lines(
        sweep("F.mse_loss(x, p.detach(), reduction={})", REDUCTIONS),
        **TARGETS,
    ),
    *lines(
        sweep(
            "F.binary_cross_entropy_with_logits(x, p.detach(), {}, {}reduction={})",
            ["None", "q.detach()", "q[0].detach()"],
            ["", "pos_weight=q[1].detach(), ", "pos_weight=q[:, :1].detach(), "],
            REDUCTIONS,
        ),
        **TARGETS,
    ),
    *lines(
        """
        F.mse_loss(x, p)  # a gradient for the target, too
        F.mse_loss(x, x)
        F.mse_loss(x, x.detach())
        F.mse_loss(input=x, target=p, reduction="sum")
        F.mse_loss(x[0, 0], p[0, 0])
        F.mse_loss(x.transpose(0, 1), p.transpose(0, 1))
        F.mse_loss(x[:0], p[:0], reduction="sum")
        F.mse_loss(x.relu(), p)
        F.binary_cross_entropy_with_logits(x, p)
        F.binary_cross_entropy_with_logits(x, torch.where(p > 0.2, torch.ones_like(p), 0))
        F.binary_cross_entropy_with_logits(x * 100, p.detach())
        F.binary_cross_entropy_with_logits(x * 0, p.detach())
        F.binary_cross_entropy_with_logits(x[0], p[0].detach())
        F.binary_cross_entropy_with_logits(x[:, 0], p[:, 0].detach(), reduction="none")
        """,
        **TARGETS,
    ),
    *lines(
        """
        F.dropout(x, 0.5, False)
        F.dropout(x, 0.5, training=False)
        F.dropout(x, training=False)
        F.dropout(x, 0.0)
        F.dropout(x, 0.0, training=True)
        F.dropout2d(x[..., None, None], 0.5, False)
        F.dropout2d(x[..., None, None], 0.0)
        F.dropout(x, 0.3, False) * x
        """,
        x=(3, 4),
    ),
]

WRONG = lines(
    """
    F.cross_entropy(x, t[:3])
    F.cross_entropy(x, t[:0])
    F.cross_entropy(x, t[:, None])
    F.cross_entropy(x, t[None])
    F.cross_entropy(x, t + 4)  # 0..3 are classes
    F.cross_entropy(x, t - 4)
    F.cross_entropy(x, t.double())
    F.cross_entropy(x, p[:, :3])
    F.cross_entropy(x, p[:3])
    F.cross_entropy(x, p[None])
    F.cross_entropy(x, x.argmax(1).double())
    F.cross_entropy(x, t, reduction="average")
    F.cross_entropy(x, t, reduction=None)
    F.cross_entropy(x, t, label_smoothing=1.5)
    F.cross_entropy(x, t, label_smoothing="a")
    F.cross_entropy(x, t, ignore_index="a")
    F.cross_entropy(x, None)
    F.cross_entropy(x, 3)
    F.cross_entropy(x)
    F.cross_entropy(None, t)
    F.cross_entropy(t, t)
    F.cross_entropy(x[0, 0], t)
    F.cross_entropy(x, t, smoothing=0.1)
    F.nll_loss(x, t[:3])
    F.nll_loss(x, t + 4)
    F.nll_loss(x, t - 4)
    F.nll_loss(x, t[:, None])
    F.nll_loss(x, p)
    F.nll_loss(x, t, reduction="average")
    F.nll_loss(x)
    F.mse_loss(x, t)
    F.mse_loss(x, p, reduction="average")
    F.mse_loss(x, p[:, :3])
    F.mse_loss(x)
    F.binary_cross_entropy_with_logits(x, p[:, :3])
    F.binary_cross_entropy_with_logits(x, p[0])
    F.binary_cross_entropy_with_logits(x, t)
    F.binary_cross_entropy_with_logits(x, p, reduction="average")
    F.binary_cross_entropy_with_logits(x, p, p[:, :3])
    F.binary_cross_entropy_with_logits(x, p, pos_weight=p[:4])
    F.binary_cross_entropy_with_logits(x)
    F.dropout(x, -0.1)
    F.dropout(x, 1.1)
    F.dropout(x, "half")
    F.dropout(x, None)
    F.dropout(t, 0.5)
    F.dropout()
    """,
    **TARGETS,
)

# Losses of shapes that would be broadcast, at most with a warning; a mean over no rows, which is
# NaN in PyTorch; less than no smoothing; mixed dtypes.
DIFFERENT = refusals(
    {
        "F.mse_loss(x, p[0])": "expected a target of shape (6, 4), got (4,)",
        "F.mse_loss(x[:, :1], p[:, 0])": "Reshape one of them, as in target.reshape(6, 1)",
        "F.mse_loss(x, p.float())": "expected one dtype",
        "F.mse_loss(x[:0], p[:0])": "expected at least one entry to average",
        "F.nll_loss(x, t * 0, ignore_index=0)": "expected at least one row to average",
        "F.cross_entropy(x[:0], t[:0])": "expected at least one row to average",
        "F.cross_entropy(x, t * 0, ignore_index=0)": "every label is ignore_index=0",
        "F.cross_entropy(x, t, label_smoothing=-0.1)": "label_smoothing a finite number",
        "F.cross_entropy(x, p.float())": "got float64 (6, 4) and float32 (6, 4)",
    },
    **TARGETS,
)


@pytest.mark.slow
@each(CASES, ALL)
@pytest.mark.filterwarnings("ignore:cross_entropy expects logits")
def test_values_and_derivatives(case, ways):
    compare(case, ways)


@each(WRONG)
def test_both_refuse(case):
    both_refuse(case)


@each(DIFFERENT)
def test_only_minires_refuses(case):
    only_ours_refuses(case)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("name", ["dropout", "dropout2d"])
def test_dropout_by_its_statistics(name, p):
    """The generators differ, so only what is true of any draw can be compared."""
    for side in (Ours("float64"), theirs()):
        x = side.tensor(np.ones((300, 100, 1, 2)))
        y = getattr(side.names["F"], name)(x, p, training=True)
        values = side.array(y)
        np.testing.assert_allclose(np.unique(values), [0, 1 / (1 - p)], rtol=1e-6)
        assert abs((values == 0).mean() - p) < 0.02  # 6 standard deviations
        whole_channels = (values[..., 0] == values[..., 1]).all()
        assert whole_channels == (name == "dropout2d")
        (gradient,) = side.grad(y.sum(), [x], None)
        np.testing.assert_allclose(side.array(gradient), values, rtol=1e-12)
