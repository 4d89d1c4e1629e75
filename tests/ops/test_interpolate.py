"""Resizing: by hand, adjoints, infinities, memory order; values against PyTorch: tests/parity."""

from __future__ import annotations

import numpy as np
import pytest

import minires as mr
from minires import nn
from minires.errors import ArgumentError, DTypeError, MiniresError, ShapeError
from minires.nn import functional as F


def test_by_hand():
    x = mr.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    assert F.interpolate(x, (2, 4))[0, 0].tolist() == [[1, 1, 2, 2], [3, 3, 4, 4]]
    assert F.interpolate(x, 3, mode="bilinear", align_corners=True)[0, 0].tolist() == [
        [1, 1.5, 2],
        [2, 2.5, 3],
        [3, 3.5, 4],
    ]
    assert F.interpolate(x, 1, mode="bilinear").item() == 2.5
    assert F.interpolate(x, 1).item() == 1


def test_gradients_go_back_to_where_the_entries_came_from():
    x = mr.zeros(1, 1, 5, requires_grad=True)
    F.interpolate(x, 2).sum().backward()
    assert x.grad.tolist() == [[[1, 0, 1, 0, 0]]]
    x.grad = None
    F.interpolate(x, 12).sum().backward()
    assert x.grad.tolist() == [[[3, 2, 3, 2, 2]]]


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_the_backward_pass_is_the_adjoint(mode):
    rng = np.random.default_rng(0)
    for old, new in [((5, 3), (2, 7)), ((1, 4), (6, 1)), ((3, 3), (3, 3)), ((7, 2), (3, 40))]:
        x = mr.tensor(rng.standard_normal((2, 3, *old)), requires_grad=True)
        y = F.interpolate(x, new, mode=mode)
        gy = mr.tensor(rng.standard_normal(y.shape))
        y.backward(gy)
        left, right = (y * gy).sum().item(), (x * x.grad).sum().item()
        assert left == pytest.approx(right, rel=1e-12, abs=1e-12)


def test_an_infinite_entry_stays_where_it_is():
    x = mr.zeros(1, 1, 4, 4)
    x[0, 0, 1, 1] = float("inf")
    y = F.interpolate(x, scale_factor=2).numpy()[0, 0]
    assert np.isinf(y).sum() == 4
    assert not np.isnan(y).any()
    x = mr.zeros(1, 1, 6, requires_grad=True)
    gy = mr.tensor([[[0.0, float("inf"), 0.0]]])
    F.interpolate(x, 3).backward(gy)
    assert x.grad.tolist() == [[[0, 0, float("inf"), 0, 0, 0]]]


def test_a_sum_of_many_gradients_is_right_to_the_last_digits():
    x = mr.zeros(1, 1, 1, requires_grad=True)
    gy = np.random.default_rng(0).random((1, 1, 10_000)).astype("float32")
    F.interpolate(x, 10_000).backward(mr.tensor(gy))
    assert x.grad.item() == pytest.approx(gy.sum(dtype="float64"), rel=1e-7)


def test_memory_is_channels_last_and_the_input_is_only_read():
    x = mr.randn(2, 3, 4, 5)
    before = x.numpy().copy()
    for size in ((4, 5), (8, 3)):
        y = F.interpolate(x, size)
        assert y._array.transpose(0, 2, 3, 1).flags.c_contiguous
        assert not np.shares_memory(y.numpy(), x.numpy())
    np.testing.assert_array_equal(x.numpy(), before)


def test_a_captured_step_with_resizing():
    x = mr.randn(2, 3, 4, 5)
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Upsample((5, 7), mode="bilinear"))

    def step(x):
        net.zero_grad()
        (net(x) ** 2).sum().backward()
        return net[0].weight.grad

    expected = step(x).numpy().copy()
    captured = mr.capture(step, net)
    for _ in range(4):
        np.testing.assert_array_equal(captured(x).numpy(), expected)


IMAGES = mr.zeros(1, 1, 4, 4)
WRONG = [
    ((IMAGES,), {}, ArgumentError, "either size or scale_factor, got none"),
    ((IMAGES, 2, 2.0), {}, ArgumentError, "either size or scale_factor, got both"),
    ((IMAGES, 0), {}, ArgumentError, "size of integers >= 1, got 0"),
    ((IMAGES, 2.5), {}, ArgumentError, "size of integers >= 1, got 2.5"),
    ((IMAGES, (1, 2, 3)), {}, ArgumentError, "size a number, or one for each of 2 axes"),
    ((IMAGES, None, (1.0,)), {}, ArgumentError, "scale_factor a number, or one for each of 2"),
    (
        (IMAGES, None, float("nan")),
        {},
        ArgumentError,
        "scale_factor of finite numbers > 0, got nan",
    ),
    ((IMAGES, None, 0.1), {}, ArgumentError, r"leaves each of \(4, 4\) at least 1.*got 0\.1"),
    ((IMAGES, None, 1e300), {}, ArgumentError, "at most 2147483647, got 1e\\+300"),
    ((IMAGES, 2), {"align_corners": False}, ArgumentError, "align_corners only for linear and bil"),
    (
        (IMAGES, 2),
        {"mode": "bicubic"},
        ArgumentError,
        "unknown mode 'bicubic'. Known: bilinear, linear, nearest",
    ),
    ((IMAGES, 2), {"mode": "linear"}, ShapeError, r'\(n, c, l\) for mode="linear".*Use mode="bil'),
    ((IMAGES[0], 2), {"mode": "bilinear"}, ShapeError, r'\(n, c, h, w\).*Use mode="linear"\.'),
    ((IMAGES, 2), {"recompute_scale_factor": True}, ArgumentError, "only with scale_factor, got"),
    ((IMAGES[:, :, :0], 2), {}, ShapeError, "an image with pixels"),
    ((IMAGES.long(), 2), {}, DTypeError, r"floating-point tensor, got int64\. Use x\.float"),
    (("x", 2), {}, DTypeError, "a tensor, got str"),
    ((IMAGES, 2), {"antialias": True}, ArgumentError, "antialias=False, got True"),
    ((IMAGES, 2), {"antialias": 1}, ArgumentError, "antialias True or False, got 1"),
]


@pytest.mark.parametrize(("args", "options", "error", "words"), WRONG)
def test_wrong_calls(args, options, error, words):
    with pytest.raises(error, match=f"interpolate: .*{words}|{words}") as caught:
        F.interpolate(*args, **options)
    assert isinstance(caught.value, MiniresError)
