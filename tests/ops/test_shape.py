"""Views, joins, padding, and all of NumPy's indexing: values, memory, derivatives, errors."""

from __future__ import annotations

import numpy as np
import pytest

import minires as mr
from minires.errors import ArgumentError, DTypeError, GraphError, ShapeError
from minires.gradcheck import check, check2

LAYOUTS = {
    "contiguous": np.copy,
    "transposed": lambda a: a.T.copy().T,
    "strided": lambda a: np.repeat(a, 2, axis=-1)[..., ::2] if a.ndim else a.copy(),
    "reversed": lambda a: np.flip(a).copy()[(..., *(slice(None, None, -1),) * a.ndim)],
}

# name: (function, NumPy's, shape, whether the result is a view of contiguous memory)
TABLE = {
    "reshape": (lambda x: x.reshape(3, 4), lambda a: a.reshape(3, 4), (2, 3, 2), True),
    "reshape -1": (lambda x: x.view((2, -1)), lambda a: a.reshape(2, -1), (2, 3, 2), True),
    "reshape to scalar": (lambda x: x.reshape(()), lambda a: a.reshape(()), (1, 1), True),
    "reshape of scalar": (lambda x: x.reshape(1, -1), lambda a: a.reshape(1, 1), (), True),
    "permute": (lambda x: x.permute(2, 0, -2), lambda a: a.transpose(2, 0, 1), (2, 3, 2), True),
    "transpose": (lambda x: x.transpose(0, -1), lambda a: a.swapaxes(0, 2), (2, 3, 4), True),
    "T": (lambda x: x.T, lambda a: a.T, (2, 3), True),
    "flatten": (lambda x: x.flatten(), lambda a: a.reshape(-1), (2, 1, 3), True),
    "flatten 1": (lambda x: x.flatten(1), lambda a: a.reshape(2, -1), (2, 2, 3), True),
    "flatten 0 1": (lambda x: mr.flatten(x, 0, 1), lambda a: a.reshape(4, 3), (2, 2, 3), True),
    "flatten scalar": (lambda x: x.flatten(), lambda a: a.reshape(1), (), True),
    "squeeze": (lambda x: x.squeeze(), np.squeeze, (1, 2, 1, 3), True),
    "squeeze 0": (lambda x: x.squeeze(0), lambda a: a.squeeze(0), (1, 2, 1), True),
    "squeeze none": (lambda x: x.squeeze(1), lambda a: a, (1, 2, 1), True),
    "squeeze two": (lambda x: x.squeeze((0, -1)), lambda a: a.squeeze((0, 2)), (1, 2, 1), True),
    "unsqueeze": (lambda x: x.unsqueeze(1), lambda a: a[:, None], (2, 3), True),
    "unsqueeze -1": (lambda x: x.unsqueeze(-1), lambda a: a[..., None], (2, 3), True),
    "expand": (
        lambda x: x.expand(4, -1, 3),
        lambda a: np.broadcast_to(a, (4, 2, 3)),
        (2, 1),
        True,
    ),
    "broadcast_to": (
        lambda x: mr.broadcast_to(x, (2, 2, 3)),
        lambda a: np.broadcast_to(a, (2, 2, 3)),
        (3,),
        True,
    ),
    "expand nothing": (lambda x: x.expand(2, 3), lambda a: a, (2, 3), True),
    "expand scalar": (lambda x: x.expand(2, 2), lambda a: np.broadcast_to(a, (2, 2)), (), True),
    "contiguous": (lambda x: x.T.contiguous(), lambda a: a.T, (2, 3), False),
    "channels_last": (mr.ops.channels_last, lambda a: a, (2, 3, 2, 2), False),
    "pad": (
        lambda x: mr.pad(x, (1, 2), 7.0),
        lambda a: np.pad(a, ((0, 0), (1, 2)), constant_values=7),
        (2, 3),
        False,
    ),
    "pad 2": (
        lambda x: mr.pad(x, (1, 0, 0, 2)),
        lambda a: np.pad(a, ((0, 0), (0, 2), (1, 0))),
        (2, 2, 2),
        False,
    ),
    "pad cut": (
        lambda x: mr.pad(x, (-1, 2, 1, -1)),
        lambda a: np.pad(a[:2, 1:], ((1, 0), (0, 2))),
        (3, 3),
        False,
    ),
    "split": (lambda x: x.split(2, 1)[1], lambda a: a[:, 2:4], (2, 5), True),
    "split last": (lambda x: x.split(2, 1)[2], lambda a: a[:, 4:], (2, 5), True),
    "split sizes": (lambda x: mr.split(x, [1, 0, 3])[2], lambda a: a[1:], (4, 2), True),
    "chunk": (lambda x: x.chunk(3, -1)[1], lambda a: a[:, 2:4], (2, 5), True),
}


def draw(shape, seed=0):
    return np.asarray(np.random.default_rng(seed).standard_normal(shape))


def leaf(array):
    return mr.from_numpy(np.asarray(array, np.float64)).requires_grad_()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", TABLE)
def test_values_and_derivatives(name, layout):
    f, reference, shape, is_view = TABLE[name]
    array = LAYOUTS[layout](draw(shape))
    y = f(mr.from_numpy(array))
    expected = reference(array)
    assert y.shape == expected.shape
    np.testing.assert_array_equal(y.data, expected)
    if layout == "contiguous":
        assert np.shares_memory(y.data, array) == is_view
    check(f, leaf(array)).assert_ok()
    check2(f, leaf(array)).assert_ok()
    assert f(mr.from_numpy(array.astype("float32"))).dtype == np.float32


@pytest.mark.parametrize(
    "name", [n for n, row in TABLE.items() if row[3] and "expand" not in n and n != "broadcast_to"]
)
def test_views_write_through(name):
    """In-place writes into views reach the base, with gradients, whatever the layout."""
    f, reference, shape, _ = TABLE[name]
    array = draw(shape)
    positions = reference(np.arange(array.size).reshape(shape)).reshape(-1)
    x = leaf(array)
    y = x * 1
    view = f(y)
    view *= 3
    weights = draw(shape, 1)
    (y * mr.from_numpy(weights)).sum().backward()
    factor = np.ones(array.size)
    factor[positions] = 3
    np.testing.assert_allclose(y.detach().data.reshape(-1), array.reshape(-1) * factor)
    np.testing.assert_allclose(x.grad.data.reshape(-1), weights.reshape(-1) * factor)


def test_zero_size():
    x = mr.zeros(0, 3, requires_grad=True)
    assert x.reshape(3, 0).shape == (3, 0)
    assert x.reshape(-1).shape == (0,)
    assert x.flatten().shape == (0,)
    assert x.T.shape == (3, 0)
    assert x.split(2)[0].shape == (0, 3)
    assert x.chunk(2)[0].shape == (0, 3)
    assert x.expand(5, 0, 3).shape == (5, 0, 3)
    assert mr.pad(x, (0, 0, 1, 1)).shape == (2, 3)
    assert mr.cat([x, mr.ones(2, 3)]).shape == (2, 3)
    assert x[:, [0, 2]].shape == (0, 2)
    (g,) = mr.grad(mr.pad(x, (0, 0, 1, 1)).sum(), x)
    assert g.shape == (0, 3)


# **** joins ****


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_concatenate_and_stack(dim):
    arrays = [draw((2, 2), seed) for seed in range(3)]
    xs = [leaf(a) for a in arrays]

    def join(*parts):
        return mr.cat(parts, dim)

    def pile(*parts):
        return mr.stack(parts, dim)

    np.testing.assert_array_equal(join(*xs).detach().data, np.concatenate(arrays, dim))
    np.testing.assert_array_equal(pile(*xs).detach().data, np.stack(arrays, dim))
    for f in (join, pile):
        check(f, xs).assert_ok()
        check2(f, xs).assert_ok()
    assert not np.shares_memory(mr.cat(xs[:1]).detach().data, arrays[0])


def test_concatenate_of_unequal_sizes():
    parts = [leaf(draw((n, 2), n)) for n in (1, 0, 3)]
    y = mr.concatenate(parts)
    assert y.shape == (4, 2)
    check(lambda *p: mr.concatenate(p) ** 2, parts).assert_ok()


def test_pieces_cover_the_whole():
    x = leaf(draw((5, 2)))
    for pieces in (x.split(2), x.split([4, 1]), x.chunk(2), x.chunk(9)):
        np.testing.assert_array_equal(mr.cat(pieces).detach().data, x.data)
    first, *_, last = x.split(2)
    (g,) = mr.grad(first.sum() + last.sum() * 2, x)
    assert g.tolist() == [[1, 1], [1, 1], [0, 0], [0, 0], [2, 2]]


# **** indexing ****

MASK = np.array([[True, False, True, False], [False] * 4, [True] * 4])
INDICES = {
    "int": 1,
    "negative int": -1,
    "numpy int": np.int64(2),
    "slice": slice(1, None),
    "steps": (slice(None, None, 2), slice(3, 0, -1)),
    "ints": (2, -1),
    "to scalar view": (0, 0, 1),
    "empty slice": slice(2, 2),
    "ellipsis": (..., 0),
    "ellipsis inside": (1, ..., 1),
    "all": ...,
    "nothing": (),
    "none": (None, 1, None),
    "mask of all": (MASK[:, :, None] & np.array([True, False])),
    "mask of two": MASK,
    "mask of one": np.array([True, False, True]),
    "mask and slice": (slice(None), np.array([True, False, False, True])),
    "empty mask": np.zeros(3, bool),
    "true": True,
    "false": False,
    "list": [2, 0],
    "empty list": [],
    "repeated": [1, 1, 0, 1],
    "negative list": [-1, -3],
    "range": range(2),
    "array": np.array([[0, 2], [1, 1]]),
    "uint8 array": np.uint8([2, 0]),
    "two arrays": (np.array([0, 2, 0]), np.array([1, 3, 1])),
    "broadcast arrays": (np.array([[0], [2]]), np.array([1, 3, 1])),
    "array and slice": (slice(0, 2), [3, 0]),
    "arrays apart": ([0, 1], slice(None), [1, 0]),
    "array, none, ellipsis": (None, [0, 1], ...),
    "int and array": (1, [0, 0, 3]),
    "mask and int": (MASK, 1),
    "tensor": mr.tensor([2, 0]),
    "tensor mask": mr.tensor(MASK),
    "tensor scalar": mr.tensor(1),
    "tensors": (mr.tensor([0, 1]), mr.tensor([[3], [2]])),
    "tuple inside": ((0, 1), (2, 3)),
}


def raw(index):
    if isinstance(index, tuple):
        return tuple(map(raw, index))
    return index.data if isinstance(index, mr.Tensor) else index


@pytest.mark.parametrize("name", INDICES)
def test_getitem(name):
    index, array = INDICES[name], draw((3, 4, 2))
    y = mr.from_numpy(array)[index]
    expected = array[raw(index)]
    assert y.shape == np.shape(expected)
    np.testing.assert_array_equal(y.data, expected)

    def f(x):
        return x[index]

    check(f, leaf(array)).assert_ok()
    check2(f, leaf(array)).assert_ok()


@pytest.mark.slow
@pytest.mark.parametrize("name", INDICES)
def test_setitem(name):
    index, array = INDICES[name], draw((3, 4, 2))
    value = draw(np.shape(array[raw(index)]), 1)

    def f(x, v):
        y = x * 1
        y[index] = v * 2
        return y

    expected = array.copy()
    expected[raw(index)] = value * 2
    np.testing.assert_array_equal(f(mr.from_numpy(array), mr.from_numpy(value)).data, expected)
    check(f, [leaf(array), leaf(value)]).assert_ok()
    check2(f, [leaf(array), leaf(value)]).assert_ok()
    x = mr.from_numpy(array.copy())
    x[index] = -1
    expected[raw(index)] = -1
    np.testing.assert_array_equal(x.data[raw(index)], expected[raw(index)])


@pytest.mark.parametrize(
    ("index", "shape"),
    [
        (0, (2,)),
        (0, (4, 1)),
        (0, ()),
        (slice(None), (1, 4, 2)),
        (0, (1, 1, 4, 2)),
        ([0, 0, 2], (4, 2)),
        (([0, 0], [1, 1]), (2, 1)),
        (MASK, (1, 2)),
        (MASK, ()),
    ],
    ids=str,
)
def test_assignment_broadcasts(index, shape):
    def f(x, v):
        y = x * 1
        y[index] = v * 1
        return y

    array, value = draw((3, 4, 2)), draw(shape, 1)
    expected = array.copy()
    expected[index] = value
    np.testing.assert_array_equal(f(mr.from_numpy(array), mr.from_numpy(value)).data, expected)
    check(f, [leaf(array), leaf(value)]).assert_ok()
    check2(f, [leaf(array), leaf(value)]).assert_ok()


def test_in_place_arithmetic_on_an_item():
    for index in (0, (1, 2), slice(None, None, 2), [0, 0, 2], MASK, (..., 1)):

        def f(x, w, index=index):
            y = x * 1
            y[index] += 1
            y[index] *= w
            return y * y

        array = draw((3, 4, 2))
        expected = array.copy()
        expected[index] += 1
        expected[index] *= 0.7
        x, w = leaf(array), leaf(0.7)
        np.testing.assert_allclose(f(x, w).detach().data, expected**2, rtol=1e-14)
        check(f, [x, w]).assert_ok()


def test_of_several_values_for_one_entry_the_last_stays():
    x, v = leaf(np.zeros(3)), leaf([1.0, 2.0, 3.0])
    y = x * 1
    y[[1, 0, 1]] = v
    assert y.tolist() == [2, 3, 0]
    y.sum().backward()
    assert v.grad.tolist() == [0, 1, 1]
    assert x.grad.tolist() == [0, 0, 1]


def test_overlapping_assignment():
    x = leaf([1.0, 2.0, 3.0, 4.0])
    y = x * 1
    y[1:] = y[:-1]
    assert y.tolist() == [1, 1, 2, 3]
    (y * mr.tensor([1.0, 10.0, 100.0, 1000.0], "float64")).sum().backward()
    assert x.grad.tolist() == [11, 100, 1000, 0]


def test_an_index_may_be_reused():
    index, mask = np.array([0, 1]), np.array([True, False, False])
    positions = mr.tensor([2, 2])
    x = leaf([1.0, 2.0, 3.0])
    y = x * 1
    y[index] = mr.tensor([5.0, 5.0], "float64")
    z = y[index].sum() + y[mask].sum() + y[positions].sum()
    index[:], mask[:] = 2, True
    positions.fill_(0)
    z.backward()
    assert x.grad.tolist() == [0, 0, 2]


def test_one_entry_is_a_view_too():
    x = mr.zeros(3)
    x[1].fill_(5.0)
    x[2] += 1
    assert x.tolist() == [0, 5, 1]
    assert x[0].shape == ()


def test_slices_are_views_and_arrays_copy():
    x = mr.ones(3, 4)
    for index in (0, slice(1), (..., 1), None, (0, 0)):
        assert np.shares_memory(x[index].data, x.data)
    for index in ([0], np.array([True, False, True]), mr.tensor([1])):
        assert not np.shares_memory(x[index].data, x.data)


@pytest.mark.parametrize(
    ("act", "error", "words"),
    [
        (lambda x: x.reshape(4), ShapeError, r"a shape of 6 entries, got \(4,\) \(x \(2, 3\)\)"),
        (lambda x: x.reshape(-1, 4), ShapeError, "a shape of 6 entries"),
        (lambda x: x.reshape(-1, -1), ShapeError, "at most one -1"),
        (lambda x: x.reshape(2.0, 3), ShapeError, "reshape: expected integers"),
        (lambda x: x.reshape(-2, 3), ShapeError, "sizes >= 0"),
        (lambda x: x.permute(0, 0), ShapeError, "each of the 2 dims once"),
        (lambda x: x.permute(0), ShapeError, "each of the 2 dims once"),
        (lambda x: x.transpose(0, 2), ShapeError, r"transpose: expected dim in -2\.\.1, got 2"),
        (lambda x: x[None].T, ShapeError, r"a matrix.*permute"),
        (lambda x: x.flatten(1, 0), ShapeError, "start_dim <= end_dim"),
        (lambda x: x.squeeze(2), ShapeError, "squeeze: expected dim"),
        (lambda x: x.unsqueeze(4), ShapeError, r"unsqueeze: expected dim in -3\.\.2, got 4"),
        (lambda x: x.expand(2, 4), ShapeError, "can be broadcast to"),
        (lambda x: x.expand(3), ShapeError, "expand: expected"),
        (lambda x: x.expand(-1, 2, 3), ShapeError, "can be broadcast to"),
        (lambda x: mr.cat([]), ArgumentError, "concatenate: expected at least one tensor"),
        (lambda x: mr.cat([x, x[0]]), ShapeError, r"agree outside dim 0, got \(2, 3\) and \(3,\)"),
        (lambda x: mr.cat([x, x[:, :2]]), ShapeError, "agree outside dim 0"),
        (lambda x: mr.cat([x, x.double()]), DTypeError, "float32 .* float64"),
        (lambda x: mr.cat([x, 1]), DTypeError, "tensors, got int at position 1"),
        (lambda x: mr.cat([x, x], 2), ShapeError, "concatenate: expected dim"),
        (lambda x: mr.stack([x, x[:1]]), ShapeError, "tensors of one shape"),
        (lambda x: x.split(0), ArgumentError, "split_size >= 1"),
        (lambda x: x.split([1, 2]), ShapeError, "add up to 2"),
        (lambda x: x.chunk(0), ArgumentError, "chunks >= 1"),
        (lambda x: mr.pad(x, (1,)), ShapeError, "pairs of widths"),
        (lambda x: mr.pad(x, (1,) * 6), ShapeError, "at most 2 dims"),
        (lambda x: mr.pad(x, (-2, -2)), ShapeError, "to leave sizes >= 0"),
        (lambda x: mr.pad(x.long(), (1, 1), 0.5), DTypeError, "do not mix"),
        (lambda x: x[2], ShapeError, r"index: index 2 is out of bounds .*\(shape \(2, 3\)\)"),
        (lambda x: x[0, 0, 0], ShapeError, "too many indices"),
        (lambda x: x[[5]], ShapeError, "out of bounds"),
        (lambda x: x[np.ones(3, bool)], ShapeError, "index: boolean index did not match"),
        (lambda x: x[1.5], DTypeError, "index: expected integers, slices or bools, got 1.5"),
        (lambda x: x["a"], DTypeError, "got 'a'"),
        (lambda x: x[np.ones(2)], DTypeError, "got float64"),
        (lambda x: x[mr.ones(2)], DTypeError, "an integer or bool tensor, got float32"),
        (lambda x: x.__setitem__(2, 1.0), ShapeError, "out of bounds"),
        (lambda x: x.__setitem__(0, mr.ones(2)), ShapeError, r"of shape \(3,\), got \(2,\)"),
        (lambda x: x.__setitem__(0, mr.ones(3).double()), DTypeError, "assignment: expected one"),
        (lambda x: x.__setitem__(0, [1.0]), DTypeError, "got list"),
        (lambda x: x.long().__setitem__(0, 1.5), DTypeError, "do not mix"),
        (lambda x: x.requires_grad_().__setitem__(0, 1.0), GraphError, "a leaf that requires grad"),
    ],
)
def test_errors(act, error, words):
    x = mr.ones(2, 3)
    with pytest.raises(error, match=words):
        act(x)
    assert x.tolist() == [[1, 1, 1], [1, 1, 1]], "an error changes nothing"


# **** parity ****


@pytest.mark.parametrize(
    "f",
    [
        lambda lib, x: x.view(-1, 2).transpose(0, 1).reshape(3, -1),
        lambda lib, x: x.permute(1, 0, 2).flatten(1)[:, ::3],
        lambda lib, x: lib.cat([x, x[:1] * 2]).unsqueeze(-1).expand(-1, -1, -1, 2).sum(1),
        lambda lib, x: lib.stack(x.split(2, 1), 1)[..., [0, 0, 1]],
        lambda lib, x: x[x > 0] ** 2,
        lambda lib, x: x[[0, 1, 0], ..., [1, 1, 0]],
        lambda lib, x: x[:, None, [1, 3]].squeeze(1) * x[:, ::2],
        lambda lib, x: x.chunk(3, 1)[1].squeeze(),
    ],
)
def test_parity(f):
    torch = pytest.importorskip("torch")
    array = draw((3, 4, 2), 4)
    x, t = leaf(array), torch.tensor(array, requires_grad=True)
    y, theirs = f(mr, x), f(torch, t)
    assert y.shape == tuple(theirs.shape)
    np.testing.assert_allclose(y.detach().data, theirs.detach().numpy(), rtol=1e-14)
    gy = draw(y.shape, 5)
    (g,) = mr.grad(y, x, mr.from_numpy(gy))
    (tg,) = torch.autograd.grad(theirs, t, torch.tensor(gy))
    np.testing.assert_allclose(g.data, tg.numpy(), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("padding", [(1, 2), (0, 1, 2, 0), (-1, 1), (1, -1, -1, 2), (0, 0)])
def test_parity_of_pad(padding):
    torch = pytest.importorskip("torch")
    array = draw((2, 3, 4))
    mine = mr.pad(mr.from_numpy(array), padding, 1.5)
    theirs = torch.nn.functional.pad(torch.tensor(array), padding, value=1.5)
    np.testing.assert_array_equal(mine.data, theirs.numpy())


def test_pad_keeps_the_order_in_memory():
    x = mr.Tensor(np.arange(24.0).reshape(1, 3, 4, 2).transpose(0, 3, 1, 2))
    y = mr.ops.pad(x, (1, 0, 0, 2, 3, 0))
    assert y.shape == (1, 5, 5, 5)
    assert y.numpy().transpose(0, 2, 3, 1).flags.c_contiguous
    np.testing.assert_array_equal(y.numpy()[0, 3:, :3, 1:], x.numpy()[0])
    assert y.sum().item() == x.sum().item()
