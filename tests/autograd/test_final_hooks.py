"""Hooks that are called while a backward pass goes on, as soon as a gradient is final."""

import copy
import gc
import weakref

import numpy as np
import pytest

import minires as mr
from minires import nn
from minires.autograd import final_hooks
from minires.errors import ArgumentError, CaptureError, GraphError
from minires.ops import cross_entropy


def leaf(values):
    return mr.tensor(values, requires_grad=True)


class Passing(mr.Function):
    """The identity, which notes when its gradient comes."""

    @staticmethod
    def forward(ctx, x, seen, name):
        ctx.seen, ctx.name = seen, name
        return x.copy()

    @staticmethod
    def backward(ctx, gy):
        ctx.seen.append(ctx.name)
        return gy * 1, None, None


class NoGradient(mr.Function):
    @staticmethod
    def forward(ctx, x):
        return x.copy()

    @staticmethod
    def backward(ctx, gy):
        return None


def test_a_hook_is_called_while_the_pass_goes_on():
    """Last layers first, each before the layers in front of it are reached; and no .grad is set."""
    seen = []
    a, b, c = leaf([2.0]), leaf([3.0]), leaf([5.0])
    x = Passing.apply(a * 1, seen, "front")
    y = Passing.apply(x * b, seen, "middle")
    z = y * c
    for name, p in zip("abc", (a, b, c)):
        p.register_final_hook(lambda g, name=name: seen.append((name, g.tolist(), b.grad)))
    z.backward(mr.tensor([10.0]))
    assert seen == [
        ("c", [60.0], None),
        "middle",
        ("b", [100.0], None),
        "front",
        ("a", [150.0], None),
    ]
    assert (a.grad.item(), b.grad.item(), c.grad.item()) == (150, 100, 60)


def test_a_leaf_that_is_used_twice_has_its_hook_called_once_with_the_sum():
    seen = []
    w, x = leaf([2.0]), leaf([3.0])
    early = Passing.apply(x * w, seen, "early")
    w.register_final_hook(lambda g: seen.append(g.item()))
    (Passing.apply(early, seen, "late") * w).sum().backward()
    assert seen == ["late", "early", 12]  # d(x w^2)/dw
    assert w.grad.item() == 12


def test_a_leaf_that_one_node_uses_twice():
    seen = []
    w = leaf([3.0])
    w.register_final_hook(lambda g: seen.append(g.item()))
    (w * w).sum().backward()
    assert seen == [6]


def test_a_branch_that_gives_no_gradient_delays_nothing():
    """The oldest use of w is behind a function without a gradient: it is passed all the same."""
    seen = []
    w, x = leaf([2.0]), leaf([3.0])
    front = Passing.apply(x * 1, seen, "front")
    dead = NoGradient.apply(w * 7)
    w.register_final_hook(lambda g: seen.append(g.item()))
    x.register_final_hook(lambda g: seen.append(("x", g.item())))
    (front * w + dead).sum().backward()
    assert seen == [3, "front", ("x", 2.0)]
    assert w.grad.item() == 3


def test_a_leaf_without_a_gradient_has_no_call():
    seen = []
    w, unused, x = leaf([2.0]), leaf([2.0]), leaf([3.0])
    for p in (w, unused):
        p.register_final_hook(lambda g: seen.append(g.item()))
    (x + NoGradient.apply(w)).sum().backward()
    assert seen == []
    assert w.grad is None


def test_a_leaf_that_is_itself_the_output():
    seen = []
    x = leaf([2.0])
    x.register_final_hook(lambda g: seen.append(g.item()))
    x.backward(mr.tensor([7.0]))
    assert seen == [7]
    assert x.grad.item() == 7


def test_gradients_of_several_passes_come_one_by_one():
    seen = []
    w = leaf([3.0])
    w.register_final_hook(lambda g: seen.append((g.item(), w.grad and w.grad.item())))
    y = (w * w).sum()
    y.backward(retain_graph=True)
    y.backward()
    assert seen == [(6, None), (6, 6)]
    assert w.grad.item() == 12


def test_a_final_hook_sees_what_other_hooks_made_of_the_gradient():
    seen = []
    w = leaf([3.0])
    w.register_final_hook(lambda g: seen.append(g.item()))
    w.register_hook(lambda g: seen.append("first") or g * 10)
    (w * 2).sum().backward()
    assert seen == ["first", 20]
    assert w.grad.item() == 20


def test_a_leaf_that_was_frozen_meanwhile_has_no_call():
    seen = []
    w, v = leaf([3.0]), leaf([4.0])
    for p in (w, v):
        p.register_final_hook(lambda g: seen.append(g.item()))
    y = (w * v).sum()
    w.requires_grad_(False)
    y.backward()
    assert seen == [3]


def test_higher_derivatives():
    seen = []
    w = leaf([3.0])
    w.register_final_hook(lambda g: seen.append((g.item(), g.requires_grad)))
    (w * w * w).sum().backward(create_graph=True)
    assert seen == [(27, True)]
    w.grad.sum().backward()
    assert seen == [(27, True), (18, False)]
    assert w.grad.item() == 45


def test_grad_calls_no_final_hook():
    w = leaf([3.0])
    w.register_final_hook(lambda g: pytest.fail("called"))
    assert mr.grad((w * w).sum(), w)[0].item() == 6


def test_what_hooks_return_is_called_once_when_the_gradients_are_set():
    calls = []
    a, b = leaf([2.0]), leaf([3.0])

    def after():
        calls.append(("after", a.grad.item(), b.grad.item(), mr.is_grad_enabled()))

    a.register_final_hook(lambda g: calls.append("a") or after)
    b.register_final_hook(lambda g: calls.append("b") or after)
    b.register_final_hook(lambda g: lambda: calls.append("another"))
    y = (a * 5) * b
    y.sum().backward()
    assert calls == ["b", "a", ("after", 15, 10, True), "another"]


def test_a_function_that_is_called_afterwards_may_go_back_again():
    w, v = leaf([3.0]), leaf([4.0])
    handle = w.register_final_hook(lambda g: lambda: (v * v).sum().backward())
    (w * 2).sum().backward()
    assert v.grad.item() == 8
    handle.remove()
    (w * 2).sum().backward()
    assert v.grad.item() == 8


@pytest.mark.parametrize("where", ["hook", "later", "result"])
def test_a_pass_that_fails_sets_no_gradient(where):
    calls = []
    a, b = leaf([2.0]), leaf([3.0])
    a.grad = mr.tensor([100.0])

    def fails(gradient):
        raise RuntimeError("planted")

    b.register_final_hook(lambda g: calls.append("b") or (lambda: calls.append("after")))
    x = a * 1
    if where == "hook":
        a.register_final_hook(fails)
    elif where == "result":
        a.register_final_hook(lambda g: 7)
    else:
        x.register_hook(fails)
    words = "planted"
    if where == "result":
        words = "backward: expected a final hook to return a function or None, got 7"
    with pytest.raises(ArgumentError if where == "result" else RuntimeError, match=words):
        (x * b).sum().backward()
    assert calls == ["b"]
    assert b.grad is None
    assert a.grad.item() == 100


def test_a_function_that_fails_afterwards_leaves_the_gradients():
    w = leaf([3.0])
    w.register_final_hook(lambda g: lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        (w * 2).sum().backward()
    assert w.grad.item() == 2


def test_removed_hooks_are_not_called():
    seen = []
    w = leaf([3.0])
    with w.register_final_hook(lambda g: seen.append(1)):
        (w * 2).sum().backward()
    handle = w.register_final_hook(lambda g: seen.append(2))
    (w * 2).sum().backward()
    handle.remove()
    handle.remove()
    (w * 2).sum().backward()
    assert seen == [1, 2]


class Owner:
    """Has a leaf, whose hook has the owner."""

    def __init__(self):
        self.leaf = leaf([3.0])
        self.leaf.register_final_hook(self.called)

    def called(self, gradient):
        pytest.fail("called")


def test_hooks_go_with_their_leaf_and_are_not_copied():
    gc.collect()
    before = len(final_hooks._living)
    owner = Owner()
    (copy.deepcopy(owner.leaf) * 2).sum().backward()
    assert len(final_hooks._living) == before + 1
    there = weakref.ref(owner.leaf)
    del owner
    gc.collect()
    assert there() is None
    assert len(final_hooks._living) == before


@pytest.mark.parametrize("fused", [True, False])
def test_the_gradients_of_a_network_are_the_same_with_and_without_hooks(fused):
    """Shared by both paths of a block, deferred by fusion; what hooks see is what .grad gets."""
    net = mr.models.cifar_resnet(8)
    x, y = mr.randn(4, 3, 8, 8), mr.tensor([0, 1, 2, 3])

    def gradients():
        net.zero_grad()
        if fused:
            cross_entropy(net(x), y).backward()
        else:
            with mr.no_fusion():
                cross_entropy(net(x), y).backward()
        return [p.grad.numpy().copy() for p in net.parameters()]

    plain, order = gradients(), []
    parameters = [*net.parameters()]
    for number, p in enumerate(parameters):
        p.register_final_hook(lambda g, n=number: order.append((n, g.numpy().copy())))
    hooked = gradients()
    assert sorted(n for n, _ in order) == [*range(len(parameters))]
    assert order[0][0] >= len(parameters) - 2  # the last layer's first
    assert order[-1][0] <= 2  # the first layer's last
    seen = [array for _, array in sorted(order, key=lambda pair: pair[0])]
    for a, b, c in zip(plain, hooked, seen, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)


def test_a_captured_function_has_no_final_hooks():
    net = nn.Linear(3, 2)
    seen = []
    net.weight.register_final_hook(lambda g: seen.append(1))

    def step(x):
        net.zero_grad()
        loss = net(x).square().mean()
        loss.backward()
        return loss

    captured = mr.capture(step, net)
    captured(mr.randn(4, 3))
    assert seen == [1]
    with pytest.raises(CaptureError, match="got what a final hook does at"):
        captured(mr.randn(4, 3))


@pytest.mark.parametrize(
    ("tensor", "got"),
    [
        (mr.zeros(2), "a tensor that does not"),
        (mr.zeros(2, requires_grad=True) * 2, "a result"),
    ],
)
def test_only_leaves_have_final_hooks(tensor, got):
    words = f"register_final_hook: expected a leaf that requires grad, got {got}. Others have"
    with pytest.raises(GraphError, match=words):
        tensor.register_final_hook(lambda g: None)


def test_a_hook_is_a_function():
    with pytest.raises(ArgumentError, match="expected a function of a gradient, got 3"):
        leaf([1.0]).register_final_hook(3)
