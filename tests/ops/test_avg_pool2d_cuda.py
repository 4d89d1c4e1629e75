"""Average pooling on a GPU: its kernels against the reference."""

from __future__ import annotations

import numpy as np
import pytest
from gpu import put
from harness import raises

from minires.device import device_of, memory
from minires.errors import ShapeError
from minires.kernels.cuda import allocate, memory_pool, packs, taking_from
from minires.ops.avg_pool2d import AvgPool2dGeometry, kernel_numpy
from minires.ops.avg_pool2d import kernel_cuda as cuda

WINDOWS, ADAPTIVE = AvgPool2dGeometry.from_windows, AvgPool2dGeometry.adaptive
# id: x (n, c, h, w), and options: kernel, stride, padding, ceil_mode, count_include_pad
CASES = {
    "global": (ADAPTIVE, (3, 8, 8, 8), 1),
    "global_odd": (ADAPTIVE, (2, 5, 7, 9), 1),
    "one_of_all": (ADAPTIVE, (1, 1, 1, 1), 1),
    "adaptive": (ADAPTIVE, (2, 4, 7, 5), (3, 2)),
    "adaptive_larger": (ADAPTIVE, (1, 3, 2, 3), (5, 4)),
    "padded": (WINDOWS, (2, 4, 7, 6), 3, 2, 1, False, True),
    "padding_not_counted": (WINDOWS, (2, 3, 7, 6), (3, 2), (2, 1), 1, True, False),
    "stride_above_kernel": (WINDOWS, (1, 8, 9, 7), 2, (4, 3), 0, False, True),
    "many_windows": (WINDOWS, (1, 20, 9, 11), 5, 1, 2, False, True),
    "empty": (ADAPTIVE, (0, 4, 3, 3), 1),
}
TOLERANCE = {"float32": 1e-6, "float64": 1e-14}


def both(case, dtype):
    """(y, gx) of the kernels, and of the reference."""
    make, *given = CASES[case]
    g, rng = make(*given), np.random.default_rng(0)
    h_out, w_out = g.scale.shape
    x = rng.standard_normal((g.n, g.h_in, g.w_in, g.c)).astype(dtype) + 100
    gy = rng.standard_normal((g.n, h_out, w_out, g.c)).astype(dtype)
    if x.size > 8:
        x.flat[3], x.flat[7], gy.flat[1] = np.nan, np.inf, -np.inf
    outputs = []
    for module, there in ((cuda, put), (kernel_numpy, np.asarray)):
        y, gx = there(np.full_like(gy, 7)), there(np.full_like(x, 7))
        with np.errstate(all="ignore"):
            module.avg_pool2d_fwd(there(x), y, g)
            module.avg_pool2d_bwd_x(there(gy), gx, g)
        outputs.append((y, gx))
    return [a.get() for a in outputs[0]], outputs[1]


def check(found, expected, dtype):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", CASES)
def test_kernels_are_the_reference(case, dtype, conditions):
    check(*both(case, dtype), dtype)


def test_more_images_than_one_launch_reaches(on_gpu, monkeypatch):
    monkeypatch.setattr(packs, "MOST", 2 * 8 * 8 * 8)
    check(*both("global", "float32"), "float32")
    monkeypatch.setattr(packs, "MOST", 8 * 8 * 8 - 1)
    with raises(ShapeError, "avg_pool2d: expected images of at most 511 entries", "got 512"):
        both("global", "float32")


def test_tables_outlive_the_graph_that_asks_first(on_gpu):
    """Windows are looked up in tables that are made once, outside of a graph's own memory."""
    g, pool = ADAPTIVE((2, 3, 6, 5), 2), memory_pool()
    x = put(np.ones((2, 6, 5, 3), np.float32))
    with taking_from(pool):
        y = allocate((2, 2, 2, 3), x.dtype)
        cuda.avg_pool2d_fwd(x, y, g)
        gx = allocate(x.shape, x.dtype)
        cuda.avg_pool2d_bwd_x(y, gx, g)
    assert pool.owns(memory(y))
    tables = cuda._windows(g, device_of(x)), *cuda._holders(g, x.dtype, device_of(x))
    assert not any(pool.owns(memory(table)) for table in tables)
