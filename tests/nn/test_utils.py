"""Clipping of gradients: by hand, against PyTorch, in training, and bad arguments."""

from __future__ import annotations

import math

import numpy as np
import pytest

import minires as mr
from minires import nn
from minires.errors import ArgumentError, NaNError
from minires.nn.utils import clip_grad_norm_, clip_grad_value_


def leaf(values, grad=None, dtype=np.float64):
    p = mr.tensor(np.array(values, dtype), requires_grad=True)
    if grad is not None:
        p.grad = mr.tensor(np.array(grad, dtype))
    return p


def test_by_hand():
    w, b, idle = leaf([1.0, 1.0], [3.0, 0.0]), leaf([[1.0]], [[-4.0]]), leaf([1.0])
    memory = w.grad.numpy()
    assert clip_grad_norm_([w, b, idle], 10).item() == 5
    assert (w.grad.tolist(), b.grad.tolist()) == ([3, 0], [[-4]])
    length = nn.utils.clip_grad_norm_((p for p in (w, b, idle)), max_norm=1.0)
    assert (length.item(), length.dtype, length.shape) == (5, np.float64, ())
    np.testing.assert_allclose(w.grad.numpy(), [0.6, 0], rtol=1e-6)
    np.testing.assert_allclose(b.grad.numpy(), [[-0.8]], rtol=1e-6)
    assert np.shares_memory(w.grad.numpy(), memory)
    assert idle.grad is None
    assert clip_grad_norm_(w, math.inf).item() == pytest.approx(0.6)
    assert clip_grad_norm_(idle, 1.0).item() == 0


def test_values_by_hand():
    w = leaf([1.0, 1.0, 1.0], [3.0, -0.5, -4.0])
    clip_grad_value_([w, leaf([1.0])], 1)
    assert w.grad.tolist() == [1, -0.5, -1]
    clip_grad_value_(w, 0.25)
    assert w.grad.tolist() == [0.25, -0.25, -0.25]


@pytest.mark.parametrize("norm_type", [1, 2.0, 3.5, math.inf])
@pytest.mark.parametrize("max_norm", [0.0, 0.7, 1e3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_parity_with_torch(norm_type, max_norm, dtype):
    torch = pytest.importorskip("torch")
    draws = np.random.default_rng(0)
    arrays = [draws.standard_normal(shape).astype(dtype) for shape in ((3, 4), (5,), (2, 1, 3, 3))]
    ours = [leaf(a, a, dtype) for a in arrays]
    theirs = [torch.tensor(a, requires_grad=True) for a in arrays]
    for p, a in zip(theirs, arrays):
        p.grad = torch.tensor(a)
    expected = torch.nn.utils.clip_grad_norm_(theirs, max_norm, norm_type)
    got = clip_grad_norm_(ours, max_norm, norm_type)
    assert got.dtype == np.dtype(dtype)
    tolerance = {"rtol": 1e-5 if dtype == "float32" else 1e-12}
    np.testing.assert_allclose(got.item(), expected.item(), **tolerance)
    for p, q in zip(ours, theirs):
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), **tolerance)
    torch.nn.utils.clip_grad_value_(theirs, 0.1)
    clip_grad_value_(ours, 0.1)
    for p, q in zip(ours, theirs):
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), **tolerance)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_spreads_or_is_an_error(bad):
    w, b = leaf([1.0, 1.0], [bad, 1.0]), leaf([1.0], [2.0])
    with pytest.raises(NaNError, match=r"finite gradients, got a 2-norm of (nan|inf)\. minires"):
        clip_grad_norm_([w, b], 1.0, error_if_nonfinite=True)
    assert b.grad.tolist() == [2]
    clip_grad_norm_([w, b], 1.0)
    assert math.isnan(w.grad.numpy()[0])
    assert b.grad.item() == 0 if bad == math.inf else math.isnan(b.grad.item())


def test_in_a_training_step():
    mr.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(18, 2))
    optimizer = mr.optim.SGD(net.parameters(), lr=1.0)
    (net(mr.randn(4, 1, 5, 5)) * 100).square().sum().backward()
    before = [p.detach().clone() for p in net.parameters()]
    assert clip_grad_norm_(net.parameters(), 0.01).item() > 1
    optimizer.step()
    moved = [(p - q).norm().item() for p, q in zip(net.parameters(), before)]
    assert np.linalg.norm(moved) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(
    ("parameters", "options", "words"),
    [
        (nn.Linear(2, 2), {}, "a tensor or an iterable of them, got Linear. Pass model.parameters"),
        (3, {}, "clip_grad_norm_: expected a tensor or an iterable of them, got int"),
        ([], {}, "at least one parameter, got none. A generator can be walked through only once"),
        ([1.0], {}, "clip_grad_norm_: expected tensors, got float"),
        (
            [leaf([1.0])],
            {"max_norm": -1},
            "clip_grad_norm_: expected max_norm a number >= 0, got -1",
        ),
        ([leaf([1.0])], {"max_norm": math.nan}, "expected max_norm a number >= 0, got nan"),
        ([leaf([1.0])], {"max_norm": "x"}, "expected max_norm a number >= 0, got 'x'"),
        ([leaf([1.0], [1.0])], {"norm_type": 0}, "expected norm_type a number >= 1"),
    ],
)
def test_bad_arguments(parameters, options, words):
    with pytest.raises(ArgumentError, match=words):
        clip_grad_norm_(parameters, **{"max_norm": 1.0, **options})


def test_bad_clip_value():
    with pytest.raises(
        ArgumentError, match=r"clip_grad_value_: expected clip_value a number >= 0, got -0\.5"
    ):
        clip_grad_value_([leaf([1.0])], -0.5)
