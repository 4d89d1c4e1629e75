"""Writing in place: what was saved is protected, the rest is differentiated, also through views."""

from __future__ import annotations

import re

import numpy as np
import pytest
from harness import F64, leaf, line

import minires as mr
from minires.errors import ArgumentError, DTypeError, GraphError, ShapeError


def test_a_saved_input_changed_in_place_names_both_lines():
    x, w = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    y = x * 1
    saved_at = line() + 1
    z = y * w
    changed_at = line() + 1
    y += 1
    with pytest.raises(GraphError) as error:
        z.sum().backward()
    text = str(error.value)
    assert re.search(rf"Mul saved a tensor of shape \(2,\) \(version 0\) at \S+:{saved_at};", text)
    assert re.search(rf"changed in place at \S+:{changed_at} \(version 1\)", text)
    assert "test_inplace.py" in text
    assert "y = y + x" in text


@pytest.mark.parametrize(
    "write",
    [
        lambda y: y.fill_(0.0),
        lambda y: y.__setitem__(0, 5.0),
        lambda y: y[1:].zero_(),
        lambda y: y.reshape(2, 1).mul_(2.0),
        lambda y: y.detach().add_(1.0),
        lambda y: mr.Tensor(y).detach().add_(1.0),
        lambda y: y.detach()[0].fill_(3.0),
        lambda y: y.bump_version(),
        lambda y: setattr(y, "data", np.zeros(2)),
    ],
    ids=["fill", "setitem", "slice", "view", "detach", "Tensor", "detached view", "bump", "data"],
)
@pytest.mark.parametrize("grad_mode", [True, False])
def test_every_way_to_write_is_seen(write, grad_mode):
    y = leaf([1.0, 2.0]) * 1
    z = y.exp() * 2
    kept = y * leaf([1.0, 1.0])  # saves y
    with mr.set_grad_enabled(grad_mode):
        write(y)
    z.sum().backward()  # saved its own output: not concerned
    with pytest.raises(GraphError, match="changed in place"):
        kept.sum().backward()


def test_a_saved_output_changed_in_place():
    y = leaf([1.0]).exp()
    y += 1
    with pytest.raises(GraphError, match="Exp saved"):
        y.backward()


def test_in_place_writes_that_touch_nothing_saved_are_legal():
    x, shortcut = leaf([1.0, -5.0]), leaf([2.0, 1.0])
    y = x * 3.0
    y += shortcut  # d2l: Y += X, then relu(Y)
    z = mr.relu(y)
    z.sum().backward()
    assert x.grad.tolist() == [3, 0]
    assert shortcut.grad.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("write", "gx", "gw"),
    [
        (lambda y, w: y.__iadd__(w), [1, 1], [1, 1]),
        (lambda y, w: y.__isub__(w), [1, 1], [-1, -1]),
        (lambda y, w: y.__imul__(w), [3, 4], [2, 3]),
        (lambda y, w: y.__itruediv__(w), [1 / 3, 1 / 4], [-2 / 9, -3 / 16]),
        (lambda y, w: y.__ipow__(2), [4, 6], None),
        (lambda y, w: y.copy_(w), [0, 0], [1, 1]),
        (lambda y, w: y.fill_(7.0), [0, 0], None),
        (lambda y, w: y.clip_(max=2.5), [1, 0], None),
        (lambda y, w: y.__setitem__(0, w[1]), [0, 1], [0, 1]),
        (lambda y, w: y[1:].mul_(w[:1]), [1, 3], [3, 0]),
        (lambda y, w: y[0].copy_(w[0]), [0, 1], [1, 0]),
    ],
    ids="add sub mul div pow copy fill clip setitem view scalar".split(),  # noqa: SIM905
)
def test_in_place_operators_are_differentiated(write, gx, gw):
    """An operator that saves the very tensor it writes keeps the old values for itself."""
    x, w = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    y = x + 1
    write(y, w)
    (y.sum() + 0 * x.sum()).backward()
    np.testing.assert_allclose(x.grad.data, gx)
    if gw is None:
        assert w.grad is None
    else:
        np.testing.assert_allclose(w.grad.data, gw)


def test_in_place_on_itself():
    x = leaf([1.0, 2.0])
    y = x * 1
    y *= y
    y += y
    y.sum().backward()
    assert x.grad.tolist() == [4, 8]


def test_leaves_that_require_grad_are_protected():
    x = leaf([1.0, 2.0])
    at = line() + 2
    with pytest.raises(GraphError, match=rf"test_inplace.py:{at}: a leaf that requires grad"):
        x += 1
    with pytest.raises(GraphError, match="a view of a leaf that requires grad"):
        x[0].fill_(1.0)
    with pytest.raises(GraphError, match="no_grad"):
        x[0] = 1.0
    own = mr.zeros(4)[:2].requires_grad_()
    with pytest.raises(GraphError, match="a leaf that requires grad"):
        own += 1
    assert x.tolist() == [1, 2]
    with mr.no_grad():
        x += 1
        x[0] = 10.0
    assert x.tolist() == [10, 3]
    assert x.is_leaf


def test_a_write_through_a_view_reaches_the_base_and_its_other_views():
    x = leaf([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    y = x * 2
    row, column = y[0], y[:, 1]
    row *= 10
    (column.sum() + y[0, 1] * 100 + row[2]).backward()
    assert y.tolist() == [[20, 40, 60], [8, 10, 12]]
    assert column.tolist() == [40, 10]
    assert x.grad.tolist() == [[0, 20 + 2000, 20], [0, 2, 0]]


def test_a_write_through_a_view_of_a_view():
    x = leaf(np.arange(12.0).reshape(3, 4))
    y = x * 1
    inner = y.T[1:3][::-1][:, 1]
    inner += 5
    inner *= 2
    (y * y).sum().backward()
    expected = 2 * x.data
    changed = np.zeros((3, 4), bool)
    changed[1, 1:3] = True
    values = np.where(changed, (x.data + 5) * 2, x.data)
    np.testing.assert_allclose(y.data, values)
    np.testing.assert_allclose(x.grad.data, np.where(changed, 2 * 2 * values, expected))


def test_a_write_through_a_reshape_when_the_gradient_has_another_layout():
    """The gradient of y arrives transposed; its flat form is then a copy, and no view."""
    x = leaf(np.arange(6.0).reshape(2, 3))
    y = x * 1
    y.reshape(6)[0:2] = 0.0
    c = mr.tensor(np.arange(1.0, 7).reshape(3, 2))
    (y.T * c).sum().backward()
    assert x.grad.tolist() == [[0, 0, 5], [2, 4, 6]]


def test_a_view_of_what_was_overwritten_by_a_constant_has_no_history():
    x = leaf([1.0, 2.0, 3.0])
    y = x * 2
    view = y[0:2]
    y.fill_(1.0)
    assert not view.requires_grad
    assert view.is_leaf
    y += x
    assert view.requires_grad
    view.sum().backward()
    assert x.grad.tolist() == [1, 1, 0]


def test_writing_a_tensor_that_requires_grad_into_one_that_does_not():
    w = leaf([1.0, 2.0])
    buffer = mr.zeros(4, dtype=F64)
    tail = buffer[2:]
    buffer[1:3] = w * 3
    assert buffer.requires_grad
    (tail * mr.tensor([10.0, 1.0], F64)).sum().backward()
    assert w.grad.tolist() == [0, 30]


def test_a_view_made_under_no_grad_cannot_be_written_with_history():
    y = leaf([1.0, 2.0]) * 1
    with mr.no_grad():
        view = y[:1]
    w = leaf([3.0])
    with pytest.raises(GraphError, match="made under no_grad"):
        view += w
    with mr.no_grad():
        view += 1
    assert y.tolist() == [2, 2]


@pytest.mark.parametrize(
    ("act", "error", "words"),
    [
        (lambda: mr.ones(2).add_(mr.ones(3, 2)), ShapeError, r"shape \(2,\), got \(3, 2\)"),
        (lambda: mr.tensor([1, 2]).div_(2), DTypeError, "dtype int64, got float32"),
        (lambda: mr.tensor([1, 2]).add_(0.5), DTypeError, "do not mix"),
        (lambda: mr.tensor([1, 2]).fill_(0.5), DTypeError, "do not mix"),
        (lambda: mr.tensor([True]).add_(1), DTypeError, "dtype bool, got int64"),
        (lambda: mr.ones(2, 1).expand(2, 3).add_(1), ArgumentError, r"read-only.*x\.clone\(\)"),
        (lambda: mr.ones(1).expand(3).__setitem__(0, 2.0), ArgumentError, "read-only"),
        (lambda: mr.ones(1).expand(3)[1:].zero_(), ArgumentError, "read-only"),
        (lambda: mr.ones(3).copy_(mr.ones(2)), ShapeError, r"broadcasts to \(3,\), got \(2,\)"),
        (lambda: mr.ones(3).__setitem__(slice(2), mr.ones(3)), ShapeError, r"shape \(2,\), got"),
    ],
)
def test_in_place_writes_that_cannot_be(act, error, words):
    with pytest.raises(error, match=words):
        act()


def test_read_only_memory():
    array = np.ones(3)
    array.flags.writeable = False
    x = mr.from_numpy(array)
    for write in (lambda: x.__setitem__(0, 2.0), lambda: x.add_(1), lambda: x.zero_()):
        with pytest.raises(ArgumentError, match="read-only memory"):
            write()
    assert array.tolist() == [1, 1, 1]


def test_expand_of_the_same_shape_stays_writeable():
    x = mr.ones(3)
    x.expand(1, 3).zero_()
    assert x.tolist() == [0, 0, 0]


# **** parity ****


VIEW_PROGRAMS = {
    "slice add": lambda x: x[1:].add_(x[:-1] * 2),
    "column mul": lambda x: x[:, 1].mul_(3.0),
    "row from row": lambda x: x.__setitem__(0, x[1].exp() + x[2]),
    "transposed": lambda x: x.transpose(0, 1)[1].mul_(x[0, 0].clone()),
    "flat": lambda x: x.reshape(-1)[2:7].pow_(2),
    "mask": lambda x: x.__setitem__(x > 0.3, 1.5),
    "fancy": lambda x: x.__setitem__(([0, 2], [1, 1]), x[1, 1] * 4),
    "twice": lambda x: (x[0].mul_(2.0), x[:, 0].add_(x[1, 2])),
    "zero then use": lambda x: (x[1].zero_(), x[1].add_(x[0])),
    "squeeze": lambda x: x[None].squeeze(0)[2].copy_(x[0].exp()),
    "div": lambda x: x[0, 1:].div_(x[1, 1:].exp()),
    "nested": lambda x: x[1:][1:][0][::2].mul_(5.0),
}


@pytest.mark.parametrize("name", VIEW_PROGRAMS)
def test_parity_of_in_place_programs(name):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    values, weights = rng.standard_normal((2, 3, 3))

    def program(lib, x, c):
        y = x * 1
        row = y[2]
        VIEW_PROGRAMS[name](y)
        return (y * y * c).sum() + row.sum() * 3

    x = leaf(values)
    mine = program(mr, x, mr.tensor(weights))
    mine.backward()
    t = torch.tensor(values, requires_grad=True)
    theirs = program(torch, t, torch.tensor(weights))
    theirs.backward()
    assert mine.item() == pytest.approx(theirs.item(), rel=1e-12)
    np.testing.assert_allclose(x.grad.data, t.grad.numpy(), rtol=1e-12)
