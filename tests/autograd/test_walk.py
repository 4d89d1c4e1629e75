"""The tape and the walk back: right gradients of every order, clear errors, a graph used once."""

from __future__ import annotations

import gc
import re
import threading
import time
import warnings
import weakref

import numpy as np
import pytest
from harness import F64, leaf, line

import minires as mr
from minires import autograd
from minires.errors import DTypeError, GraphError, NaNError, ShapeError


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_chain_whose_nodes_save_their_inputs_is_dropped_without_recursion():
    x = leaf([1.0])
    y = x
    for _ in range(20_000):
        y = (y * x).tanh()
    del y  # never walked back: everything saved is still there


@pytest.mark.slow
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
    assert re.search(rf"Mul saved at \S+test_walk.py:{made_at} were released", text)
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


@pytest.mark.slow
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
        with pytest.raises(NaNError, match=rf"Log made the first NaN .*test_walk.py:{at}"):
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
    assert autograd.show_place(place).endswith(f"test_walk.py:{line() - 2}")
    assert autograd.show_place(("<stdin>", 3)) == "<stdin>:3"


def test_int_and_bool_tensors_have_no_derivative():
    for values in ([1, 2], [True]):
        with pytest.raises(DTypeError, match="Only real numbers have derivatives"):
            mr.tensor(values, requires_grad=True)


def test_a_result_cannot_be_made_a_leaf_by_hand():
    y = leaf([1.0]) * 2
    with pytest.raises(GraphError, match="expected a leaf, got the result of <Mul"):
        y.requires_grad = False
