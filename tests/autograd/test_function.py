"""A user's Function that breaks its contract, and the modes in which nothing is recorded."""

from __future__ import annotations

import threading

import pytest
from harness import F64, leaf, line

import minires as mr
from minires.errors import DTypeError, GraphError, ShapeError

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
