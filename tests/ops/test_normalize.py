"""Layer norm and group norm: against loops over what is normalised together, and PyTorch."""

import numpy as np
import pytest
from harness import (
    LAYOUTS,
    against_torch,
    arrays,
    check_gradients,
    host,
    ones,
    raises,
    tensor,
    there,
)

import minires as mr
from minires.errors import ArgumentError, DTypeError, ShapeError


def group_norm(x, groups, w, b, eps=1e-5):
    """One sample and one group at a time."""
    y = np.empty_like(x)
    size = x.shape[1] // groups
    for i in range(len(x)):
        for g in range(0, x.shape[1], size):
            part = x[i, g : g + size]
            y[i, g : g + size] = (part - part.mean()) / np.sqrt(part.var() + eps)
    shape = (1, -1) + (1,) * (x.ndim - 2)
    return y * w.reshape(shape) + b.reshape(shape)


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_group_norm(groups, layout, device):
    x, w, b = arrays((3, 6, 4, 5), (6,), (6,))
    x = LAYOUTS[layout](x)
    before = x.copy()
    y = mr.group_norm(*(there(a) for a in (x,)), groups, tensor(w), tensor(b))
    np.testing.assert_allclose(host(y), group_norm(x, groups, w, b), rtol=1e-12, atol=1e-12)
    assert np.array_equal(x, before)


def test_group_norm_keeps_channels_last_memory():
    x = mr.from_nhwc(arrays((2, 5, 4, 6))[0])
    y = mr.group_norm(x, 3, ones(6, dtype="float64"))
    assert y.data.transpose(0, 2, 3, 1).flags.c_contiguous


@pytest.mark.parametrize("shape", [(2, 4), (2, 4, 3), (1, 4, 1, 1), (0, 4, 2, 2)])
def test_group_norm_of_other_dimensions(shape, device):
    x, w, b = arrays(shape, (4,), (4,))
    y = host(mr.group_norm(tensor(x), 2, tensor(w), tensor(b), eps=0.1))
    np.testing.assert_allclose(y, group_norm(x, 2, w, b, 0.1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_layer_norm(dims, device):
    x = arrays((3, 4, 2, 5))[0]
    shape = x.shape[-dims:]
    w, b = arrays(shape, shape, seed=1)
    y = host(mr.layer_norm(tensor(x), shape, tensor(w), tensor(b)))
    expected = np.empty_like(x)
    for index in np.ndindex(x.shape[:-dims]):
        part = x[index]
        expected[index] = (part - part.mean()) / np.sqrt(part.var() + 1e-5) * w + b
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)


def test_gradients(device):
    x, w, b = arrays((2, 4, 2, 3), (4,), (4,))
    check_gradients(lambda x, w, b: mr.group_norm(x, 2, w, b), [x, w, b])
    x, w, b = arrays((3, 4), (4,), (4,))
    check_gradients(lambda x, w, b: mr.layer_norm(x, 4, w, b), [x, w, b])


X = mr.ones(2, 6, 3, 3)
BAD = {
    "groups": (lambda: mr.group_norm(X, 4), ArgumentError, "a divisor of the 6 channels", "got 4"),
    "none": (lambda: mr.group_norm(X, 0), ArgumentError, "num_groups a divisor", "got 0"),
    "flag": (lambda: mr.group_norm(X, True), ArgumentError, "got True"),
    "vector": (lambda: mr.group_norm(mr.ones(6), 2), ShapeError, "x of shape (n, c, ...)", "(6,)"),
    "weight": (lambda: mr.group_norm(X, 2, mr.ones(3)), ShapeError, "w of shape (6,), got (3,)"),
    "bias": (lambda: mr.group_norm(X, 2, None, mr.ones(3)), ShapeError, "b of shape (6,)"),
    "eps": (
        lambda: mr.group_norm(X, 2, eps=0),
        ArgumentError,
        "group_norm: expected eps a finite number > 0",
    ),
    "dtype": (lambda: mr.group_norm(X, 2, mr.ones(6).double()), DTypeError, "expected one dtype"),
    "ints": (lambda: mr.group_norm(X.long(), 2), DTypeError, "floating-point"),
    "last": (lambda: mr.layer_norm(X, 6), ShapeError, "x whose last sizes are (6,), got x (2, 6"),
    "too many": (lambda: mr.layer_norm(X, (1, 2, 6, 3, 3)), ShapeError, "last sizes are (1, 2,"),
    "no sizes": (lambda: mr.layer_norm(X, ()), ShapeError, "expected at least one size"),
    "shape": (lambda: mr.layer_norm(X, 3, mr.ones(6)), ShapeError, "w of shape (3,), got (6,)"),
}


@pytest.mark.parametrize("name", BAD)
def test_errors(name, device):
    call, kind, *words = BAD[name]
    with raises(kind, *words):
        call()


def test_parity_with_pytorch():
    functional = pytest.importorskip("torch.nn.functional")
    x, w, b = arrays((3, 6, 4, 5), (6,), (6,))
    against_torch(
        lambda x, w, b: mr.group_norm(x, 3, w, b, eps=1e-3),
        lambda x, w, b: functional.group_norm(x, 3, w, b, 1e-3),
        [x, w, b],
    )
    w, b = arrays((4, 5), (4, 5))
    against_torch(
        lambda x, w, b: mr.layer_norm(x, (4, 5), w, b),
        lambda x, w, b: functional.layer_norm(x, (4, 5), w, b),
        [x, w, b],
    )
