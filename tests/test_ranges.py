"""Numbers and sizes that a dtype or this machine does not have: an error, never other numbers."""

import numpy as np
import pytest

import minires as mr
from minires import ops
from minires.errors import ArgumentError, DTypeError, OutOfMemory
from minires.nn.functional import one_hot

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("data", "dtype", "words"),
    [
        ([300], "uint8", "numbers that uint8 has, 0 to 255, got 300"),
        ([256], "uint8", "got 256"),
        ([-1], "uint8", "got -1"),
        ([1, [2**40][0]], "int32", f"-{2**31} to {2**31 - 1}, got {2**40}"),
        ([[-129]], "int8", "got -129"),
        ([2, 300.5], "uint8", "got 300.5"),
        ([NAN], "int32", "got nan"),
        ([-INF], "int64", "got -inf"),
        ([2.0**63], "int64", "got 9.22"),
        (np.int64(300), "uint8", "got 300"),
        (np.float64(300), "uint8", "got 300.0"),
        ([1j], "float32", "numbers that float32 has, got 1j"),
        ([1j], "int64", "got 1j"),
        ([2**63], None, f"integers of 64 bits, got {2**63}. Pass dtype='float64'"),
        ([2**63], "int64", "integers of 64 bits"),
        ([2**64], None, "integers of 64 bits"),
        ([[2**63], [-1]], None, "integers of 64 bits"),
        ([-(2**63) - 1, 1], None, "integers of 64 bits"),
        ([10**400], "float64", "integers of 64 bits, got an integer of 1329 bits"),
    ],
)
def test_numbers_that_a_dtype_does_not_have(data, dtype, words):
    with pytest.raises(DTypeError) as caught:
        mr.tensor(data, dtype)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("data", "dtype", "expected"),
    [
        ([0, 255], "uint8", [0, 255]),
        ([-128, 127], "int8", [-128, 127]),
        ([3.9, -3.9, -0.5], "int32", [3, -3, 0]),
        ([255.9, -0.9], "uint8", [255, 0]),
        ([2**63 - 1, -(2**63)], "int64", [2**63 - 1, -(2**63)]),
        ([2**64, 1], "float64", [2.0**64, 1.0]),
        ([2.0**63, 1], None, [2.0**63, 1.0]),
        ([1e40, NAN], "float32", [INF, NAN]),
        ([1e40], None, [INF]),
        ([2, 0, NAN], "bool", [True, False, True]),
        ([], "uint8", []),
    ],
)
def test_numbers_that_it_has(data, dtype, expected):
    x = mr.tensor(data, dtype)
    assert np.array_equal(x.numpy(), expected, equal_nan=x.is_floating_point())


def test_arrays_and_tensors_wrap_around_as_they_do_in_pytorch():
    for source in (np.array([300, -1]), mr.tensor([300, -1])):
        assert mr.tensor(source, "uint8").tolist() == [44, 255]
    assert mr.tensor([2**40]).int().tolist() == [0]
    assert mr.tensor([300]).to("uint8").tolist() == [44]


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: mr.full((2,), 300, dtype="uint8"), DTypeError, "fill_value a number that uint8"),
        (lambda: mr.full((2,), 1e40), DTypeError, "fill_value a number that float32 has"),
        (lambda: mr.full((2,), NAN, dtype="int32"), DTypeError, "int32 has, got nan"),
        (lambda: mr.full((2,), 2**63, dtype="int64"), DTypeError, "int64 has"),
        (lambda: mr.full_like(mr.ones(2), -1e39), DTypeError, "full_like: .* float32 has"),
        (lambda: mr.ones(2).fill_(1e40), DTypeError, "fill_: expected a number that float32"),
        (lambda: mr.arange(300, dtype="uint8"), DTypeError, "arange: .*0 to 255, got 299"),
        (lambda: mr.arange(-5, 5, dtype="uint8"), DTypeError, "got -5"),
        (lambda: mr.arange(2**40, 2**40 + 3, dtype="int32"), DTypeError, "int32 has"),
        (lambda: mr.arange(3, dtype="bool"), DTypeError, "real numbers, got bool"),
        (lambda: mr.arange(3, dtype="complex64"), DTypeError, "real numbers, got complex64"),
        (lambda: mr.arange(0, 2, 0.5, dtype="int64"), DTypeError, "got 0, 2, 0.5"),
        (lambda: mr.arange(0.5, 3, dtype="int64"), DTypeError, "got 0.5, 3, 1"),
        (lambda: mr.arange(5, 0), ArgumentError, "leads from start to end, got 1 from 5 to 0"),
        (lambda: mr.arange(0, 5, -1), ArgumentError, "got -1 from 0 to 5"),
        (lambda: mr.arange(2**63), ArgumentError, "end a finite number"),
        (lambda: mr.arange(0, 1, 1e-300), OutOfMemory, "as many numbers"),
        (lambda: mr.linspace(0, 300, 3, dtype="uint8"), DTypeError, "end a number that uint8"),
        (lambda: mr.linspace(-1, 5, 3, dtype="uint8"), DTypeError, "start a number that uint8"),
        (lambda: mr.linspace(0, 1e300, 3), DTypeError, "end a number that float32"),
        (lambda: mr.linspace(0, 1, 3, dtype="bool"), DTypeError, "dtype of numbers, got bool"),
        (lambda: mr.linspace(0, 1, 2**63), ArgumentError, "steps an integer"),
        (lambda: mr.randperm(2**63), OutOfMemory, "fits the memory"),
        (lambda: mr.randperm(2**62), OutOfMemory, "fits the memory"),
        (lambda: mr.randint(0, 2**63 + 1, (2,)), ArgumentError, "high an integer"),
        (lambda: mr.randint(0, 5, (2**63,)), OutOfMemory, "fits the memory"),
        (lambda: one_hot(mr.tensor([1, 2]), 2**63), OutOfMemory, f"{2**63} classes"),
        (lambda: one_hot(mr.zeros(0, dtype="int64"), 2**63), OutOfMemory, f"{2**63} classes"),
        (lambda: one_hot(mr.tensor([1, 2**62])), OutOfMemory, "classes"),
        (lambda: mr.eye(2**63), OutOfMemory, "fits the memory"),
        (lambda: mr.zeros(2**63), OutOfMemory, "fits the memory"),
        (lambda: mr.zeros(2**32, 2**32, 0), OutOfMemory, "fits the memory"),
        (lambda: mr.randn(2**40, 2**40), OutOfMemory, "fits the memory"),
    ],
)
def test_factories_refuse(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_factories_reach_their_ends():
    assert mr.arange(256, dtype="uint8")[-1].item() == 255
    assert mr.arange(0, 4, 1, dtype="int32").tolist() == [0, 1, 2, 3]
    assert mr.arange(3, 3).tolist() == mr.arange(3, 3, -1).tolist() == []
    assert mr.linspace(0, 255, 2, dtype="uint8").tolist() == [0, 255]
    assert mr.linspace(0, 5e-324, 2, dtype="float64").tolist() == [0, 5e-324]
    widest = mr.linspace(-1.7e308, 1.7e308, 3, dtype="float64")  # apart by more than a float holds
    assert widest.tolist() == [-1.7e308, 0, 1.7e308]
    assert mr.full((2,), INF).tolist() == [INF, INF]
    largest = float(np.finfo("float32").max)
    assert mr.full((1,), largest).tolist() == mr.ones(1).fill_(largest).tolist() == [largest]
    assert mr.full((1,), 255.7, dtype="uint8").item() == 255


IMAGES = (2, 4, 6, 5)
ONLY_REAL = {
    "relu": lambda x: mr.relu(x),
    "conv2d": lambda x: ops.conv2d(x, mr.ones(4, 4, 3, 3, dtype=x.dtype)),
    "conv_transpose2d": lambda x: ops.conv_transpose2d(x, mr.ones(4, 4, 3, 3, dtype=x.dtype)),
    "batch_norm": lambda x: ops.batch_norm(x, None, None, training=True),
    "max_pool2d": lambda x: ops.max_pool2d(x, 2),
    "avg_pool2d": lambda x: ops.avg_pool2d(x, 2),
    "adaptive_avg_pool2d": lambda x: ops.adaptive_avg_pool2d(x, 1),
    "cross_entropy": lambda x: ops.cross_entropy(x[:, :, 0, 0], mr.tensor([0, 1])),
    "softmax": lambda x: x.softmax(1),
    "log_softmax": lambda x: x.log_softmax(1),
    "gelu": lambda x: ops.gelu(x),
    "erf": lambda x: ops.erf(x),
    "leaky_relu": lambda x: ops.leaky_relu(x),
    "softplus": lambda x: ops.softplus(x),
    "dropout": lambda x: ops.dropout(x, 0.5),
    "var": lambda x: x.var(),
    "norm": lambda x: x.norm(),
    "abs": lambda x: x.abs(),
    "sign": lambda x: x.sign(),
    "clip": lambda x: x.clip(0, 1),
    "max": lambda x: x.max(),
    "amin": lambda x: x.amin(1),
    "argmax": lambda x: x.argmax(),
    "topk": lambda x: x.topk(1),
    "maximum": lambda x: mr.maximum(x, x),
    "minimum": lambda x: mr.minimum(x, 1.0),
    "<": lambda x: x < x,
    ">=": lambda x: x >= 1,
    "//": lambda x: x // x,
    "%": lambda x: x % 2,
}


@pytest.mark.parametrize("backend", ["auto", "numpy"])
@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
@pytest.mark.parametrize("name", ONLY_REAL)
def test_what_complex_numbers_do_not_have(name, dtype, backend):
    x = mr.ones(*IMAGES, dtype=dtype)
    with mr.backend(backend), pytest.raises(DTypeError, match=f"got {dtype}"):
        ONLY_REAL[name](x)


def test_what_complex_numbers_have():
    x = mr.tensor([[1 + 2j, 3 - 1j], [0.5j, 2]])
    array = x.numpy()
    for ours, numpys in (
        (x.exp(), np.exp(array)),
        (x.tanh(), np.tanh(array)),
        (x.mean(), array.mean()),
        (x @ x, array @ array),
        (x * x + 1, array * array + 1),
        (x == x, array == array),
    ):
        assert np.allclose(ours.numpy(), numpys, rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    "array",
    [
        np.array([None, "a"], object),
        np.array(["a", "b"]),
        np.array([b"a"]),
        np.zeros(2, "datetime64[s]"),
        np.zeros(2, "timedelta64[s]"),
        np.zeros(2, [("a", "f4")]),
        np.ones(2, np.longdouble),
        np.ones(2, np.float16),
        np.ones(2, np.uint64),
        np.ones(2, ">f4"),
    ],
    ids=lambda array: str(array.dtype),
)
def test_arrays_of_other_dtypes_are_no_tensors(array):
    for take in (mr.tensor, mr.from_numpy, mr.Tensor, lambda a: mr.ones(2) + a):
        with pytest.raises(DTypeError, match="expected float32, float64, bool or an integer"):
            take(array)
