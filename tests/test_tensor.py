"""The tensor: creation, Python's operators, conversion, copying, printing."""

from __future__ import annotations

import copy
import importlib.util
import operator
import pickle
import re

import numpy as np
import pytest

import minires as mr
from minires import nn
from minires.errors import ArgumentError, DeviceError, DTypeError, GraphError, ShapeError

F64 = "float64"
HAS_CUPY = importlib.util.find_spec("cupy") is not None


# **** creation ****


@pytest.mark.parametrize(
    ("data", "dtype", "shape"),
    [
        (1.5, "float32", ()),
        (2, "int64", ()),
        (True, "bool", ()),
        ([1.0, 2], "float32", (2,)),
        ([[1, 2], [3, 4]], "int64", (2, 2)),
        ([], "float32", (0,)),
        (((1.0,), (2.0,)), "float32", (2, 1)),
        (np.ones(2), "float64", (2,)),
        (np.ones(2, np.float32), "float32", (2,)),
        (np.uint8([1, 2]), "uint8", (2,)),
        (np.float64(1.5), "float64", ()),
        (range(3), "int64", (3,)),
    ],
)
def test_dtypes_and_shapes(data, dtype, shape):
    x = mr.tensor(data)
    assert (x.dtype, x.shape) == (np.dtype(dtype), shape)
    np.testing.assert_array_equal(x.data, np.asarray(data))


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        ([[1, 2], [3]], ShapeError, "rows of equal length"),
        ("text", DTypeError, "float32, float64, bool or an integer dtype, got <U4"),
        ([None], DTypeError, "got object"),
        (np.ones(2, np.float16), DTypeError, r"got float16.*astype\('float32'\)"),
        (np.ones(2, ">f4"), DTypeError, "got >f4"),
    ],
)
def test_data_that_is_refused(data, error, words):
    with pytest.raises(error, match=words):
        mr.tensor(data)


def test_a_dtype_asked_for_costs_no_digits():
    assert mr.tensor(0.1, dtype="float64").item() == 0.1
    assert mr.tensor([0.1], dtype=mr.float64).tolist() == [0.1]
    assert mr.tensor([1, 2], dtype="float32").dtype == np.float32
    assert mr.tensor([1.7], dtype="int32").tolist() == [1]
    for name in ("float16", "str", "nonsense", object, None):
        with pytest.raises(DTypeError, match="dtype: expected"):
            mr.tensor([1.0]).astype(name)


def test_tensor_copies_and_from_numpy_shares():
    array = np.arange(6.0)
    mr.tensor(array).data[0] = 9
    source = mr.tensor([1.0])
    mr.tensor(source).data[0] = 9
    assert array[0] == 0
    assert source.item() == 1
    for view in (array, array[::2], array[::-1], array.reshape(2, 3).T, array[1:1]):
        x = mr.from_numpy(view)
        assert x.data is view
        assert x.dtype == np.float64
    mr.from_numpy(array[::-2])[0] = 50.0
    assert array[5] == 50
    with pytest.raises(DTypeError, match=r"from_numpy: expected a numpy\.ndarray, got list"):
        mr.from_numpy([1.0])


def test_a_tensor_on_a_tensor_shares_memory():
    x = mr.tensor([1.0, 2.0])
    y = mr.Tensor(x)
    y[0] = 5.0
    assert x.tolist() == [5, 2]


def test_creation_functions():
    assert mr.zeros(2, 3).shape == mr.zeros((2, 3)).shape == mr.zeros([2, 3]).shape == (2, 3)
    assert mr.zeros().shape == ()
    assert mr.ones(2, dtype="int64").tolist() == [1, 1]
    assert mr.empty(3, 0).numel() == 0
    assert mr.full((2,), 7.5).tolist() == [7.5, 7.5]
    assert mr.full(2, 1).shape == mr.full(np.int64(2), 1).shape == (2,)
    assert mr.eye(2, 3).tolist() == [[1, 0, 0], [0, 1, 0]]
    assert mr.zeros(np.int64(2), mr.tensor(3)).shape == (2, 3)
    x = mr.ones(2, requires_grad=True)
    assert x.requires_grad
    assert x.dtype == np.float32


@pytest.mark.parametrize(
    ("args", "expected", "dtype"),
    [
        ((4,), [0, 1, 2, 3], "int64"),
        ((1, 4), [1, 2, 3], "int64"),
        ((4, 0, -2), [4, 2], "int64"),
        ((0, 1, 0.25), [0, 0.25, 0.5, 0.75], "float32"),
        ((2.0,), [0, 1], "float32"),
        ((0,), [], "int64"),
    ],
)
def test_arange(args, expected, dtype):
    x = mr.arange(*args)
    assert x.tolist() == expected
    assert x.dtype == dtype


@pytest.mark.parametrize(
    ("act", "error", "words"),
    [
        (lambda: mr.zeros(-1), ShapeError, "sizes >= 0"),
        (lambda: mr.zeros(1.5), ShapeError, "integers"),
        (lambda: mr.zeros("ab"), ShapeError, "integers"),
        (lambda: mr.zeros(2, dtype=None), DTypeError, "got None"),
        (lambda: mr.arange(0, 1, 0), ArgumentError, "step other than 0"),
        (lambda: mr.randn(2, dtype="int64"), DTypeError, "randn: expected float32 or float64"),
        (lambda: mr.rand(2, dtype="bool"), DTypeError, "rand: expected float32 or float64"),
        (lambda: mr.randint(3, 3, (2,)), ArgumentError, "low < high"),
        (lambda: mr.zeros(2, device="gpu"), ArgumentError, "unknown device 'gpu'"),
        (lambda: mr.zeros(2, device="cpu:1"), ArgumentError, "there is one cpu"),
        (lambda: mr.ones(2).size(1), ShapeError, r"size: .*got 1 \(shape \(2,\)\)"),
    ],
)
def test_creation_errors(act, error, words):
    with pytest.raises(error, match=words):
        act()


def test_like_functions_keep_layout_and_dtype():
    x = mr.from_numpy(np.ones((2, 4, 4, 3)).transpose(0, 3, 1, 2))
    for y in (mr.zeros_like(x), mr.ones_like(x), mr.empty_like(x), mr.full_like(x, 2.0)):
        assert y.shape == x.shape
        assert y.dtype == np.float64
        assert y.data.strides == x.data.strides
    assert mr.zeros_like(x, dtype="int32").dtype == np.int32
    assert mr.full_like(x, 2.0).data.min() == 2
    assert mr.randn_like(x).shape == x.shape


def test_facts():
    x = mr.zeros(2, 3, dtype="float64")
    assert (x.ndim, x.dim(), x.numel(), x.size(), x.size(-1)) == (2, 2, 6, (2, 3), 3)
    assert (x.nbytes, x.itemsize, str(x.device)) == (48, 8, "cpu")
    assert x.is_floating_point()
    assert not mr.tensor([1]).is_floating_point()
    assert x.is_leaf
    assert not x.requires_grad
    assert x.requires_grad_() is x


# **** Python's operators ****

A = np.array([[1.5, -2.0, 3.0], [0.5, 4.0, -1.0]])
B = np.array([2.0, -0.5, 1.5])


@pytest.mark.parametrize(
    "op",
    [operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_arithmetic_with_tensors_arrays_and_numbers(op, dtype):
    a, b = A.astype(dtype), B.astype(dtype)
    x, y = mr.from_numpy(a), mr.from_numpy(b)
    results = [
        (op(x, y), op(a, b)),
        (op(y, x), op(b, a)),
        (op(x, b), op(a, b)),
        (op(a, y), op(a, b)),  # an array on the left leaves it to the tensor
        (op(x, 2), op(a, 2)),
        (op(2.5, x), op(2.5, a)),
        (op(x, np.float64(2.5)), op(a, 2.5)),
        (op(np.float64(2.5), x), op(2.5, a)),
        (op(np.array(2.5), x), op(2.5, a)),
        (op(x, True), op(a, True)),
    ]
    for got, expected in results:
        assert isinstance(got, mr.Tensor)
        assert got.dtype == dtype, "numbers never promote"
        np.testing.assert_array_equal(got.data, expected.astype(dtype))


def test_powers():
    x = mr.tensor([1.0, 2.0, 4.0])
    assert (x**2).tolist() == [1, 4, 16]
    assert (2**x).tolist() == [2, 4, 16]
    assert (x**-1).tolist() == [1, 0.5, 0.25]
    assert (x**x).tolist() == [1, 4, 256]
    assert (np.array([2.0, 2.0, 2.0], np.float32) ** x).tolist() == [2, 4, 16]
    assert (mr.tensor([3]) ** 2).tolist() == [9]
    with pytest.raises(DTypeError, match="negative power"):
        mr.tensor([2]) ** -1
    with pytest.raises(DTypeError, match="negative power"):
        mr.tensor([2, 1]) ** mr.tensor([1, -1])


def test_unary_operators():
    x = mr.tensor([1.0, -2.0])
    assert (-x).tolist() == [-1, 2]
    assert (+x) is x
    assert abs(x).tolist() == [1, 2]
    assert (~mr.tensor([True, False])).tolist() == [False, True]
    assert (~mr.tensor([1])).tolist() == [-2]
    with pytest.raises(DTypeError, match="~: expected a bool or integer"):
        operator.invert(x)
    with pytest.raises(DTypeError, match="Use ~x"):
        operator.neg(mr.tensor([True]))


def test_integer_and_bool_operators():
    a, b = mr.tensor([6, 3]), mr.tensor([4, 2])
    assert (a & b).tolist() == [4, 2]
    assert (a | 1).tolist() == [7, 3]
    assert (1 ^ a).tolist() == [7, 2]
    assert (a // b).tolist() == [1, 1]
    assert (7 % b).tolist() == [3, 1]
    assert (mr.tensor([True]) & mr.tensor([False])).tolist() == [False]
    assert (a / b).dtype == np.float32
    for act, words in (
        (lambda: mr.ones(1) & 1, "bool or integer"),
        (lambda: mr.ones(1, requires_grad=True) // 2, "not differentiable"),
        (lambda: mr.tensor([True]) - mr.tensor([True]), "two bools"),
        (lambda: mr.tensor(np.uint8([1])) + 300, "number 300 do not mix"),
        (lambda: mr.tensor(np.uint8([1])) * -1, "number -1 do not mix"),
    ):
        with pytest.raises(DTypeError, match=words):
            act()
    for act in (lambda: a // 0, lambda: a % mr.tensor([1, 0])):
        with pytest.raises(ArgumentError, match="integer division by zero"):
            act()
    assert (mr.ones(1) // 0).tolist() == [np.inf]


@pytest.mark.parametrize("op", [operator.iadd, operator.isub, operator.imul, operator.itruediv])
def test_in_place_operators_keep_the_memory(op):
    array = A.copy()
    x = mr.from_numpy(array)
    y = op(x, mr.from_numpy(B))
    assert y is x
    np.testing.assert_array_equal(array, getattr(operator, op.__name__[1:])(A, B))
    with pytest.raises(ShapeError, match="in-place operation"):
        op(mr.from_numpy(B.copy()), x)


@pytest.mark.parametrize(
    "op", [operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne]
)
def test_comparisons(op):
    x = mr.from_numpy(A)
    for other in (mr.from_numpy(B), B, 1.5, 1, True):
        raw = other.data if isinstance(other, mr.Tensor) else other
        result = op(x, other)
        assert result.dtype == np.bool_
        assert not result.requires_grad
        np.testing.assert_array_equal(result.data, op(A, raw))
    np.testing.assert_array_equal(op(B, x).data, op(B, A))
    np.testing.assert_array_equal(op(1.5, x).data, op(1.5, A))
    assert op(mr.tensor([1, 2]), 1.5).tolist() == op(np.array([1, 2]), 1.5).tolist()
    with pytest.raises(ShapeError, match="shapes that broadcast"):
        op(x, mr.from_numpy(np.ones(4)))


def test_comparison_with_something_else():
    x = mr.ones(1)
    assert (x == None) is False  # noqa: E711
    assert (x != "a") is True
    with pytest.raises(TypeError):
        assert x < "a"


@pytest.mark.parametrize(
    ("act", "error", "words"),
    [
        (
            lambda x: x + mr.ones(2, dtype=F64),
            DTypeError,
            r"got float32 .* and float64 .* Cast one",
        ),
        (lambda x: x + np.ones(2), DTypeError, r"float64.*x\.astype\('float32'\)"),
        (lambda x: np.ones(2) + x, DTypeError, "expected one dtype, got float64"),
        (lambda x: x * mr.tensor([1, 2]), DTypeError, "float32 .* and int64"),
        (lambda x: x + mr.ones(3), ShapeError, r"broadcast, got \(2,\) and \(3,\)"),
        (lambda x: x + "a", DTypeError, "a tensor, an array or a number, got str"),
        (lambda x: x * [1.0, 2.0], DTypeError, "got list"),
        (lambda x: None - x, DTypeError, "got NoneType"),
        (
            lambda x: mr.tensor([1]) * 0.5,
            DTypeError,
            r"int64 tensor and the float 0.5.*\.float\(\)",
        ),
        (lambda x: mr.add(1, 2), DTypeError, r"add: expected a tensor, got int"),
    ],
)
def test_operands_that_do_not_mix(act, error, words):
    with pytest.raises(error, match=words):
        act(mr.ones(2))


# **** Python's protocols ****


def test_numbers():
    assert float(mr.tensor([[2.5]])) == 2.5
    assert int(mr.tensor(2.9)) == 2
    assert [10, 20, 30][mr.tensor(1)] == 20
    assert bool(mr.tensor([1.0]))
    assert not mr.tensor(0)
    assert f"{mr.tensor(2.5):.3f}" == "2.500"
    assert f"{mr.tensor([1.0])}" == "tensor([1.])"
    assert mr.tensor([1.5]).item() == 1.5
    assert isinstance(mr.tensor(3).item(), int)
    assert mr.tensor([[1.0, 2.0]]).tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("act", "error", "words"),
    [
        (lambda: mr.ones(2).item(), ShapeError, r"one element, got shape \(2,\)"),
        (lambda: float(mr.ones(2)), ShapeError, "one element"),
        (lambda: bool(mr.ones(2)), ShapeError, r"no single truth value.*\.any\(\) or \.all\(\)"),
        (lambda: len(mr.tensor(1.0)), ShapeError, "got a scalar tensor"),
        (lambda: list(mr.tensor(1.0)), ShapeError, "got a scalar tensor"),
        (lambda: [1][mr.tensor(0.0)], DTypeError, "an integer tensor, got float32"),
        (lambda: f"{mr.ones(2):.2f}", ShapeError, "one element"),
    ],
)
def test_protocol_errors(act, error, words):
    with pytest.raises(error, match=words):
        act()


def test_iteration_and_hashing():
    x = mr.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    assert len(x) == 2
    a, b = x
    (a * b).sum().backward()
    assert x.grad.tolist() == [[3, 4], [1, 2]]
    assert len({x, x, mr.tensor(1.0)}) == 2
    assert {x: 1}[x] == 1
    assert [v.item() for v in reversed(mr.tensor([1, 2]))] == [2, 1]


def test_numpy_conversion():
    x = mr.tensor([1.0, 2.0])
    assert x.numpy() is x.data
    assert np.asarray(x) is x.data
    assert np.asarray(x, dtype=np.float64).dtype == np.float64
    assert not np.shares_memory(np.array(x), x.data)
    assert not np.shares_memory(np.array(x, copy=True), x.data)
    assert np.shares_memory(np.array(x, copy=False), x.data)
    with pytest.raises(ArgumentError, match="needs a copy"):
        np.array(x, dtype=np.float64, copy=False)
    x.requires_grad_()
    for act in (lambda: x.numpy(), lambda: np.asarray(x), lambda: np.array([x, x])):
        with pytest.raises(GraphError, match=r"does not require grad.*\.detach\(\)\.numpy\(\)"):
            act()
    array = np.zeros(2)
    with pytest.raises(GraphError, match="detach"):  # not "setting an array element ..."
        array[:] = x
    array[1] = x[1]  # one number, as float() would take it
    assert array.tolist() == [0, 2]


def test_tensors_in_lists():
    assert mr.tensor([mr.tensor([1.0, 2.0]), mr.tensor([3.0, 4.0])]).tolist() == [[1, 2], [3, 4]]


def test_dlpack_with_numpy():
    x = mr.tensor([[1.0, 2.0], [3.0, 4.0]])
    array = np.from_dlpack(x.T)
    assert np.shares_memory(array, x.data)
    assert array.tolist() == [[1, 3], [2, 4]]
    y = mr.from_dlpack(np.arange(3.0))
    assert y.tolist() == [0, 1, 2]
    assert y.dtype == np.float64
    with pytest.raises(GraphError, match=r"__dlpack__.*\.detach\(\)"):
        np.from_dlpack(x.requires_grad_())
    with pytest.raises(DTypeError, match="an object with __dlpack__, got list"):
        mr.from_dlpack([1.0])


def test_parity_dlpack():
    torch = pytest.importorskip("torch")
    x = mr.tensor([[1.0, 2.0], [3.0, 4.0]])
    t = torch.from_dlpack(x)
    t[0, 0] = 50.0
    assert x[0, 0].item() == 50
    back = mr.from_dlpack(torch.arange(6).reshape(2, 3).T)
    assert back.tolist() == [[0, 3], [1, 4], [2, 5]]
    assert back.dtype == np.int64
    t = torch.zeros(2)
    mr.from_dlpack(t)[0] = 1.0
    assert t.tolist() == [1, 0]


# **** copies ****


def test_pickle():
    x = mr.tensor([[1.0, 2.0]], requires_grad=True)
    (x * 3).sum().backward()
    y = pickle.loads(pickle.dumps(x))
    assert y.tolist() == x.tolist()
    assert y.requires_grad
    assert y.grad.tolist() == [[3, 3]]
    assert (y.dtype, type(y)) == (x.dtype, mr.Tensor)
    p = pickle.loads(pickle.dumps(nn.Parameter(mr.ones(2))))
    assert isinstance(p, nn.Parameter)
    assert p.requires_grad


@pytest.mark.parametrize("kind", [mr.Tensor, nn.Parameter])
def test_deepcopy(kind):
    channels_last = np.arange(24.0).reshape(1, 3, 4, 2).transpose(0, 3, 1, 2)
    x = kind(channels_last.copy(order="K"), requires_grad=True)
    (x * 2).sum().backward()
    y, again = copy.deepcopy([x, x])
    assert type(y) is kind
    assert y is again
    assert y.requires_grad
    assert y.data.strides == x.data.strides
    assert not np.shares_memory(y.data, x.data)
    np.testing.assert_array_equal(y.data, x.data)
    np.testing.assert_array_equal(y.grad.data, x.grad.data)
    assert not np.shares_memory(y.grad.data, x.grad.data)
    z = copy.copy(x)
    assert z.tolist() == x.tolist()


def test_results_cannot_be_copied_with_their_history():
    y = mr.ones(2, requires_grad=True) * 2
    for act in (copy.deepcopy, pickle.dumps):
        with pytest.raises(GraphError, match=r"copy: expected a leaf.*<Mul .*\.detach\(\)"):
            act(y)
    assert copy.deepcopy(y.detach()).tolist() == [2, 2]


def test_detach_shares_memory_and_version():
    x = mr.ones(2, requires_grad=True)
    y = x * 2
    d = y.detach()
    assert d.data is y.data
    assert not d.requires_grad
    assert d.is_leaf
    z = y * y
    d += 1
    with pytest.raises(GraphError, match="changed in place"):
        z.sum().backward()


def test_clone_is_new_memory_with_history():
    x = mr.from_numpy(np.ones((1, 2, 3, 4)).transpose(0, 3, 1, 2)).requires_grad_()
    y = x.clone()
    assert not np.shares_memory(y.data, x.data)
    assert y.data.strides == x.data.strides
    y.sum().backward()
    assert x.grad.data.min() == 1


def test_data_may_be_replaced():
    x = mr.ones(2, requires_grad=True)
    y = x * x
    x.data = np.array([5.0, 6.0], np.float32)
    assert x.tolist() == [5, 6]
    assert x.is_leaf
    with pytest.raises(GraphError, match="changed in place"):
        y.sum().backward()
    x.data = mr.zeros(2)
    with pytest.raises(ShapeError, match=r"data: expected an array of shape \(2,\), got \(3,\)"):
        x.data = np.zeros(3)
    with pytest.raises(DTypeError, match="data: expected a floating-point array"):
        x.data = np.zeros(2, int)


# **** printing ****


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (lambda: mr.tensor(2.0), r"tensor\(2\.\)"),
        (lambda: mr.tensor([1, 2]), r"tensor\(\[1, 2\]\)"),
        (lambda: mr.tensor([True]), r"tensor\(\[ ?True\]\)"),
        (lambda: mr.tensor([1.0], F64), r"tensor\(\[1\.\], dtype=float64\)"),
        (lambda: mr.ones(1, requires_grad=True), r"tensor\(\[1\.\], requires_grad=True\)"),
        (lambda: mr.ones(0, 3), r"tensor\(\[\], shape=\(0, 3\)\)"),
        (lambda: nn.Parameter(mr.ones(1)), r"Parameter\(\[1\.\], requires_grad=True\)"),
        (
            lambda: mr.ones(1, requires_grad=True) * 2,
            r"tensor\(\[2\.\], grad_fn=<Mul \S*test_tensor\.py:\d+>\)",
        ),
    ],
)
def test_repr(x, text):
    assert re.fullmatch(text, repr(x()))


def test_repr_of_large_tensors_is_short():
    assert len(repr(mr.zeros(1000, 1000))) < 1000


# **** other dtypes and devices ****


def test_casts():
    x = mr.tensor([1.5, -2.0], requires_grad=True)
    assert x.astype("float32") is x
    y = x.double()
    assert y.dtype == np.float64
    (y * y).sum().backward()
    assert x.grad.dtype == np.float32
    assert x.grad.tolist() == [3, -4]
    for z, dtype in ((x.long(), "int64"), (x.int(), "int32"), (x.bool(), "bool")):
        assert z.dtype == dtype
        assert not z.requires_grad
    assert x.to("float64").dtype == np.float64
    assert x.to(mr.float32) is x
    assert x.to("cpu") is x
    assert x.cpu() is x
    assert x.to(mr.zeros(1, dtype=F64)).dtype == np.float64


@pytest.mark.parametrize("target", ["cudo", "cpu0", "float16"])
def test_unknown_targets(target):
    with pytest.raises((ArgumentError, DTypeError), match=target):
        mr.ones(1).to(target)


@pytest.mark.skipif(HAS_CUPY, reason="is about machines without CuPy")
@pytest.mark.parametrize(
    "act",
    [
        lambda: mr.ones(1).to("cuda"),
        lambda: mr.ones(1).cuda(),
        lambda: mr.zeros(1, device="cuda:0"),
        lambda: mr.tensor([1.0], device="cuda"),
        lambda: mr.randn(2, device="cuda"),
    ],
)
def test_cuda_without_cupy(act):
    with pytest.raises(DeviceError, match=r"expected CuPy for 'cuda'.*pip install 'minires\[cuda"):
        act()


def test_attributes_with_a_typo_are_found():
    with pytest.raises(AttributeError):
        mr.ones(1).requires_gard = True
