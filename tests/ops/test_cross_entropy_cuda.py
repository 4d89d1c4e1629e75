"""Cross entropy on a GPU: the kernels against the reference, and labels that nobody could check."""

from __future__ import annotations

import numpy as np
import pytest
from gpu import put

from minires.ops.cross_entropy import kernel_cuda as cuda
from minires.ops.cross_entropy import kernel_numpy as reference

TOLERANCES = {"float32": {"rtol": 3e-6, "atol": 1e-6}, "float64": {"rtol": 1e-12, "atol": 1e-13}}


def both(module, place, x, labels, g, smoothing, ignore=-100):
    """Losses and gradient, by one module; memory for them is full of other numbers before."""
    losses, gx = place(np.full(len(x), 7, x.dtype)), place(np.full_like(x, 7))
    with np.errstate(all="ignore"):
        module.cross_entropy_fwd(place(x), place(labels), smoothing, ignore, losses)
        module.cross_entropy_bwd_x(place(g), place(x), place(labels), smoothing, ignore, gx)
    return losses, gx


def check(x, labels, g, smoothing, ignore=-100):
    found = both(cuda, put, x, labels, g, smoothing, ignore)
    expected = both(reference, np.asarray, x, labels, g, smoothing, ignore)
    for a, b in zip(found, expected):
        np.testing.assert_allclose(a.get(), b, **TOLERANCES[x.dtype.name])
    return [a.get() for a in found]


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("classes", [1, 3, 32, 33, 100])
def test_kernels_are_the_reference(dtype, classes, conditions):
    rng = np.random.default_rng(classes)
    x = (5 * rng.standard_normal((9, classes))).astype(dtype)
    labels = rng.integers(0, classes, 9)
    labels[2] = -100
    for smoothing in (0, 0.1, 1):
        check(x, labels, rng.standard_normal(9).astype(dtype), smoothing)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("smoothing", [0, 0.1, 1])
def test_rows_at_the_limits(dtype, smoothing, on_gpu):
    x = np.zeros((10, 5), dtype)
    x[1, 2] = np.inf
    x[2, 2] = x[3, 0] = -np.inf  # ruled out: the label itself, and another class
    x[4] = -np.inf
    x[5, 4] = np.nan
    x[6, 1], x[7, 1] = 1e4, -1e4
    x[8] += 3e38
    labels = np.array([0, 2, 2, 2, 2, 2, 1, 1, 0, 3])
    g = np.ones(10, dtype)
    g[9] = np.inf if smoothing < 1 else 1  # else times a 0 that is exact here, and there is not
    check(x, labels, g, smoothing)


def test_a_confident_row_keeps_its_digits(on_gpu):
    """Beside a single maximum the loss is log(1 + rest), however small the rest is."""
    x = np.array([[0, -30, -31]], np.float32)
    losses, gx = check(x, np.array([0]), np.ones(1, np.float32), 0)
    rest = np.exp(-30.0) + np.exp(-31.0)
    np.testing.assert_allclose(losses[0], rest, rtol=1e-6)
    np.testing.assert_allclose(gx[0, 0], -rest, rtol=1e-6)


def test_many_classes_lose_no_digits(on_gpu):
    x = np.full((1, 70_001), -1, np.float32)
    x[0, 0] = 0
    losses, _ = check(x, np.array([0]), np.ones(1, np.float32), 0.1)
    log_sum = np.log1p(70_000 * np.exp(-1.0))
    np.testing.assert_allclose(losses[0], log_sum + 0.1 * 70_000 / 70_001, rtol=2e-7)


def test_an_ignored_label_may_be_a_class(on_gpu):
    x, labels = np.zeros((3, 4), np.float32), np.array([0, 2, 1])
    losses, gx = check(x, labels, np.ones(3, np.float32), 0, ignore=2)
    assert losses[1] == 0
    assert not gx[1].any()


@pytest.mark.parametrize("label", [-1, 4, 2**40, -(2**63)])
def test_a_label_that_is_no_class_is_nan(label, conditions):
    """It is not looked up: the checked run would notice."""
    x, labels = np.zeros((3, 4), np.float32), np.array([0, label, 1])
    losses, gx = both(cuda, put, x, labels, np.ones(3, np.float32), 0.1)
    assert np.isnan(losses.get()).tolist() == [False, True, False]
    assert np.isnan(gx.get()).all(1).tolist() == [False, True, False]


def test_no_rows(on_gpu):
    both(cuda, put, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, "f"), 0)
