"""NaN and infinity go where the definitions let them, and nowhere else.

Programs are drawn at random: an operation, its options, operands of ordinary numbers, and a NaN or
an infinity or two planted into one of them. What comes out, forward and backward, must be NaN, plus
or minus infinity, or an ordinary number, each in the very places that the definition says.
"""

from __future__ import annotations

import numpy as np
import pytest

import minires as mr
from minires.kernels.simd import INTERPRETED
from minires.ops.conv2d import Conv2dGeometry

SPECIAL = (np.nan, np.inf, -np.inf)
CASES = 5 if INTERPRETED else 40  # of each test
TOLERANCE = {"float32": 2e-4, "float64": 1e-10}


def kinds(array):
    """0 for an ordinary number, 1 and -1 for the infinities, 2 for NaN."""
    array = np.asarray(array)
    return np.where(np.isnan(array), 2, np.where(np.isinf(array), np.sign(array), 0))


def agree(found, expected, dtype, told):
    """Each entry of the same kind; ordinary numbers near to each other."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape, told
    np.testing.assert_array_equal(kinds(found), kinds(expected), err_msg=str(told))
    ordinary = kinds(expected) == 0
    scale = np.abs(expected[ordinary]).max(initial=1)
    distance = np.abs(found[ordinary] - expected[ordinary]).max(initial=0)
    assert distance <= TOLERANCE[dtype] * scale, told


def plant(rng, array, count=1):
    for _ in range(count):
        array.flat[rng.integers(array.size)] = rng.choice(SPECIAL)


def laid_out(rng, array):
    """The same values in another memory order: as they are, channels last, or every other one."""
    if array.ndim != 4 or rng.integers(3) == 0:
        return array
    if rng.integers(2):
        return np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    wide = np.zeros((*array.shape[:3], 2 * array.shape[3]), array.dtype)
    wide[..., ::-2] = array
    return wide[..., ::-2]


def run(function, operands, gy, backend, fused=True):
    """y, and the gradients of the operands."""
    with mr.backend(backend), mr.precise(), np.errstate(all="ignore"):
        tensors = [mr.from_numpy(a).requires_grad_() for a in operands]
        if fused:
            y = function(*tensors)
        else:
            with mr.no_fusion():
                y = function(*tensors)
        return [t.data for t in (y, *mr.grad(y, tensors, mr.from_numpy(gy)))]


# ------------------------------------------------------------------------------------ convolution


def taps(g):
    """Each tap, with the pixels of y that meet an x under it, and these x: tables of indices."""

    def meeting(size, outputs, k, stride, padding, dilation):
        i = np.arange(outputs)
        h = i * stride - padding + k * dilation
        return i[(h >= 0) & (h < size)], h[(h >= 0) & (h < size)]

    for u, v in np.ndindex(g.k_h, g.k_w):
        i, h = meeting(g.h_in, g.h_out, u, g.stride[0], g.padding[0], g.dilation[0])
        j, k = meeting(g.w_in, g.w_out, v, g.stride[1], g.padding[1], g.dilation[1])
        for group in range(g.groups):
            o = np.arange(g.c_out // g.groups) + group * (g.c_out // g.groups)
            c = np.arange(g.c_in // g.groups) + group * (g.c_in // g.groups)
            n = np.arange(g.n)
            yield (o, slice(None), u, v), np.ix_(n, o, i, j), np.ix_(n, c, h, k)


def convolution(x, w, gy, g):
    """The definition: y without bias, gx, gw, of products of x, w and gy that there are."""
    x, w, gy = (a.astype(np.float64) for a in (x, w, gy))
    y, gx, gw = np.zeros(gy.shape), np.zeros(x.shape), np.zeros(w.shape)
    for tap, out, inside in taps(g):
        y[out] += np.einsum("nchw,oc->nohw", x[inside], w[tap])
        gx[inside] += np.einsum("nohw,oc->nchw", gy[out], w[tap])
        gw[tap] += np.einsum("nohw,nchw->oc", gy[out], x[inside])
    return y, gx, gw


def drawn_convolution(rng):
    """A geometry, and its options."""
    while True:
        groups = int(rng.choice([1, 1, 2, 3]))
        c_in, c_out = (groups * int(k) for k in rng.choice([1, 2, 3, 9, 17], 2))
        if rng.integers(6) == 0:
            groups = c_out = c_in  # depthwise
        stride, dilation, padding = (
            tuple(map(int, rng.integers(*bounds, 2))) for bounds in ((1, 4), (1, 3), (0, 4))
        )
        kernel, size = rng.integers(1, 5, 2), rng.integers(1, 11, 2)
        reach = dilation * (kernel - 1) + 1 - 2 * np.array(padding)
        if (reach <= size).all():
            break
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    x, w = (int(rng.integers(1, 4)), c_in, *size), (c_out, c_in // groups, *kernel)
    x, w = tuple(map(int, x)), tuple(map(int, w))
    return Conv2dGeometry.from_shapes(x, w, **options), options


def drawn(rng, g, dtype):
    """x, w, b, gy"""
    shapes = (
        (g.n, g.c_in, g.h_in, g.w_in),
        (g.c_out, g.c_in // g.groups, g.k_h, g.k_w),
        (g.c_out,),
        (g.n, g.c_out, g.h_out, g.w_out),
    )
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


@pytest.mark.parametrize("planted", ["x", "w", "b", "gy", "all"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_conv2d(dtype, planted, backend):
    rng = np.random.default_rng([1, ord(planted[0])])
    for case in range(CASES):
        g, options = drawn_convolution(rng)
        operands = dict(zip(("x", "w", "b", "gy"), drawn(rng, g, dtype)))
        for name, array in operands.items():
            if planted in (name, "all"):
                plant(rng, array, int(rng.integers(1, 4)))
        x, w, b, gy = operands.values()
        with np.errstate(all="ignore"):
            y, gx, gw = convolution(x, w, gy, g)
            expected = y + b[:, None, None], gx, gw, gy.astype(np.float64).sum((0, 2, 3))
        arrays = [laid_out(rng, x), laid_out(rng, w), b]
        found = run(lambda *t, o=options: mr.conv2d(*t, **o), arrays, laid_out(rng, gy), backend)
        for name, first, second in zip(("y", "gx", "gw", "gb"), found, expected):
            agree(first, second, dtype, (case, name, g))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_conv_transpose2d(dtype, backend):
    rng = np.random.default_rng(2)
    done = 0
    while done < CASES:
        g, options = drawn_convolution(rng)
        gy, w, _, x = drawn(rng, g, dtype)  # the operands of the convolution back
        plant(rng, (x, w, gy)[rng.integers(3)])
        again = [(n - 1) * s - 2 * p + d * (k - 1) + 1 for n, s, p, d, k in zip(
            (g.h_out, g.w_out), g.stride, g.padding, g.dilation, (g.k_h, g.k_w))]  # fmt: skip
        more = [n - m for n, m in zip((g.h_in, g.w_in), again)]
        if any(m >= max(s, d) for m, s, d in zip(more, g.stride, g.dilation)):
            continue
        done += 1
        options["output_padding"] = tuple(more)
        with np.errstate(all="ignore"):
            gx, y, gw = convolution(gy, w, x, g)
        found = run(lambda *t, o=options: mr.conv_transpose2d(*t, **o), (x, w), gy, backend)
        for name, first, second in zip(("y", "gx", "gw"), found, (y, gx, gw)):
            agree(first, second, dtype, (done, name, g))
