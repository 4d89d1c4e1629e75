"""Profiles of work on a GPU, which is timed by the GPU's events."""

from __future__ import annotations

import collections
import json
from time import perf_counter_ns

import numpy as np
import pytest
from gpu import CUDA, REAL, gpu

import minires as mr
from minires import nn


@pytest.fixture(params=[CUDA], autouse=True)
def _on_gpu(request):
    with gpu():
        yield


def image():
    return mr.tensor(np.random.default_rng(0).standard_normal((2, 3, 8, 8)), "float32").to("cuda")


def test_launches_and_work_of_cupy_are_told_apart(tmp_path):
    x = image()
    before = perf_counter_ns()
    with mr.profile() as p:
        (mr.relu(x) * 2).sum()
    kinds = collections.Counter(event.kind for event in p.events)
    assert kinds["kernel"] >= 1
    assert kinds["CuPy"] >= 1
    assert "NumPy" not in kinds
    (row,) = (row for row in p.rows if row.name == "relu.relu_fwd")
    assert row.calls == 1
    assert row.bytes == 2 * x._array.nbytes
    assert "calls of CuPy in" in p.table()
    for event in p.events:
        assert before - 1e6 < event.begin <= event.end < perf_counter_ns() + 1e6
    assert [*p.events] == sorted(p.events, key=lambda event: event.begin)
    p.chrome_trace(tmp_path / "trace.json")
    assert len(json.loads((tmp_path / "trace.json").read_text())["traceEvents"]) == len(p.events)


def test_figures_wait_for_the_gpu_and_nothing_else_does(monkeypatch):
    x, waited = image(), []
    if REAL:
        pytest.skip("an event of CuPy cannot be told apart")
    from cupy_stand_in import streams

    synchronize = streams.Event.synchronize
    monkeypatch.setattr(
        streams.Event, "synchronize", lambda event: waited.append(synchronize(event))
    )
    with mr.profile() as p:
        mr.relu(x)
        first = len(waited)  # to tell the GPU's clock by the CPU's
        mr.relu(x)
        assert len(waited) == first == 1
    assert len(waited) == 3
    assert p.seconds > 0
    assert len(p) == len(p.events) == 2


@pytest.mark.slow
def test_a_captured_step_is_counted_launch_by_launch():
    mr.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).to("cuda")
    x = image()
    net(x)
    net.eval()
    captured = mr.capture(net)
    with mr.no_grad():
        for scale in (1, 2, 3):
            captured(x * scale)
        _ = net(x)._array  # weights are packed
        with mr.profile() as plain:
            expected = net(x)._array.get()
        with mr.profile() as replayed:
            found = captured(x)._array.get()

    def kernels(p):
        return collections.Counter(e.work.name for e in p.events if e.kind == "kernel")

    assert np.array_equal(found, expected)
    assert kernels(replayed) == kernels(plain)
    assert all(event.end >= event.begin for event in replayed.events)
