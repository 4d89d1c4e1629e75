"""The tape and the walk back: right gradients, clear errors, nothing shared, nothing kept."""

from __future__ import annotations

import gc
import inspect
import re
import threading
import time
import warnings
import weakref

import numpy as np
import pytest

import minires as mr
from minires import autograd
from minires.errors import ArgumentError, DTypeError, GraphError, NaNError, ShapeError

F64 = "float64"


def leaf(values, dtype=F64):
    return mr.tensor(values, dtype=dtype, requires_grad=True)


def line():
    """The line of the caller, as messages write it."""
    return inspect.currentframe().f_back.f_lineno


class Recorder(mr.Function):
    """x * y * z, which notes whose gradients it computed."""

    computed: list[int] = []  # noqa: RUF012 - shared on purpose

    @staticmethod
    def forward(ctx, x, y, z):
        ctx.save(x, y, z)
        return x * y * z

    @staticmethod
    def backward(ctx, gy):
        x, y, z = ctx.saved
        others = [(y, z), (x, z), (x, y)]
        result = [None] * 3
        for index, (a, b) in enumerate(others):
            if ctx.needs_grad[index]:
                Recorder.computed.append(index)
                result[index] = gy * a * b
        return tuple(result)


def two_outputs(x):
    """(2x, 3x) by one function."""

    class Two(mr.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2, x * 3

        @staticmethod
        def backward(ctx, ga, gb):
            return ga * 2 + gb * 3

    return Two.apply(x)


# **** graphs ****


def test_shared_nodes_are_visited_once_all_their_gradients_are_there():
    a = leaf(3.0)
    b = a + a
    c = b + b
    d = c * b  # d = 4a * 2a
    d.backward()
    assert a.grad.item() == 16 * 3


def test_a_diamond_of_unequal_arms():
    x = leaf([1.0, -2.0])
    short = x * 2
    long = (((x * x) * 3) + short) * short
    (long + short).sum().backward()
    # 3x² · 2x + 4x² + 2x → 18x² + 8x + 2
    np.testing.assert_allclose(x.grad.data, 18 * x.data**2 + 8 * x.data + 2)


def test_several_outputs_of_one_function():
    x = leaf([1.0, 2.0])
    a, b = two_outputs(x)
    (a * b).sum().backward()
    np.testing.assert_allclose(x.grad.data, 12 * x.data)
    x.grad = None
    a, b = two_outputs(x)
    b.sum().backward()  # the other output has no gradient: zeros stand in for it
    np.testing.assert_allclose(x.grad.data, [3, 3])


def test_several_roots():
    x = leaf([1.0, 2.0])
    y, z = x * 2, x * x
    (g,) = mr.grad([y, z], x, [mr.tensor([1.0, 1.0], F64), mr.tensor([1.0, 10.0], F64)])
    np.testing.assert_allclose(g.data, [2 + 2, 2 + 40])
    (g,) = mr.grad([x.sum(), x.sum()], x)
    assert g.tolist() == [2, 2]


def test_a_chain_of_100_000_operations():
    x = leaf([1.0])
    start = time.process_time()
    y = x
    for _ in range(100_000):
        y = y + 1
    y.backward()
    assert x.grad.item() == 1
    node = weakref.ref(y.grad_fn.ctx)
    del y
    assert node() is None, "dropping the last tensor frees the whole graph at once"
    assert time.process_time() - start < 10


def test_a_chain_whose_nodes_save_their_inputs_is_dropped_without_recursion():
    x = leaf([1.0])
    y = x
    for _ in range(20_000):
        y = (y * x).tanh()
    del y  # never walked back: everything saved is still there


def test_a_deep_graph_in_a_thread():
    result = []

    def work():
        x = leaf([1.0])
        y = x
        for _ in range(20_000):
            y = y * 1.0
        y.backward()
        result.append(x.grad.item())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert result == [1]


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2), (1, 2), (0, 1, 2)])
def test_only_gradients_that_are_needed_are_computed(wanted):
    Recorder.computed.clear()
    args = [mr.tensor([2.0 + i], F64, requires_grad=i in wanted) for i in range(3)]
    Recorder.apply(*args).sum().backward()
    assert sorted(Recorder.computed) == list(wanted)
    values = [2.0, 3.0, 4.0]
    for index, arg in enumerate(args):
        expected = np.prod(values) / values[index] if index in wanted else None
        assert (None if arg.grad is None else arg.grad.item()) == expected


def test_nothing_is_recorded_without_need():
    x = mr.ones(3)
    assert (x * 2).grad_fn is None
    with mr.no_grad():
        assert (leaf([1.0]) * 2).grad_fn is None
    y = mr.tensor([1, 2]) == mr.tensor([1, 3])
    assert not y.requires_grad


def test_grad_skips_branches_that_lead_nowhere():
    Recorder.computed.clear()
    x, w = leaf([1.0]), leaf([2.0])
    y = x * 3 + Recorder.apply(w, w, w)
    (g,) = mr.grad(y, x)
    assert g.item() == 3
    assert Recorder.computed == []


# **** saved tensors and writes in place ****


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
    assert "test_autograd.py" in text
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
    with pytest.raises(GraphError, match=rf"test_autograd.py:{at}: a leaf that requires grad"):
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


# **** the graph is used once ****


def test_a_second_backward_names_the_lines():
    x = leaf([1.0, 2.0])
    made_at = line() + 1
    y = (x * x).sum()
    first_at = line() + 1
    y.backward()
    second_at = line() + 2
    with pytest.raises(GraphError) as error:
        y.backward()
    text = str(error.value)
    assert re.search(rf"Mul saved at \S+test_autograd.py:{made_at} were released", text)
    assert re.search(rf"first backward at \S+:{first_at};", text)
    assert re.search(rf"second one came at \S+:{second_at}\.", text)
    assert "retain_graph=True" in text


def test_retain_graph_allows_more():
    x = leaf([1.0, 2.0])
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.tolist() == [6, 12]
    with pytest.raises(GraphError, match="released"):
        mr.grad(y, x)


def test_what_is_saved_is_freed_by_backward():
    x = leaf(np.ones(1000))
    y = x * 2
    saved = weakref.ref(y.data)
    z = (y * y).sum()
    del y
    assert saved() is not None
    z.backward()
    assert saved() is None
    assert z.grad_fn is not None, "the graph itself is still there to be named"


def test_no_reference_cycles():
    x, w = leaf([1.0, 2.0]), leaf([3.0, 4.0])

    def work():
        y = x * w
        y += x
        y *= w
        v = y[:1]
        v += 2
        y.retain_grad()
        z = mr.relu(y).sum() / mr.softmax(y).max()
        z.backward()
        (z * 1).detach()

    work()
    gc.collect()
    gc.disable()
    try:
        for _ in range(1000):
            work()
        assert gc.collect() < 100  # one cycle per graph would be thousands of objects
    finally:
        gc.enable()


def test_a_failed_backward_changes_no_grad():
    class Fails(mr.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1

        @staticmethod
        def backward(ctx, gy):
            raise ZeroDivisionError("in backward")

    a, b = leaf([1.0]), leaf([2.0])
    kept = b * 2
    kept.retain_grad()
    z = Fails.apply(a) + kept * 3  # the newest node, kept * 3, comes first
    with pytest.raises(ZeroDivisionError):
        z.backward()
    with warnings.catch_warnings():
        assert (a.grad, b.grad, kept.grad) == (None, None, None)


def test_a_failing_hook_changes_no_grad():
    a, b = leaf([1.0]), leaf([2.0])

    def hook(gradient):
        raise ZeroDivisionError("in hook")

    b.register_hook(hook)
    with pytest.raises(ZeroDivisionError):
        (a * b).backward()
    assert a.grad is None
    assert b.grad is None


# **** what backward does to .grad ****


def test_gradients_add_up_over_calls():
    x = leaf([1.0, 2.0])
    (x * 2).sum().backward()
    held = x.grad
    (x * 3).sum().backward()
    assert x.grad.tolist() == [5, 5]
    assert held is x.grad, "the same tensor is added to, as in PyTorch"
    with mr.no_grad():
        x.grad.zero_()
    (x * 7).sum().backward()
    assert x.grad.tolist() == [7, 7]


def test_adding_to_a_grad_that_was_used_is_seen():
    x, w = leaf([1.0]), leaf([2.0])
    (x * 2).sum().backward()
    y = x.grad * w  # saves x.grad
    (x * 2).sum().backward()
    with pytest.raises(GraphError, match="changed in place"):
        y.backward()


def test_a_grad_in_read_only_memory_is_replaced():
    x = leaf([1.0, 2.0])
    x.grad = mr.ones(1, dtype=F64).expand(2)
    (x * 2).sum().backward()
    assert x.grad.tolist() == [3, 3]


def test_grad_may_be_set_and_is_checked():
    x = leaf([1.0, 2.0])
    x.grad = mr.tensor([1.0, 1.0], F64)
    x.grad = None
    with pytest.raises(ShapeError, match=r"shape \(2,\), got \(3,\)"):
        x.grad = mr.zeros(3, dtype=F64)
    with pytest.raises(DTypeError, match="float64, got float32"):
        x.grad = mr.zeros(2)
    with pytest.raises(DTypeError, match="ndarray"):
        x.grad = np.zeros(2)


def test_grad_of_a_result_warns():
    y = leaf([1.0]) * 2
    with pytest.warns(UserWarning, match=r"result of <Mul \S+:\d+>.*retain_grad\(\)"):
        assert y.grad is None
    y.retain_grad()
    y.backward()
    assert y.grad.item() == 1


UNALIASED = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "neg": lambda a, b: -a - (-b),
    "mul by one": lambda a, b: a * 1 + b * 1,
    "reshape": lambda a, b: a.reshape(3, 2) + b.reshape(3, 2),
    "transpose": lambda a, b: a.T + b.T,
    "expand": lambda a, b: a.expand(4, 2, 3) + b,
    "index": lambda a, b: a[:] + b[...],
    "clone": lambda a, b: a.clone() + b.clone(),
    "cat": lambda a, b: mr.cat([a, b]),
    "stack": lambda a, b: mr.stack([a, b]),
    "sum": lambda a, b: a.sum() + b.sum(),
    "sum dim": lambda a, b: a.sum(0) + b.sum(0),
    "mul": lambda a, b: a * b,
    "where": lambda a, b: mr.where(mr.ones(2, 3) > 0, a, b),
    "relu": lambda a, b: mr.relu(a) + mr.relu(b),
    "pad": lambda a, b: mr.pad(a, (1, 1)) + mr.pad(b, (1, 1)),
    "max": lambda a, b: mr.maximum(a, b),
    "shared": lambda a, b: (a + b) + (b + a),
}


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("name", UNALIASED)
def test_gradients_share_memory_with_nothing(name, create_graph):
    a, b = leaf(np.arange(6.0).reshape(2, 3)), leaf(np.ones((2, 3)))
    y = UNALIASED[name](a, b)
    upstream = mr.tensor(np.ones(y.shape), F64)
    seen = []
    a.register_hook(lambda g: seen.append(g))  # only looks: returns None
    y.register_hook(seen.append)
    y.backward(upstream, create_graph=create_graph)
    arrays = [a.grad.data, b.grad.data, upstream.data, a.data, b.data, y.data]
    arrays += [g.data for g in seen]
    for gradient in arrays[:2]:
        assert gradient.flags.writeable
        for other in arrays:
            assert gradient is other or not np.shares_memory(gradient, other)
    gradients = mr.grad(UNALIASED[name](a, b), [a, b], upstream)
    assert not np.shares_memory(gradients[0].data, gradients[1].data)
    assert not np.shares_memory(gradients[0].data, upstream.data)


def test_what_a_hook_returns_stays_the_users():
    x = leaf([1.0, 2.0])
    fixed = mr.tensor([7.0, 7.0], F64)
    x.register_hook(lambda g: fixed)
    for _ in range(2):
        (x * 2).sum().backward()
    assert x.grad.tolist() == [14, 14]
    assert fixed.tolist() == [7, 7]


def test_a_function_that_hands_through_its_input_makes_new_memory():
    class Same(mr.Function):
        @staticmethod
        def forward(ctx, x):
            return x

        @staticmethod
        def backward(ctx, gy):
            return gy

    x = leaf([1.0])
    y = Same.apply(x)
    y += 1
    assert x.item() == 1
    y.backward()
    assert x.grad.item() == 1


# **** a Function that breaks its contract ****


@pytest.mark.parametrize(
    ("result", "error", "words"),
    [
        (lambda gy: gy.sum(), ShapeError, r"Bad.backward, argument 0: expected .*\(2,\), got \(\)"),
        (lambda gy: gy.astype("float32"), DTypeError, "float64, got float32"),
        (lambda gy: gy.data, GraphError, "a tensor for argument 0, got ndarray"),
        (lambda gy: (gy, gy), GraphError, "expected 1 gradients.*got 2"),
    ],
)
def test_wrong_gradients_of_a_function_are_refused(result, error, words):
    class Bad(mr.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, gy):
            return result(gy)

    with pytest.raises(error, match=words):
        Bad.apply(leaf([1.0, 2.0])).sum().backward()


def test_a_function_without_derivative_says_so():
    class Forward(mr.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

    at = line() + 1
    y = Forward.apply(leaf([1.0]))
    with pytest.raises(GraphError, match=rf"Forward at \S+:{at} has no derivative"):
        y.backward()


def test_save_takes_inputs_and_outputs_only():
    class Saves(mr.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save(x * 1)
            return x * 2

    with pytest.raises(GraphError, match="save_constants"):
        Saves.apply(leaf([1.0]))


def test_a_tensor_as_an_option_is_refused():
    class Scale(mr.Function):
        @staticmethod
        def forward(ctx, x, w=None):
            return x * w

    with pytest.raises(GraphError, match="positional arguments, got one as w="):
        Scale.apply(leaf([1.0]), w=leaf([2.0]))


@pytest.mark.parametrize("f", [mr.exp, mr.sqrt, mr.tanh, mr.sigmoid, lambda x: x.logsumexp()])
def test_outputs_of_scalars_can_be_saved(f):
    """NumPy gives scalars, not arrays, for arrays without dimensions."""
    x = leaf(0.5)
    h = 1e-6
    f(x).backward()
    numeric = (f(mr.tensor(0.5 + h, F64)).item() - f(mr.tensor(0.5 - h, F64)).item()) / (2 * h)
    assert x.grad.item() == pytest.approx(numeric, rel=1e-6)


# **** modes ****


def test_grad_modes_nest_and_decorate():
    @mr.no_grad()
    def silent(x):
        with mr.enable_grad():
            assert mr.is_grad_enabled()
        with mr.set_grad_enabled(True), mr.no_grad():
            assert not mr.is_grad_enabled()
        return x * 2

    assert not silent(leaf([1.0])).requires_grad
    with pytest.raises(ZeroDivisionError), mr.no_grad():
        raise ZeroDivisionError
    assert mr.is_grad_enabled()
    mode = mr.no_grad()
    with mode, mode:
        assert not mr.is_grad_enabled()
    assert mr.is_grad_enabled()


def test_grad_mode_is_per_thread():
    inside, leave = threading.Event(), threading.Event()
    seen = {}

    @mr.no_grad()
    def work(name):
        seen[name] = mr.is_grad_enabled()
        inside.set()
        assert leave.wait(5)
        seen[name + " after"] = mr.is_grad_enabled()

    threads = [threading.Thread(target=work, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    assert inside.wait(5)
    assert mr.is_grad_enabled()
    assert (leaf([1.0]) * 2).requires_grad
    leave.set()
    for thread in threads:
        thread.join()
    assert seen == dict.fromkeys(("one", "two", "one after", "two after"), False)


def test_threads_build_graphs_side_by_side():
    results = {}

    def work(k):
        x = leaf([float(k)])
        for _ in range(50):
            x.grad = None
            y = x
            for _ in range(20):
                y = y * 1.0 + x
            y.backward()
        results[k] = x.grad.item()

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == dict.fromkeys(range(4), 21)


# **** hooks ****


def test_hooks_see_and_replace_gradients():
    x = leaf([1.0, 2.0])
    y = x * 2
    seen = []
    first = x.register_hook(lambda g: g * 10)
    x.register_hook(lambda g: seen.append(g.tolist()))
    y.register_hook(lambda g: g + 1)
    (y + y).sum().backward()
    assert seen == [[60, 60]]  # (1 + 1 + 1) * 2 * 10: each hook once, on the complete gradient
    assert x.grad.tolist() == [60, 60]
    first.remove()
    first.remove()
    with x.register_hook(lambda g: g * 0):
        assert mr.grad((x * 2).sum(), x)[0].tolist() == [0, 0]
    assert mr.grad((x * 2).sum(), x)[0].tolist() == [2, 2]


def test_a_hook_of_a_wrong_shape_is_refused():
    x = leaf([1.0, 2.0])
    x.register_hook(lambda g: g.sum())
    with pytest.raises(ShapeError, match=r"hook: expected a gradient of shape \(2,\)"):
        x.sum().backward()


def test_hooks_and_retain_grad_need_a_gradient():
    with pytest.raises(GraphError, match="register_hook: expected a tensor that requires grad"):
        mr.ones(2).register_hook(print)
    with pytest.raises(GraphError, match="retain_grad"):
        mr.ones(2).retain_grad()


def test_retain_grad():
    x = leaf([1.0, 2.0])
    y = x * 2
    y.register_hook(lambda g: g * 5)
    y.retain_grad()
    y.retain_grad()
    y.register_hook(lambda g: g * 2)
    (y * 3).sum().backward(retain_graph=True)
    assert y.grad.tolist() == [30, 30], "what the last hook made of it"
    (y * 3).sum().backward()
    assert y.grad.tolist() == [60, 60]
    assert not np.shares_memory(y.grad.data, x.grad.data)
    before = y.grad.tolist()
    mr.grad((y * 3).sum(), y)
    assert y.grad.tolist() == before, "grad() touches no .grad"


def test_retain_grad_follows_a_write_in_place():
    x = leaf([1.0, 2.0])
    y = x * 2
    y.retain_grad()
    y *= 10
    (y * 3).sum().backward()
    assert y.grad.tolist() == [3, 3]
    assert x.grad.tolist() == [60, 60]


# **** grad() ****


def test_grad_of_results_within_the_graph():
    x = leaf([1.0, 2.0])
    y = x * 2
    z = (y * y).sum()
    gz, gy, gx = mr.grad(z, [z, y, x], retain_graph=True)
    assert gz.item() == 1
    assert gy.tolist() == [4, 8]
    assert gx.tolist() == [8, 16]
    assert x.grad is None
    one, other = mr.grad(z, [x, x])
    assert one.tolist() == other.tolist() == [8, 16]
    assert not np.shares_memory(one.data, other.data)


def test_grad_errors():
    x, w = leaf([1.0, 2.0]), leaf([1.0])
    y = (x * 2).sum()
    with pytest.raises(GraphError, match=r"input 1 of shape \(1,\) was not used.*allow_unused"):
        mr.grad(y, [x, w], retain_graph=True)
    assert mr.grad(y, [x, w], allow_unused=True, retain_graph=True)[1] is None
    with pytest.raises(GraphError, match=r"input 0 of shape .* does not require grad"):
        mr.grad(y, mr.ones(2))
    with pytest.raises(ShapeError, match="1 grad_outputs, got 2"):
        mr.grad(y, x, [mr.ones(1), mr.ones(1)])
    (g,) = mr.grad(x * 2, x, np.array([1.0, 10.0]))  # an array is one gradient, not many
    assert g.tolist() == [2, 20]


def test_backward_needs_a_scalar_or_a_gradient():
    y = leaf([[1.0, 2.0]]) * 2
    with pytest.raises(ShapeError, match=r"backward\(\) needs a scalar; got shape \(1, 2\)"):
        y.backward()
    with pytest.raises(ShapeError, match=r"shape \(1, 2\), got \(2,\)"):
        y.backward(mr.ones(2, dtype=F64))
    with pytest.raises(DTypeError, match="float64, got float32"):
        y.backward(mr.ones(1, 2))
    y.backward([[1, 2]])


def test_backward_needs_something_that_requires_grad():
    with pytest.raises(GraphError, match=r"requires_grad=True.*detach\(\).*no_grad\(\)"):
        mr.ones(1).sum().backward()
    with pytest.raises(GraphError, match="requires_grad=True"):
        (leaf([1.0]).detach() * 2).backward()


# **** higher orders ****


def test_third_derivative():
    x = leaf([2.0, -1.0])
    y = (x**5).sum()
    for factor, power in ((5, 4), (20, 3), (60, 2)):
        (g,) = mr.grad(y, x, create_graph=True)
        np.testing.assert_allclose(g.data, factor * x.data**power)
        y = g.sum()


def test_create_graph_through_backward():
    x = leaf([3.0])
    (x**3).backward(create_graph=True)
    g = x.grad
    assert g.requires_grad
    x.grad = None
    (g * g).sum().backward()  # d/dx (3x²)² = 36x³
    assert x.grad.item() == 36 * 27
    x.grad = None  # x → x.grad → graph → x is a cycle: leave none behind


def test_gradient_of_a_gradient_penalty():
    x, w = leaf([1.0, 2.0]), leaf([0.5, -0.3])
    (gx,) = mr.grad(mr.tanh(x * w).sum(), x, create_graph=True)
    penalty = (gx * gx).sum()
    penalty.backward()
    h = 1e-6

    def value(wv):
        t = np.tanh(x.data * wv)
        return (((1 - t * t) * wv) ** 2).sum()

    for i in range(2):
        up, down = w.data.copy(), w.data.copy()
        up[i] += h
        down[i] -= h
        assert w.grad.data[i] == pytest.approx((value(up) - value(down)) / (2 * h), rel=1e-6)


def test_without_create_graph_nothing_is_recorded():
    x = leaf([1.0])
    (x * x).sum().backward()
    assert not x.grad.requires_grad
    assert x.grad.grad_fn is None
    (g,) = mr.grad((x * x).sum(), x)
    assert g.grad_fn is None


# **** anomalies ****


def test_detect_anomaly_names_the_forward_line():
    x = leaf([-1.0])
    with mr.detect_anomaly():
        at = line() + 2
        with pytest.raises(NaNError, match=rf"Log made the first NaN .*test_autograd.py:{at}"):
            mr.log(x)
        y = mr.tensor([np.nan]) * 2  # a NaN that came in is not made here
    assert np.isnan(y.item())
    assert np.isnan(mr.log(x).item())


def test_detect_anomaly_names_the_forward_line_of_a_nan_made_backward():
    x = leaf([0.0])
    with mr.detect_anomaly():
        at = line() + 1
        y = mr.sqrt(x)
        z = (y * 0).sum()
        with pytest.raises(NaNError, match=rf"Sqrt, called at \S+:{at}, made .* backward"):
            z.backward()
    assert x.grad is None


# **** housekeeping ****


def test_messages_name_the_users_line_and_not_the_engines():
    place = autograd.caller()
    assert place == (__file__, line() - 1)
    assert autograd.show_place(place).endswith(f"test_autograd.py:{line() - 2}")
    assert autograd.show_place(("<stdin>", 3)) == "<stdin>:3"


def test_int_and_bool_tensors_have_no_derivative():
    for values in ([1, 2], [True]):
        with pytest.raises(DTypeError, match="Only real numbers have derivatives"):
            mr.tensor(values, requires_grad=True)


def test_a_result_cannot_be_made_a_leaf_by_hand():
    y = leaf([1.0]) * 2
    with pytest.raises(GraphError, match="expected a leaf, got the result of <Mul"):
        y.requires_grad = False


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


def test_parity_of_retained_and_hooked_gradients():
    torch = pytest.importorskip("torch")

    def program(lib, make):
        x = make([1.0, 2.0, 3.0])
        y = x.exp()
        y.retain_grad()
        y.register_hook(lambda g: g * 2)
        z = y * x
        z.retain_grad()
        z = z + y[:1]
        (z * z).sum().backward()
        return x.grad, y.grad

    mine = program(mr, leaf)
    theirs = program(torch, lambda v: torch.tensor(v, dtype=torch.float64, requires_grad=True))
    for a, b in zip(mine, theirs):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-12)


def test_set_grad_enabled_acts_at_once_or_in_a_block():
    x = leaf([1.0])
    mr.set_grad_enabled(False)
    try:
        assert not (x * 2).requires_grad
    finally:
        mr.set_grad_enabled(True)
    with mr.set_grad_enabled(False):
        assert not mr.is_grad_enabled()
    assert mr.is_grad_enabled()

    @mr.set_grad_enabled(False)
    def quiet():
        return mr.is_grad_enabled()

    assert mr.is_grad_enabled()
    assert quiet() is False
    assert mr.is_grad_enabled()
