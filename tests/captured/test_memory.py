"""What a capture needs of memory: blocks that serve again, and copies only of what may be lost."""

from __future__ import annotations

import numpy as np
import pytest

import minires as mr
from minires import nn, optim
from minires.captured import function as captures
from minires.kernels.numba import allocator, compiler

SIZE = 1 << 20  # bytes


@pytest.mark.skipif(
    compiler.config.DISABLE_JIT, reason="a recording keeps more of interpreted kernels"
)
def test_idle_memory_of_a_recording_serves_what_is_a_little_smaller():
    def pooled(x):
        x = nn.functional.max_pool2d(x, (2, 1), stride=1)  # 31 rows, 1 MiB
        x = nn.functional.max_pool2d(x, (2, 1), stride=1)  # 30 rows, as large
        return nn.functional.max_pool2d(x, (12, 1), stride=1)  # 19 rows, where the first one was

    captured = mr.capture(pooled)
    with mr.no_grad():
        for seed in range(3):
            rng = np.random.default_rng(seed)
            x = mr.tensor(rng.standard_normal((1, 256, 32, 32)), dtype="float32")
            np.testing.assert_array_equal(captured(x).numpy(), pooled(x).numpy())
    (call,) = captured._calls.values()
    taken = sum(size * len(blocks) for size, blocks in call._graph.pool._own.items())
    assert taken <= 3 * SIZE  # the images in the order of channels, and two more


@pytest.mark.parametrize(("zero", "copies"), [(True, {0}), (False, {0, 2})])
def test_gradients_are_copied_where_the_function_adds_to_them(monkeypatch, zero, copies):
    """Elsewhere that would be one more copy of all parameters while a recording is proven."""
    found = set()

    class Snapshot(captures.Snapshot):
        def __init__(self, state):
            super().__init__(state)
            found.add(len(self._copies))

    monkeypatch.setattr(captures, "Snapshot", Snapshot)

    def weights(captured):
        mr.manual_seed(0)
        net = nn.Linear(3, 2)
        optimizer = optim.SGD(net.parameters(), 0.1)

        def step(x):
            if zero:
                optimizer.zero_grad()
            (net(x) ** 2).mean().backward()
            optimizer.step()

        run = mr.capture(step, net, optimizer) if captured else step
        for seed in range(6):
            run(mr.tensor(np.random.default_rng(seed).standard_normal((4, 3)), dtype="float32"))
        assert not captured or len(run._calls) == 1
        return [p.detach().numpy() for p in net.parameters()]

    for one, other in zip(weights(True), weights(False)):
        np.testing.assert_array_equal(one, other)
    assert found == copies


def test_idle_memory_goes_before_a_recording_gets_its_own():
    allocator.release()
    idle = [allocator.allocate((SIZE,), "uint8") for _ in range(8)]
    del idle
    assert allocator._held >= 8 * SIZE
    captured = mr.capture(lambda x: x.relu())
    for seed in range(3):
        captured(mr.tensor(np.random.default_rng(seed).standard_normal(4)))
    assert allocator._held < 8 * SIZE
