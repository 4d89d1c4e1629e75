"""NaN and infinity go where the definitions let them, and nowhere else.

Programs are drawn at random: an operation, its options, operands of ordinary numbers, and a NaN or
an infinity or two planted into one of them. What comes out, forward and backward, must be NaN, plus
or minus infinity, or an ordinary number, each in the very places that the definition says.
"""

from __future__ import annotations

import numpy as np
import pytest
from harness import host, on, place, tensor, there

import minires as mr
from minires.kernels.epilogue import Epilogue
from minires.kernels.numba.vector import INTERPRETED
from minires.kernels.operand import GATED, GRADIENT, NORMALISED, PASSED, PLAIN, RECTIFIED, Operand
from minires.kernels.packed import PackedWeights
from minires.ops.conv2d import Conv2dGeometry, kernel_numpy, numba_direct

SPECIAL = (np.nan, np.inf, -np.inf)
CASES = 5 if INTERPRETED else 40  # of each test
ON_A_GPU = 10  # and there: for each geometry there may be a kernel to compile
TOLERANCE = {"float32": 2e-4, "float64": 1e-10}


def cases():
    return range(CASES if place() == "cpu" else ON_A_GPU)


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
    kernels = mr.backend("auto" if backend == "cuda" else backend)
    with kernels, mr.precise(), np.errstate(all="ignore"):
        tensors = [there(a).requires_grad_() for a in operands]
        if fused:
            y = function(*tensors)
        else:
            with mr.no_fusion():
                y = function(*tensors)
        return [host(t) for t in (y, *mr.grad(y, tensors, there(gy)))]


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


@pytest.mark.slow
@pytest.mark.parametrize("planted", ["x", "w", "b", "gy", "all"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_conv2d(dtype, planted, anywhere):
    rng = np.random.default_rng([1, ord(planted[0])])
    for case in cases():
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
        found = run(lambda *t, o=options: mr.conv2d(*t, **o), arrays, laid_out(rng, gy), anywhere)
        for name, first, second in zip(("y", "gx", "gw", "gb"), found, expected):
            agree(first, second, dtype, (case, name, g))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_conv_transpose2d(dtype, anywhere):
    rng = np.random.default_rng(2)
    done = 0
    while done < len(cases()):
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
        found = run(lambda *t, o=options: mr.conv_transpose2d(*t, **o), (x, w), gy, anywhere)
        for name, first, second in zip(("y", "gx", "gw"), found, (y, gx, gw)):
            agree(first, second, dtype, (done, name, g))


# ----------------------------------------------------------- fused: sources, residual, ReLU, counts


def source(rng, x, kind):
    """An operand that stands for an x of the same kinds of values, and that operand written out."""
    if kind == PLAIN:
        return x
    c = x.shape[-1]
    k = rng.standard_normal((5, c)).astype(x.dtype)
    y = rng.standard_normal(x.shape).astype(x.dtype) if kind >= GRADIENT else None
    if y is not None and rng.integers(2):
        plant(rng, y)
    return Operand(x, kind, k, y)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [PLAIN, NORMALISED, RECTIFIED, GRADIENT, GATED, PASSED])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_fused_kernels(dtype, kind):
    rng = np.random.default_rng([3, kind])
    for case in cases():
        g, _ = drawn_convolution(rng)
        x, w, b, gy = drawn(rng, g, dtype)
        residual = rng.standard_normal(gy.shape).astype(dtype)
        for _ in range(rng.integers(1, 3)):
            plant(rng, (x, w, b, gy, residual)[rng.integers(5)])
        x, gy, residual = (np.ascontiguousarray(a.transpose(0, 2, 3, 1)) for a in (x, gy, residual))
        more = {"relu": bool(rng.integers(2)), "residual": residual if rng.integers(2) else None}
        x, gy = source(rng, x, kind), source(rng, gy, kind)
        results = []
        for kernels in (kernel_numpy, numba_direct):
            y = np.empty((g.n, g.h_out, g.w_out, g.c_out), dtype)
            gx, gw = np.empty((g.n, g.h_in, g.w_in, g.c_in), dtype), np.empty(w.shape, dtype)
            moments = np.empty((2, g.c_out), dtype)
            with np.errstate(all="ignore"):
                kernels.conv2d_fwd(
                    x, PackedWeights(w, b), y, g, Epilogue(**more, statistics=tuple(moments))
                )
                kernels.conv2d_bwd_input(gy, w, gx, g)
                kernels.conv2d_bwd_weight(gy, x, gw, g)
            results.append((y, gx, gw, moments))
        *expected, moments = results[0]
        for name, first, second in zip(("y", "gx", "gw"), results[1], expected):
            agree(first, second, dtype, (case, name, more["relu"], g))
        spoiled = [~np.isfinite(m).all(0) for m in (results[1][3], moments)]  # channels
        np.testing.assert_array_equal(*spoiled, err_msg=str((case, g)))


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_fused_blocks(dtype, training, device):
    """A residual block, fused, one operation at a time, and on the references."""
    rng = np.random.default_rng(4)
    for case in cases():
        c, n, size = int(rng.choice([2, 16, 17])), int(rng.integers(1, 4)), rng.integers(2, 7, 2)
        shapes = (n, c, *size), (c, c, 3, 3), (c,), (c,), (c, c, 1, 1)
        operands = [rng.standard_normal(s).astype(dtype) for s in shapes]
        gy = rng.standard_normal(shapes[0]).astype(dtype)
        mean, var = rng.standard_normal(c).astype(dtype), rng.random(c).astype(dtype) + 0.5
        planted = operands[rng.integers(len(operands))] if rng.integers(3) else gy
        plant(rng, planted)

        def block(x, w, weight, bias, w1, mean=mean, var=var):
            y = mr.conv2d(x, w, padding=1)
            running = tensor(mean), tensor(var)
            y = mr.ops.batch_norm(y, *running, weight, bias, training=training)
            return mr.conv2d(mr.relu(y + x), w1)

        with on("cpu"):
            expected = run(block, operands, gy, "numpy")
        for fused in (True, False):
            found = run(block, operands, gy, "auto", fused)
            for i, (first, second) in enumerate(zip(found, expected)):
                agree(first, second, dtype, (case, fused, i))


# ------------------------------------------------------------------------------------- other layers


def mean_window(x, kernel, stride, padding, counted):
    """Average pooling, one window at a time: y of x (n, c, h, w), and gx of gy."""
    (k_h, k_w), (s_h, s_w), (p_h, p_w) = kernel, stride, padding
    h, w = x.shape[2:]
    h_out, w_out = (h + 2 * p_h - k_h) // s_h + 1, (w + 2 * p_w - k_w) // s_w + 1
    for i, j in np.ndindex(h_out, w_out):
        rows = [r for r in range(i * s_h - p_h, i * s_h - p_h + k_h) if 0 <= r < h]
        columns = [q for q in range(j * s_w - p_w, j * s_w - p_w + k_w) if 0 <= q < w]
        yield i, j, rows, columns, k_h * k_w if counted else len(rows) * len(columns)


def pooled(rng):
    kernel = tuple(map(int, rng.integers(1, 4, 2)))
    stride = tuple(map(int, rng.integers(1, 4, 2)))
    padding = tuple(int(rng.integers(0, k // 2 + 1)) for k in kernel)
    shape = (int(rng.integers(1, 4)), int(rng.choice([1, 3, 16, 19])), *rng.integers(3, 9, 2))
    return tuple(map(int, shape)), kernel, stride, padding


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_avg_pool2d(dtype, anywhere):
    rng = np.random.default_rng(5)
    for case in cases():
        shape, kernel, stride, padding = pooled(rng)
        counted = bool(rng.integers(2))
        x = rng.standard_normal(shape).astype(dtype)
        plant(rng, x)
        windows = list(mean_window(x, kernel, stride, padding, counted))
        y = np.zeros((*shape[:2], windows[-1][0] + 1, windows[-1][1] + 1))
        gy, gx = rng.standard_normal(y.shape).astype(dtype), np.zeros(shape)
        plant(rng, gy)
        with np.errstate(all="ignore"):
            for i, j, rows, columns, count in windows:
                window = np.ix_(range(shape[0]), range(shape[1]), rows, columns)
                y[:, :, i, j] = x[window].sum((2, 3)) / count
                gx[window] += gy[:, :, i, j, None, None] / count
        options = {"stride": stride, "padding": padding, "count_include_pad": counted}
        found = run(lambda t, k=kernel, o=options: mr.avg_pool2d(t, k, **o), [x], gy, anywhere)
        for first, second in zip(found, (y, gx)):
            agree(first, second, dtype, (case, shape, kernel, options))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_max_pool2d(dtype, anywhere):
    """The largest of each window; a NaN is larger than any number, and the last one counts."""
    rng = np.random.default_rng(6)
    for case in cases():
        shape, kernel, stride, padding = pooled(rng)
        x = rng.integers(-3, 3, shape).astype(dtype)  # with ties
        plant(rng, x, 4)
        windows = list(mean_window(x, kernel, stride, padding, False))
        y = np.zeros((*shape[:2], windows[-1][0] + 1, windows[-1][1] + 1))
        gy, gx = rng.standard_normal(y.shape).astype(dtype), np.zeros(shape)
        plant(rng, gy)
        for i, j, rows, columns, _ in windows:
            for n, c in np.ndindex(shape[:2]):
                best = None
                for h in rows:
                    for w in columns:
                        value = x[n, c, h, w]
                        if best is None or value > x[n, c, *best] or np.isnan(value):
                            best = h, w
                y[n, c, i, j] = x[n, c, *best]
                gx[n, c, *best] += gy[n, c, i, j]
        options = {"stride": stride, "padding": padding}
        found = run(lambda t, k=kernel, o=options: mr.max_pool2d(t, k, **o), [x], gy, anywhere)
        for first, second in zip(found, (y, gx)):
            agree(first, second, dtype, (case, shape, kernel, options))


@pytest.mark.slow
@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_batch_norm(dtype, training, rectified, anywhere):
    rng = np.random.default_rng(7)
    for case in cases():
        shape = (int(rng.integers(2, 5)), int(rng.choice([1, 3, 16, 19])), *rng.integers(1, 6, 2))
        if rng.integers(3) == 0:
            shape = (int(rng.integers(9, 20)), shape[1])
        c, axes = shape[1], (0, 2, 3)[: len(shape) - 1]
        column = (c, 1, 1)[: len(shape) - 1]
        x, gy = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
        w, b, mean = (rng.standard_normal(c).astype(dtype) for _ in range(3))
        var = rng.random(c).astype(dtype) + 0.5
        for _ in range(rng.integers(1, 3)):
            plant(rng, (x, gy, w, b)[rng.integers(4)])
        with np.errstate(all="ignore"):  # the formulas of the op, in float64
            X, GY = x.astype(np.float64), gy.astype(np.float64)
            m = np.asarray(mean, np.float64).reshape(column)
            v = np.asarray(var, np.float64).reshape(column)
            if training:
                m, v = X.mean(axes, keepdims=True)[0], X.var(axes, keepdims=True)[0]
            x_hat, scale = (X - m) / np.sqrt(v + 1e-5), w.reshape(column) / np.sqrt(v + 1e-5)
            y = w.reshape(column) * x_hat + b.reshape(column)
            if rectified:
                GY, y = np.where(y <= 0, 0, GY), np.where(y <= 0, 0, y)
            gb, gw = GY.sum(axes), (GY * x_hat).sum(axes)
            gx = scale * GY
            if training:
                count = X.size // c
                inner = GY - gb.reshape(column) / count - x_hat * gw.reshape(column) / count
                gx = scale * inner

        def layer(x, w, b, mean=mean, var=var):
            y = mr.ops.batch_norm(x, tensor(mean), tensor(var), w, b, training=training)
            return mr.relu(y) if rectified else y

        for fused in (True, False):
            found = run(layer, [laid_out(rng, x), w, b], gy, anywhere, fused)
            for name, first, second in zip(("y", "gx", "gw", "gb"), found, (y, gx, gw, gb)):
                agree(first, second, dtype, (case, name, shape, fused))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_relu_and_linear(dtype, anywhere):
    rng = np.random.default_rng(8)
    for case in cases():
        m, k, n = (int(size) for size in rng.choice([1, 2, 3, 15, 16, 17, 33, 65], 3))
        x, w, b, gy = (rng.standard_normal(s).astype(dtype) for s in ((m, k), (n, k), (n,), (m, n)))
        x[x < -1] = 0
        for _ in range(rng.integers(1, 3)):
            plant(rng, (x, w, b, gy)[rng.integers(4)])
        with np.errstate(all="ignore"):
            X, W, GY = (a.astype(np.float64) for a in (x, w, gy))
            z = np.einsum("mk,nk->mn", X, W) + b
            g = np.where(z <= 0, 0, GY)
            y, gx = np.where(z <= 0, 0, z), np.einsum("mn,nk->mk", g, W)
            expected = y, gx, np.einsum("mn,mk->nk", g, X), g.sum(0)
        found = run(lambda *t: mr.relu(mr.nn.functional.linear(*t)), [x, w, b], gy, anywhere)
        for name, first, second in zip(("y", "gx", "gw", "gb"), found, expected):
            agree(first, second, dtype, (case, name, m, k, n))
