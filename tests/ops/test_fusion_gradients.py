"""Fusion and the graph: hooks, gradients in the middle, higher orders, anomalies, references."""

from __future__ import annotations

import numpy as np
import pytest
from harness import arrays, ones, tensor
from ops.fused import (
    STAGES,
    Chain,
    Torchvision,
    both_ways,
    build,
    close,
    follow,
    is_lazy,
    quiet,
    text_of_error,
    values,
)

import minires as mr
from minires.gradcheck import check2


def hook(f):
    def act(chain, t):
        if t.requires_grad:
            t.register_hook(f)

    return act


def halve_in_place(g):
    g.mul_(0.5)


def halve_array(g):
    g.data[...] *= 0.5


def keep_and_write(kept):
    """Write later into the array of an earlier gradient."""

    def f(g):
        for array in kept:
            array[...] = 0
        kept[:] = [g.data]

    return f


def retained(chain, t):
    if t.requires_grad:
        t.retain_grad()
        chain.made["retained"] = t


HOOKS = {
    "reading": lambda: hook(lambda g: quiet(g.sum())),
    "replacing": lambda: hook(lambda g: g * 0.5),
    "replacing by relu": lambda: hook(lambda g: (g + g).relu()),
    "in place": lambda: hook(halve_in_place),
    "array": lambda: hook(halve_array),
    "keeping": lambda: hook(keep_and_write([])),
    "removed": lambda: lambda chain, t: t.requires_grad and t.register_hook(halve_array).remove(),
}


@pytest.mark.gpu_cases(only=["replacing", "array", "keeping"])
@pytest.mark.parametrize("name", HOOKS)
@pytest.mark.parametrize("training", [True, False])
def test_hooks_on_tensors(name, training, device):
    for at in STAGES:

        def run(at=at):
            found = follow(at, HOOKS[name](), training)[1]
            return found

        assert isinstance(both_ways(run), dict)


def test_every_gradient_that_a_hook_sees(device):
    def run():
        chain, seen = Chain(), {}
        for stage in STAGES:
            t = chain.step(stage)
            t.register_hook(lambda g, stage=stage: seen.update({stage: values(g)}))
        return [chain.result(), seen]

    assert set(both_ways(run)[1]) == set(STAGES)


def test_retained_gradients(device):
    def run():
        chain = Chain()
        for stage in STAGES:
            chain.step(stage).retain_grad()
        found = chain.result()
        return [found, [values(t.grad) for t in chain.made.values()]]

    assert all(np.abs(g).max() > 0 for g in both_ways(run)[1])


@pytest.mark.parametrize("training", [True, False])
def test_gradients_of_inputs_in_the_middle(training, device):
    def run():
        chain = Chain(training)
        for stage in STAGES:
            chain.step(stage)
        y, middle = chain.made["relu2"], list(chain.made.values())[:-1]
        all_at_once = mr.grad((y * y).sum(), [chain.leaf, *middle, y], retain_graph=True)
        one_by_one = [mr.grad((y * y).sum(), t, retain_graph=True)[0] for t in middle]
        return [values(g) for g in (*all_at_once, *one_by_one)]

    assert len(both_ways(run)) == 14


@pytest.mark.parametrize("what", ["input", "output"])
def test_hooks_on_modules(what, device):
    def run():
        chain, seen = Chain(), []
        for layer in (chain.net.c1, chain.net.b1, chain.net.c2, chain.net.b2):
            if what == "input":
                layer.register_forward_pre_hook(lambda m, args: seen.append(values(args[0])))
            else:
                layer.register_forward_hook(lambda m, args, out: seen.append(values(out)))
            layer.register_full_backward_hook(
                lambda m, gx, gy: seen.append([values(gx[0]), values(gy[0])])
            )
        for stage in STAGES:
            chain.step(stage)
        return [chain.result(), seen]

    assert len(both_ways(run)[1]) == 8


def test_backward_twice(device):
    def run():
        chain = Chain()
        for stage in STAGES:
            chain.step(stage)
        loss = (chain.made["relu2"] ** 2).sum()
        loss.backward(retain_graph=True)
        once = [values(t.grad) for t in (chain.leaf, *chain.net.parameters())]
        loss.backward()
        twice = [values(t.grad) for t in (chain.leaf, *chain.net.parameters())]
        for a, b in zip(once, twice):
            close(2 * a, b)
        return [twice, text_of_error(loss.backward)]

    assert "released by the first backward" in both_ways(run)[1]


@pytest.mark.parametrize("training", [True, False])
def test_second_derivatives(training, device):
    def run():
        chain = Chain(training)
        for stage in STAGES:
            chain.step(stage)
        y = chain.made["relu2"]
        inputs = [chain.leaf, *chain.net.parameters()]
        first = mr.grad((y**3).sum(), inputs, create_graph=True)
        total = sum((g * g).sum() for g in first)
        return [values(g) for g in mr.grad(total, inputs)]

    both_ways(run, 1e-11)


@pytest.mark.slow
def test_second_derivatives_by_the_checker():
    net = build(lambda: Torchvision(2), "float64")

    def f(x, w):
        h = mr.batch_norm(mr.conv2d(x, w, padding=1), None, None, training=True).relu()
        return mr.batch_norm(mr.conv2d(h, w), None, None, net.bn2.weight, training=True) ** 2

    x, w = arrays((2, 2, 4, 4), (2, 2, 3, 3))
    check2(f, [tensor(v, requires_grad=True) for v in (x, w)]).assert_ok()


def test_anomaly_names_the_right_line(device):
    def run():
        chain = Chain()
        with mr.no_grad():
            chain.net.c2.weight[0, 0, 0, 0] = np.inf
            chain.net.c2.weight[0, 0, 0, 1] = -np.inf
        with mr.detect_anomaly():
            for stage in STAGES:
                chain.step(stage)

    kind, text = both_ways(run)
    assert kind == "NaNError"
    assert "Conv2d made the first NaN" in text


def test_anomaly_in_the_backward_pass_only(device):
    def run():
        chain = Chain()
        for stage in STAGES:
            chain.step(stage)
        y = chain.made["relu2"]
        with mr.detect_anomaly():
            (y * np.inf).sum().backward()

    assert both_ways(run)[0] == "NaNError"


@pytest.mark.parametrize("at", STAGES)
def test_the_reference_kernels_in_between(at, launches):
    """From one call on, or for one look, the references compute."""

    def run():
        chain = Chain()
        for stage in STAGES:
            if STAGES.index(stage) >= STAGES.index(at):
                with mr.backend("numpy"):
                    chain.step(stage)
            else:
                chain.step(stage)
        return chain.result()

    assert isinstance(both_ways(run), dict)
    launches.clear()
    chain = Chain()
    chain.step("conv1")
    chain.step("bn1")
    with mr.backend("numpy"):
        chain.step("relu1")
    assert not is_lazy(chain.made["relu1"])


def test_a_pass_on_the_references_only(launches):
    with mr.backend("numpy"):
        chain = Chain()
        for stage in STAGES:
            chain.step(stage)
        chain.result()
    assert [name for name in launches if not name.startswith("alone.")] == []


class Doubled(mr.Function):
    """Its backward gets a lazy gradient, and works with operations on it."""

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gy):
        w = ones(gy.shape[1], gy.shape[1], 1, 1, dtype=gy.dtype)
        y = mr.batch_norm(mr.conv2d(gy, w), None, None, training=True).relu()
        return (y + gy).relu() + mr.conv2d(gy.relu(), w)


def test_a_users_own_backward(device):
    def run():
        chain = Chain()
        h = Doubled.apply(chain.net.b1(chain.net.c1(chain.x)))
        (h * h + h.exp() + h).sum().backward()
        return values(chain.leaf.grad)

    both_ways(run)
