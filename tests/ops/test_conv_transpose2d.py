"""Transposed convolution: against loops, against the gradient it is made of, and PyTorch."""

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
    place,
    raises,
    tensor,
    there,
)

import minires as mr
from minires.errors import ArgumentError, DTypeError, ShapeError


def brute_force(
    x, w, b=None, stride=(1, 1), padding=(0, 0), more=(0, 0), dilation=(1, 1), groups=1
):
    """Every pixel of x adds its multiple of the kernel to y."""
    (n, c_in, h, k), (_, c_out, k_h, k_w) = x.shape, w.shape
    size = [
        (m - 1) * s - 2 * p + d * (t - 1) + e + 1
        for m, s, p, d, t, e in zip((h, k), stride, padding, dilation, (k_h, k_w), more)
    ]
    y = np.zeros((n, c_out * groups, *size))
    for i, c, a, e in np.ndindex(n, c_in, h, k):
        group = c // (c_in // groups)
        for o, u, v in np.ndindex(c_out, k_h, k_w):
            row = a * stride[0] + u * dilation[0] - padding[0]
            column = e * stride[1] + v * dilation[1] - padding[1]
            if 0 <= row < size[0] and 0 <= column < size[1]:
                y[i, group * c_out + o, row, column] += x[i, c, a, e] * w[c, o, u, v]
    return y if b is None else y + b[:, None, None]


CASES = {
    "plain": ((2, 3, 3, 4), (3, 2, 3, 2), {}),
    "stride": ((2, 2, 3, 4), (2, 3, 3, 3), {"stride": (2, 3), "padding": (1, 0)}),
    "output padding": ((1, 2, 3, 2), (2, 3, 3, 2), {"stride": 2, "padding": 1, "more": (1, 0)}),
    "groups": ((2, 4, 3, 3), (4, 2, 2, 3), {"groups": 2, "stride": 2}),
    "depthwise": ((1, 3, 3, 2), (3, 1, 2, 2), {"groups": 3, "padding": 1}),
    "dilation": ((1, 2, 3, 3), (2, 2, 2, 3), {"dilation": (3, 2), "padding": (2, 1)}),
    "more than stride": ((1, 2, 3, 3), (2, 2, 2, 2), {"dilation": 3, "padding": 2, "more": 2}),
    "1x1": ((2, 3, 2, 2), (3, 4, 1, 1), {"stride": 3, "more": 2}),
    "one entry": ((1, 1, 1, 1), (1, 1, 1, 1), {}),
    "empty batch": ((0, 2, 3, 3), (2, 2, 2, 2), {}),
}


def pairs(options):
    return {
        name: (value, value) if name != "groups" and isinstance(value, int) else value
        for name, value in options.items()
    }


@pytest.mark.parametrize("name", CASES)
def test_against_loops(name, anywhere):
    x_shape, w_shape, options = CASES[name]
    groups = options.get("groups", 1)
    x, w, b = arrays(x_shape, w_shape, (w_shape[1] * groups,))
    given = {"output_padding" if k == "more" else k: v for k, v in options.items()}
    y = host(mr.conv_transpose2d(tensor(x), tensor(w), tensor(b), **given))
    np.testing.assert_allclose(y, brute_force(x, w, b, **pairs(options)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_backends_agree(dtype, device):
    x, w = arrays((2, 3, 4, 5), (3, 4, 3, 3))
    check_op(lambda x, w: mr.conv_transpose2d(x, w, stride=2, padding=1), [x, w], dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, device):
    x, w = arrays((2, 4, 3, 4), (4, 2, 2, 2))
    x, w = LAYOUTS[layout](x), LAYOUTS[layout](w)
    y = host(mr.conv_transpose2d(there(x), there(w), stride=2))
    np.testing.assert_allclose(y, brute_force(x, w, stride=(2, 2)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_it_is_the_adjoint_of_convolution(stride, device):
    """<conv(x), y> = <x, conv_transpose(y)>, and the shape of x comes back."""
    x, w = (tensor(a) for a in arrays((2, 3, 7, 8), (4, 3, 3, 2)))
    y = mr.conv2d(x, w, stride=stride, padding=1)
    g = tensor(arrays(y.shape, seed=2)[0])
    more = tuple(
        n - ((m - 1) * stride - 2 + k) for n, m, k in zip(x.shape[2:], y.shape[2:], (3, 2))
    )
    back = mr.conv_transpose2d(g, w, stride=stride, padding=1, output_padding=more)
    assert back.shape == x.shape
    assert (y * g).sum().item() == pytest.approx((x * back).sum().item())


def test_gradients(device):
    x, w, b = arrays((1, 2, 3, 2), (2, 2, 2, 3), (2,))
    check_gradients(lambda x, w, b: mr.conv_transpose2d(x, w, b, stride=2, padding=1), [x, w, b])


X, W = mr.ones(2, 4, 5, 6), mr.ones(4, 3, 3, 3)
BAD = {
    "x": ((mr.ones(5, 6), W), {}, ShapeError, ["x (n, c, h, w)", "(5, 6)"]),
    "channels": ((mr.ones(2, 3, 5, 6), W), {}, ShapeError, ["x.shape[1] == w.shape[0]", "3 and 4"]),
    "nhwc": ((mr.ones(2, 5, 6, 4), W), {}, ShapeError, ["(n, h, w, c) with 4", "from_nhwc"]),
    "groups": ((X, W), {"groups": 3}, ShapeError, ["divisible by groups", "groups 3"]),
    "no groups": ((X, W), {"groups": 0}, ArgumentError, ["groups an integer >= 1, got 0"]),
    "stride": ((X, W), {"stride": 0}, ArgumentError, ["stride an integer >= 1", "got 0"]),
    "padding": ((X, W), {"padding": (1, -1)}, ArgumentError, ["padding an integer >= 0"]),
    "more": (
        (X, W),
        {"output_padding": 2, "stride": 2},
        ArgumentError,
        ["output_padding below stride or dilation, got (2, 2)", "stride (2, 2)"],
    ),
    "nothing left": ((X, W), {"padding": 4}, ShapeError, ["at least one pixel", "less padding"]),
    "bias": ((X, W, mr.ones(4)), {}, ShapeError, ["b of shape (3,), got (4,)"]),
    "dtype": ((X, W.double()), {}, DTypeError, ["expected one dtype"]),
    "ints": ((X.long(), W), {}, DTypeError, ["floating-point tensor, got int64"]),
    "empty": ((X, mr.ones(4, 3, 0, 3)), {}, ShapeError, ["without empty dimensions"]),
}


@pytest.mark.parametrize("name", BAD)
def test_errors(name, device):
    args, options, kind, words = BAD[name]
    with raises(kind, "conv_transpose2d", *words):
        mr.conv_transpose2d(*[a.to(place()) for a in args], **options)


def test_parity_with_pytorch():
    """Every small mix of options: both give the same, or both refuse."""
    torch = pytest.importorskip("torch")
    x, w = arrays((2, 4, 3, 4), (4, 2, 3, 2))
    refused = 0
    for stride, padding, more, dilation, groups in itertools.product(
        (1, 2, 3), (0, 1, 2), (0, 1, 2), (1, 3), (1, 2)
    ):
        options = {
            "stride": stride,
            "padding": padding,
            "output_padding": more,
            "groups": groups,
            "dilation": dilation,
        }
        ours = mr.from_numpy(x), mr.from_numpy(w)
        try:
            expected = torch.conv_transpose2d(torch.tensor(x), torch.tensor(w), **options).numpy()
        except RuntimeError:
            refused += 1
            with pytest.raises((ShapeError, ArgumentError)):
                mr.conv_transpose2d(*ours, **options)
            continue
        y = mr.conv_transpose2d(*ours, **options).numpy()
        np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12, err_msg=str(options))
    assert refused > 10


def test_parity_of_gradients():
    torch = pytest.importorskip("torch")
    options = {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2, "dilation": 2}
    against_torch(
        lambda x, w, b: mr.conv_transpose2d(x, w, b, **options),
        lambda x, w, b: torch.conv_transpose2d(x, w, b, **options),
        arrays((2, 4, 3, 4), (4, 2, 3, 2), (4,)),
    )
