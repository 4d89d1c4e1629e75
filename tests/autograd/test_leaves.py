"""What arrives at a tensor: its .grad, memory of its own, hooks."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from harness import F64, leaf

import minires as mr
from minires import nn
from minires.errors import ArgumentError, DTypeError, GraphError, ShapeError

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


# **** leaves that are frozen between forward and backward ****


def frozen():
    """A leaf that a graph was built on and that was frozen since, one that was not, the result."""
    w, v = leaf([2.0, 3.0]), leaf([5.0, 7.0])
    y = (w * w * v).sum()
    w.requires_grad_(False)
    return w, v, y


def test_a_frozen_leaf_gets_no_gradient():
    w, v, y = frozen()
    y.backward()
    assert w.grad is None
    assert v.grad.tolist() == [4, 9]
    w, v, y = frozen()
    y.backward(create_graph=True)
    assert w.grad is None
    assert v.grad.requires_grad
    w, v, y = frozen()
    assert mr.grad(y, v)[0].tolist() == [4, 9]
    with pytest.raises(GraphError, match=r"input 0 of shape .* does not require grad"):
        mr.grad(y, w)


def test_a_frozen_leaf_keeps_the_gradient_it_has():
    w, v = leaf([2.0]), leaf([5.0])
    y = (w * v).sum()
    y.backward(retain_graph=True)
    held = w.grad
    w.requires_grad_(False)
    y.backward(retain_graph=True)
    assert w.grad is held
    assert (w.grad.item(), v.grad.item()) == (5, 4)
    w.requires_grad_(True)  # and again, once it is trained again
    y.backward()
    assert (w.grad.item(), v.grad.item()) == (10, 6)


def test_all_leaves_frozen_is_no_error():
    w = leaf([2.0])
    y = (w * w).sum()
    w.requires_grad_(False)
    y.backward()
    assert w.grad is None


def test_hooks_of_a_frozen_leaf_see_the_gradient():
    """As in PyTorch; a hook may freeze its own leaf, too."""
    seen = []
    w, v = leaf([2.0]), leaf([5.0])
    w.register_hook(lambda g: seen.append(g.item()))
    v.register_hook(lambda g: v.requires_grad_(False) and None)
    y = (w * v).sum()
    w.requires_grad_(False)
    y.backward()
    assert seen == [5]
    assert w.grad is None
    assert v.grad is None


def test_a_leaf_that_became_a_result_is_named():
    w, v = leaf([2.0]), leaf([5.0])
    y = (w + v).sum()
    w.requires_grad_(False)
    w.mul_(v)
    words = r"a leaf of shape \(1,\), got one .* written in place since .* of <Mul .*clone\(\)"
    with pytest.raises(GraphError, match=words):
        y.backward()
    assert v.grad is None


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW"])
@pytest.mark.parametrize("fused", [True, False])
def test_a_backbone_frozen_after_forward_is_not_trained(kind, fused):
    backbone = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    net = nn.Sequential(backbone, nn.Flatten(), nn.Linear(16, 3))
    optimizer = getattr(mr.optim, kind)(net.parameters(), lr=0.1)
    before = [p.detach().clone() for p in net.parameters()]
    with contextlib.nullcontext() if fused else mr.no_fusion():
        loss = net(mr.randn(2, 1, 4, 4)).square().mean()
        backbone.requires_grad_(False)
        loss.backward()
    optimizer.step()
    assert [p.grad is None for p in net.parameters()] == [True] * 4 + [False] * 2
    moved = [bool((p != b).any().item()) for p, b in zip(net.parameters(), before)]
    assert moved == [False] * 4 + [True] * 2
    assert len(optimizer.state_dict()["state"]) <= 2


def test_requires_grad_is_a_flag():
    with pytest.raises(ArgumentError, match="requires_grad: expected value True or False, got 1"):
        leaf([1.0]).requires_grad = 1


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
