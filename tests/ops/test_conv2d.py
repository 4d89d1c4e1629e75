"""Convolution: the definition in seven loops, every geometry on every backend, and errors."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from harness import (
    LAYOUTS,
    against_torch,
    arrays,
    check_gradients,
    check_op,
    host,
    raises,
    tensor,
    zeros,
)

import minires as mr
from minires.errors import ArgumentError, DTypeError, ShapeError
from minires.ops.conv2d import Conv2dGeometry

# id: x, w, options
CASES = {
    "plain": ((2, 3, 5, 7), (4, 3, 3, 3), {}),
    "padded": ((2, 3, 5, 7), (4, 3, 3, 3), {"padding": 1}),
    "one_of_all": ((1, 1, 1, 1), (1, 1, 1, 1), {}),
    "batch_1": ((1, 4, 6, 3), (2, 4, 3, 2), {"padding": (1, 0)}),
    "channel_1": ((3, 1, 4, 6), (5, 1, 2, 3), {}),
    "pointwise": ((2, 5, 4, 3), (7, 5, 1, 1), {}),
    "pointwise_strided": ((2, 5, 5, 4), (7, 5, 1, 1), {"stride": 2}),
    "row_kernel": ((2, 3, 4, 9), (2, 3, 1, 5), {"padding": (0, 2)}),
    "strided": ((2, 3, 8, 7), (4, 3, 3, 3), {"stride": 2, "padding": 1}),
    "strides_differ": ((2, 3, 9, 8), (4, 3, 3, 2), {"stride": (3, 2), "padding": (2, 1)}),
    "stride_above_kernel": ((2, 3, 11, 10), (4, 3, 2, 3), {"stride": (4, 5)}),
    "padding_above_kernel": ((2, 3, 3, 4), (4, 3, 2, 3), {"padding": (3, 4)}),
    "one_pixel": ((3, 4, 1, 1), (5, 4, 3, 3), {"padding": 1}),
    "leftover": ((2, 3, 8, 10), (4, 3, 3, 3), {"stride": 3}),
    "dilated": ((2, 3, 9, 8), (4, 3, 3, 2), {"dilation": (2, 3), "padding": (2, 1)}),
    "dilated_strided": ((1, 2, 11, 9), (3, 2, 3, 3), {"dilation": 2, "stride": 3, "padding": 3}),
    "groups": ((2, 6, 5, 4), (4, 3, 3, 3), {"groups": 2, "padding": 1}),
    "depthwise": ((2, 5, 6, 4), (5, 1, 3, 3), {"groups": 5, "padding": 1}),
    "depthwise_doubled": ((2, 3, 6, 4), (6, 1, 3, 3), {"groups": 3, "stride": 2}),
    "above_a_tile": ((1, 17, 3, 11), (33, 17, 3, 3), {"padding": 1}),
    "empty_batch": ((0, 3, 5, 4), (4, 3, 3, 3), {"padding": 1}),
}
SMALL = ("padded", "strides_differ", "dilated_strided", "depthwise_doubled", "padding_above_kernel")


def conv(options):
    return lambda x, w, b=None: mr.conv2d(x, w, b, **options)


def seven_loops(x, w, b, stride, padding, dilation, groups):
    """The definition, one multiplication at a time."""
    g = Conv2dGeometry.from_shapes(x.shape, w.shape, stride, padding, dilation, groups)
    y = np.zeros((g.n, g.c_out, g.h_out, g.w_out))
    per_group = g.c_out // g.groups
    for n, o, i, j in np.ndindex(y.shape):
        y[n, o, i, j] = b[o]
        for c, u, v in np.ndindex(w.shape[1:]):
            h = i * g.stride[0] + u * g.dilation[0] - g.padding[0]
            k = j * g.stride[1] + v * g.dilation[1] - g.padding[1]
            if 0 <= h < g.h_in and 0 <= k < g.w_in:
                channel = o // per_group * w.shape[1] + c
                y[n, o, i, j] += w[o, c, u, v] * x[n, channel, h, k]
    return y


def seven_loops_back(x, w, gy, stride, padding, dilation, groups):
    """gx and gw, one multiplication at a time."""
    g = Conv2dGeometry.from_shapes(x.shape, w.shape, stride, padding, dilation, groups)
    gx, gw, per_group = np.zeros(x.shape), np.zeros(w.shape), g.c_out // g.groups
    for n, o, i, j in np.ndindex(gy.shape):
        for c, u, v in np.ndindex(w.shape[1:]):
            h = i * g.stride[0] + u * g.dilation[0] - g.padding[0]
            k = j * g.stride[1] + v * g.dilation[1] - g.padding[1]
            if 0 <= h < g.h_in and 0 <= k < g.w_in:
                channel = o // per_group * w.shape[1] + c
                gx[n, channel, h, k] += w[o, c, u, v] * gy[n, o, i, j]
                gw[o, c, u, v] += gy[n, o, i, j] * x[n, channel, h, k]
    return gx, gw


@pytest.mark.parametrize("planted", range(3))
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", SMALL)
def test_the_reference_skips_the_padding(name, bad, planted):
    """Padding adds nothing, also where 0 times the other factor would be NaN."""
    x, w, options = CASES[name]
    full = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, **options}
    g = Conv2dGeometry.from_shapes(x, w, **full)
    x, w, gy = arrays(x, w, (g.n, g.c_out, g.h_out, g.w_out))
    operand = (x, w, gy)[planted]
    operand.flat[operand.size // 3] = bad
    with mr.backend("numpy"), np.errstate(all="ignore"):
        tensors = [mr.tensor(a, requires_grad=True) for a in (x, w)]
        y = mr.conv2d(*tensors, **options)
        gradients = mr.grad(y, tensors, mr.tensor(gy))
        expected = [seven_loops(x, w, np.zeros(w.shape[0]), **full)]
        expected += seven_loops_back(x, w, gy, **full)
    for found, right in zip((y, *gradients), expected):
        np.testing.assert_allclose(found.data, right, rtol=1e-12, atol=1e-12)


def test_conv2d_by_hand(anywhere):
    x = tensor([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]])
    w = tensor([[[[1.0, 10.0]]]])
    assert mr.conv2d(x, w).tolist() == [[[[21.0, 32.0], [54.0, 65.0]]]]
    assert mr.conv2d(x, w, tensor([0.5]), padding=(0, 1), stride=(1, 2)).tolist() == [
        [[[10.5, 32.5], [40.5, 65.5]]]
    ]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_conv2d_is_its_definition(case, anywhere):
    x_shape, w_shape, options = case
    x, w, b = arrays(x_shape, w_shape, w_shape[:1])
    full = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, **options}
    y = mr.conv2d(tensor(x), tensor(w), tensor(b), **options)
    np.testing.assert_allclose(host(y), seven_loops(x, w, b, **full), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_conv2d_against_reference(case, dtype, device):
    x, w, options = case
    check_op(conv(options), arrays(x, w, w[:1]), dtype)
    check_op(conv(options), arrays(x, w), dtype)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_conv2d_any_strides(layout, anywhere):
    x, w = arrays((2, 4, 5, 6), (3, 4, 3, 2))
    check_op(conv({"stride": 2, "padding": 1}), [layout(x), layout(w)])


@pytest.mark.slow
@pytest.mark.gpu_cases(only=["strides_differ", "depthwise_doubled"])
@pytest.mark.parametrize("name", SMALL)
def test_conv2d_gradients(name, anywhere):
    x, w, options = CASES[name]
    x, w = (1, *x[1:]), w
    check_gradients(conv(options), arrays(x, w, w[:1]), second=name != "strides_differ")


def test_conv2d_third_order():
    # the family is closed: the derivative of the derivative of the derivative exists
    x, w = (mr.tensor(a, requires_grad=True) for a in arrays((1, 2, 4, 3), (2, 2, 3, 2)))
    (gx,) = mr.grad((mr.conv2d(x, w, padding=1) ** 2).sum(), x, create_graph=True)
    (gw,) = mr.grad((gx**2).sum(), w, create_graph=True)
    (ggx,) = mr.grad((gw**2).sum(), x)
    assert np.abs(ggx.data).max() > 0


def test_conv2d_threads_do_not_show():
    limit = mr.get_num_threads()
    x, w = (a.astype(np.float32) for a in arrays((5, 7, 9, 8), (20, 7, 3, 3)))
    results = []
    try:
        for threads in range(1, limit + 1):
            mr.set_num_threads(threads)
            tensors = [mr.tensor(v, requires_grad=True) for v in (x, w)]
            y = mr.conv2d(*tensors, padding=1)
            results.append([y.data, *(g.data for g in mr.grad((y * y).sum(), tensors))])
    finally:
        mr.set_num_threads(limit)
    for result in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(results[0], result))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_conv2d_lets_nan_and_inf_through(bad, anywhere):
    x, w = arrays((1, 2, 5, 5), (3, 2, 3, 3))
    x[0, 1, 2, 2] = bad
    y = host(mr.conv2d(tensor(x), tensor(w)))
    assert not np.isfinite(y).any()  # every window holds the bad pixel
    clean = host(mr.conv2d(tensor(x), tensor(w), padding=1))
    assert np.isfinite(clean[:, :, 0]).all()


def test_conv2d_wants_only_what_is_asked(monkeypatch):
    from minires.ops.conv2d import kernel_numba

    called = []
    for name in ("conv2d_bwd_input", "conv2d_bwd_weight"):
        real = getattr(kernel_numba, name)
        monkeypatch.setattr(
            kernel_numba,
            name,
            lambda *args, real=real, name=name: (called.append(name), real(*args)),
        )
    x, w = arrays((1, 2, 4, 4), (2, 2, 3, 3))
    mr.conv2d(mr.tensor(x), mr.tensor(w, requires_grad=True)).sum().backward()
    assert called == ["conv2d_bwd_weight"]
    called.clear()
    mr.conv2d(mr.tensor(x, requires_grad=True), mr.tensor(w)).sum().backward()
    assert called == ["conv2d_bwd_input"]


X, W = (2, 3, 5, 6), (4, 3, 3, 3)
ERRORS = {
    "channels": (X, (4, 5, 3, 3), {}, ShapeError, ["x.shape[1] == w.shape[1] * groups", "3 and 5"]),
    "nhwc": ((2, 5, 6, 3), W, {}, ShapeError, ["looks like (n, h, w, c)", "permute(0, 3, 1, 2)"]),
    "groups": ((2, 6, 5, 5), (4, 2, 3, 3), {"groups": 2}, ShapeError, ["6 and 4"]),
    "groups_out": ((2, 6, 5, 5), (5, 3, 3, 3), {"groups": 2}, ShapeError, ["w.shape[0] divisible"]),
    "groups_0": (X, W, {"groups": 0}, ArgumentError, ["groups an integer >= 1, got 0"]),
    "two_dims": ((5, 5), W, {}, ShapeError, ["x (n, c, h, w)", "(5, 5)"]),
    "too_small": ((2, 3, 2, 5), W, {}, ShapeError, ["no larger than the padded input", "(2, 5)"]),
    "stride_0": (X, W, {"stride": 0}, ArgumentError, ["stride an integer >= 1", "got 0"]),
    "padding": (X, W, {"padding": -1}, ArgumentError, ["padding an integer >= 0", "got -1"]),
    "dilation": (X, W, {"dilation": (1, 2, 3)}, ArgumentError, ["dilation", "(1, 2, 3)"]),
    "stride_float": (X, W, {"stride": 1.5}, ArgumentError, ["stride", "1.5"]),
}


@pytest.mark.parametrize("case", ERRORS.values(), ids=ERRORS)
def test_conv2d_errors(case, device):
    x, w, options, kind, words = case
    with raises(kind, "conv2d: expected", *words):
        mr.conv2d(zeros(x), zeros(w), **options)


def test_conv2d_dtype_errors(device):
    with raises(DTypeError, "conv2d", "uint8", ".float()"):
        mr.conv2d(zeros(X, dtype="uint8"), zeros(W))
    with raises(DTypeError, "one dtype", "float64", "float32", "astype"):
        mr.conv2d(zeros(X, dtype="float64"), zeros(W))
    with raises(ShapeError, "b of shape (4,)", "(3,)"):
        mr.conv2d(zeros(X), zeros(W), zeros(3))


def test_multiply_adds():
    g = Conv2dGeometry.from_shapes((2, 6, 8, 7), (4, 3, 3, 3), 1, 1, 1, 2)
    assert g.multiply_adds == 2 * 8 * 7 * 4 * 27


PARITY = [name for name in CASES if name != "empty_batch"]


@pytest.mark.parametrize("name", PARITY)
def test_parity_conv2d(name):
    x, w, options = CASES[name]
    against_torch(
        conv(options),
        lambda *t: __import__("torch").nn.functional.conv2d(*t, **options),
        arrays(x, w, w[:1]),
    )


def test_every_phase_is_covered():
    """The input gradient's phases write each pixel exactly once."""
    from minires.ops.conv2d.numba_plan import backward_axis

    for size, k, stride, padding, dilation in itertools.product(
        (1, 5, 6), (1, 3), (1, 2, 4), (0, 2), (1, 2)
    ):
        seen = [0] * size
        for phase in backward_axis(size, k, stride, padding, dilation).phases:
            for i in range(phase.count):
                seen[phase.start + i * stride] += 1
        assert seen == [1] * size


@pytest.mark.parametrize("name", ["stride", "padding", "dilation"])
def test_a_size_beyond_any_memory(name):
    with raises(ArgumentError, f"expected {name} of at most 2147483647, got 2147483648"):
        mr.conv2d(mr.zeros(1, 2, 5, 5), mr.zeros(3, 2, 3, 3), **{name: 2**31})


@pytest.mark.parametrize("wrong", [(2.0, 2.0), (True, True), [1.0, 1], 2.0, True])
def test_a_size_is_an_integer_also_after_an_equal_one_was_seen(wrong):
    """Geometries are memoised by their options, and 2.0 and True equal integers."""
    x, w = mr.ones(1, 1, 8, 8), mr.ones(1, 1, 2, 2)
    for right in (1, 2, (1, 1), (2, 2), [1, 1], np.int64(2)):
        mr.conv2d(x, w, stride=right)
        mr.max_pool2d(x, 2, stride=right)
        mr.avg_pool2d(x, 2, stride=right)
    with raises(ArgumentError, "conv2d", "stride an integer >= 1"):
        mr.conv2d(x, w, stride=wrong)
    with raises(ArgumentError, "max_pool2d", "stride an integer >= 1"):
        mr.max_pool2d(x, 2, stride=wrong)
    with raises(ArgumentError, "avg_pool2d", "stride an integer >= 1"):
        mr.avg_pool2d(x, 2, stride=wrong)
    with raises(ArgumentError, "groups an integer >= 1"):
        mr.conv2d(x, w, groups=True)
