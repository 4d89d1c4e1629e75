"""Dropout: what is kept is scaled, what is dropped gets no gradient, the seed decides."""

from __future__ import annotations

import numpy as np
import pytest
from harness import host, tensor, there

import minires as mr
from minires.errors import ArgumentError, DTypeError, ShapeError


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_kept_entries_are_scaled(p, dtype, device):
    x = there(np.arange(1, 10_001).reshape(100, 100).astype(dtype)).requires_grad_()
    before = host(x).copy()
    y = mr.dropout(x, p)
    assert y.dtype == dtype
    kept = host(y) != 0
    np.testing.assert_allclose(host(y)[kept], host(x)[kept] / (1 - p), rtol=1e-6)
    assert abs(kept.mean() - (1 - p)) < 0.02
    (g,) = mr.grad(y.sum(), x)
    np.testing.assert_allclose(host(g), kept / (1 - p), rtol=1e-6)
    assert g.dtype == dtype
    np.testing.assert_array_equal(host(x), before)


def test_the_seed_decides(device):
    x = mr.ones(50, device=device)
    mr.manual_seed(4)
    first = mr.dropout(x).tolist()
    assert mr.dropout(x).tolist() != first
    mr.manual_seed(4)
    assert mr.dropout(x).tolist() == first
    one, other = (mr.dropout(x, generator=np.random.default_rng(9)).tolist() for _ in range(2))
    assert one == other


def test_off(device):
    x = mr.ones(3, device=device)
    assert mr.dropout(x, 0.5, training=False) is x
    assert mr.dropout(x, 0) is x
    assert mr.dropout(x, 1).tolist() == [0, 0, 0]
    assert mr.dropout(x, 1.0).tolist() == [0, 0, 0]


def test_shapes_and_layouts(device):
    assert mr.dropout(mr.ones(0, 3, device=device)).shape == (0, 3)
    assert mr.dropout(tensor(1.0)).shape == ()
    x = there(np.ones((4, 6))[::2, ::-1])
    assert set(np.unique(host(mr.dropout(x, 0.5)))) <= {0.0, 2.0}


@pytest.mark.parametrize(
    ("act", "error", "words"),
    [
        (
            lambda: mr.dropout(mr.ones(2), -0.1),
            ArgumentError,
            "dropout: expected p a finite number >= 0 and <= 1",
        ),
        (lambda: mr.dropout(mr.ones(2), 1.1), ArgumentError, "got 1.1"),
        (lambda: mr.dropout(mr.ones(2), float("nan")), ArgumentError, "got nan"),
        (lambda: mr.dropout(mr.ones(2), "0.5"), ArgumentError, "got '0.5'"),
        (lambda: mr.dropout(mr.ones(2), 2, training=False), ArgumentError, "got 2"),
        (lambda: mr.dropout(mr.tensor([1])), DTypeError, "dropout: expected a floating-point"),
    ],
)
def test_errors(act, error, words):
    with pytest.raises(error, match=words):
        act()


def test_whole_channels_are_dropped(device):
    x = mr.ones(50, 40, 3, 2, device=device)
    y = host(mr.dropout2d(x, 0.25))
    channels = y.reshape(50, 40, 6)
    assert (channels == channels[..., :1]).all()
    kept = channels[..., 0] > 0
    assert kept.mean() == pytest.approx(0.75, abs=0.03)
    np.testing.assert_allclose(channels[kept], 4 / 3, rtol=1e-6)
    assert mr.dropout2d(x, 0.25, training=False) is x
    assert not host(mr.dropout2d(x, 1.0)).any()


def test_dropout2d_draws_from_its_generator(device):
    x = mr.ones(4, 8, 2, 2, device=device)
    first, second = (mr.dropout2d(x, generator=mr.Generator().manual_seed(3)) for _ in range(2))
    assert np.array_equal(host(first), host(second))


def test_dropout2d_errors():
    with pytest.raises(ArgumentError, match="dropout2d: expected p a finite number"):
        mr.dropout2d(mr.ones(1, 1, 1, 1), 2)
    with pytest.raises(ShapeError, match=r"dropout2d: .* or \(c, h, w\), got \(3, 2\)"):
        mr.dropout2d(mr.ones(3, 2))
