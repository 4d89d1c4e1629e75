"""profile: it counts what runs, one launch at a time, and changes nothing."""

from __future__ import annotations

import json
import threading
from collections import Counter

import numpy as np
import pytest

import minires as mr
from minires import models, optim
from minires.anomaly import NaNGuard
from minires.autograd.engine import current, without
from minires.errors import ArgumentError
from minires.profiler import Profiler
from minires.watcher import watch

CONVOLVE = "conv2d.winograd.convolve"


def net_and_step():
    mr.manual_seed(0)
    net = models.BasicBlock(16, 16)
    optimizer = optim.SGD(net.parameters(), lr=0.1, momentum=0.9)

    def step(x):
        optimizer.zero_grad()
        loss = (net(x) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    return net, optimizer, step


def images(seed=1):
    mr.manual_seed(seed)
    return mr.randn(8, 16, 32, 32)


def bits(net):
    return [t.numpy().tobytes() for t in (p.detach() for p in net.state_dict().values())]


def counts(p, kind="kernel"):
    return Counter(e.work.name for e in p.events if e.kind == kind)


def test_a_step_of_training_runs_the_same_kernels_and_gives_the_same_bits():
    net, _, step = net_and_step()
    other, _, other_step = net_and_step()
    for seed in range(3):
        loss = step(images(seed))
        with mr.profile() as p:
            other_loss = other_step(images(seed))
        assert loss.item() == other_loss.item()
    assert bits(net) == bits(other)
    ran = counts(p)
    assert ran[CONVOLVE] == 3  # two forward, one for the gradient of the second one's input
    assert ran["conv2d.winograd_weight.sum_parts"] == 2
    assert ran["batch_norm.fwd"] == 1  # fused: the first one is the second convolution's prologue
    assert ran["update.sgd"] == 1
    assert "relu.fwd" not in ran
    assert "relu.bwd_x" not in ran


def test_modes_keep_the_profiler_and_their_own_kernels():
    net, _, _ = net_and_step()
    x = images()
    with mr.profile() as p, mr.no_fusion():
        net(x)
    ran = counts(p)
    assert (ran[CONVOLVE], ran["batch_norm.fwd"], ran["relu.fwd"]) == (2, 2, 2)
    with mr.no_fusion(), mr.profile() as p:
        net(x)
    assert counts(p) == ran
    for one, other in ((mr.profile, mr.detect_anomaly), (mr.detect_anomaly, mr.profile)):
        with one() as first, other() as second:
            (net(x) ** 2).mean().backward()
        p = first or second
        ran = counts(p)
        assert ran["relu.fwd"] == 2
        assert ran[CONVOLVE] == 3
        assert ran["batch_norm.bwd_affine"] == 2


def test_a_watched_function_is_watched_once():
    x = images()
    with watch() as outer, mr.profile() as p, watch() as inner:
        mr.relu(x)
    assert len(inner.switches) == 1
    assert outer.switches == []
    assert counts(p)["relu.fwd"] == 1


def test_a_captured_step_is_counted_launch_by_launch_and_not_recorded_again():
    net, optimizer, step = net_and_step()
    other, other_optimizer, other_step = net_and_step()
    step, other_step = (
        mr.capture(step, net, optimizer),
        mr.capture(other_step, other, other_optimizer),
    )
    for seed in range(4):
        step(images(seed)), other_step(images(seed))
    before = repr(step)
    with mr.profile() as p:
        loss = step(images(9))
    assert repr(step) == before == "Captured(step, recordings=1)"
    assert loss.item() == other_step(images(9)).item()
    assert bits(net) == bits(other)
    ran = counts(p)
    assert ran[CONVOLVE] == 3
    assert ran["update.sgd"] == 1
    assert ran["batch_norm.fwd"] == 1
    _, _, plain = net_and_step()
    with mr.profile() as q:
        plain(images(9))
    assert ran == counts(q)  # the replay has the kernels of the function, each once
    assert {e.work for e in p.events if e.kind == "kernel"} == {
        e.work for e in q.events if e.kind == "kernel"
    }
    step(images(10)), other_step(images(10))
    assert bits(net) == bits(other)


def test_what_numpy_does_in_a_captured_function_has_its_name():
    f = mr.capture(lambda x: mr.exp(x).transpose(1, 2).contiguous())
    with mr.profile() as p:
        for seed in range(3):
            f(images(seed))
    assert "elementwise.Exp" in counts(p, "NumPy")
    with mr.profile() as p:
        f(images(5))
    assert counts(p, "NumPy")["elementwise.Exp"] == 1
    (exp,) = [e.work for e in p.events if e.work.name == "elementwise.Exp"]
    assert exp.bytes == 2 * images().numpy().nbytes
    assert all(shape == (8, 16, 32, 32) for _, shape in exp.shapes)


def test_recording_inside_of_a_profile_serves_outside():
    with mr.profile() as p:
        f = mr.capture(lambda x: mr.relu(x) * 2)
        for seed in range(3):
            f(images(seed))
    assert repr(f).endswith("recordings=1)")
    size = len(p.events)
    expected = np.maximum(images(7).numpy(), 0) * 2
    assert np.array_equal(f(images(7)).numpy(), expected)
    assert repr(f).endswith("recordings=1)")
    assert len(p.events) == size


def test_memoised_weights_are_packed_again_only_when_they_were_written():
    net, _, step = net_and_step()
    step(images())
    net.eval()
    f = mr.capture(net)
    with mr.no_grad():
        for seed in range(3):
            f(images(seed))
        with mr.profile() as p:
            f(images(4))
        assert set(counts(p)) == {CONVOLVE}
        net.conv1.weight.mul_(1.5)
        with mr.profile() as p:
            result = f(images(5))
        assert counts(p)["conv2d.winograd.transform_weights"] == 1
        assert np.array_equal(result.numpy(), net(images(5)).numpy())


@pytest.mark.parametrize(
    ("x", "w", "options", "kernel"),
    [
        ((8, 16, 32, 32), (16, 16, 3, 3), {"padding": 1}, CONVOLVE),
        ((4, 192, 16, 16), (192, 192, 3, 3), {"padding": 1}, "conv2d.winograd.wide_products"),
        ((4, 3, 17, 15), (8, 3, 3, 3), {"padding": 1, "stride": 2}, "conv2d.direct.convolve"),
        ((4, 8, 9, 9), (8, 1, 3, 3), {"groups": 8}, "conv2d.direct.convolve"),
        ((4, 8, 9, 9), (8, 4, 3, 5), {"groups": 2, "dilation": 2}, "conv2d.direct.convolve"),
        ((4, 8, 9, 9), (16, 8, 1, 1), {}, "conv2d.direct.convolve"),
    ],
    ids=["winograd", "wide", "stride", "depthwise", "groups", "1x1"],
)
def test_operations_of_a_convolution_are_those_of_its_definition(x, w, options, kernel):
    x, w = mr.randn(*x), mr.randn(*w, requires_grad=True)
    with mr.profile() as p:
        y = mr.conv2d(x, w, **options)
        _ = y._array
    n, c_out, h_out, w_out = y.shape
    expected = 2 * n * c_out * h_out * w_out * w[0].numel()
    known = [e.work for e in p.events if e.work.operations is not None]
    assert {work.name for work in known} == {kernel}
    assert sum(work.operations for work in known) == expected
    with mr.profile() as p:
        mr.grad(y.sum(), [w])
    known = [e.work for e in p.events if e.work.operations is not None]
    assert sum(work.operations for work in known) == expected
    assert {work.name.split(".")[1] for work in known} == {
        "weight" if "direct" in kernel else "winograd_weight"
    }


@pytest.mark.parametrize("channels", [16, 6], ids=["winograd", "direct"])
def test_operations_of_the_gradient_of_the_input(channels):
    x = mr.randn(8, channels, 16, 16, requires_grad=True)
    y = mr.conv2d(x, mr.randn(channels, channels, 3, 3), padding=1).sum()
    with mr.profile() as p:
        mr.grad(y, [x])
    (count,) = [e.work.operations for e in p.events if e.work.operations is not None]
    assert count == 2 * x.numel() * channels * 9


def test_bytes_and_shapes_are_those_of_the_arrays():
    x = images()
    with mr.profile() as p:
        _ = mr.relu(x)._array
    (event,) = p.events
    assert dict(event.work.shapes) == {"x": (x.numel(),), "y": (x.numel(),)}
    assert event.work.bytes == 2 * x.numpy().nbytes
    assert event.work.operations is None
    assert not any(isinstance(fact, np.ndarray) for fact in event.work)


def test_the_references_are_numpys_work():
    net, _, _ = net_and_step()
    x = images()
    with mr.backend("numpy"), mr.profile() as p:
        net(x)
    assert counts(p) == {}
    ran = counts(p, "NumPy")
    assert ran["conv2d.Conv2d"] == 2
    assert ran["relu.ReLU"] == 2
    assert ran["batch_norm.BatchNorm"] == 2


def test_views_are_no_work():
    x = images()
    with mr.profile() as p:
        x.permute(0, 2, 3, 1)
        x[0]
        x.reshape(-1)
    assert p.events == []


def test_rows_table_and_shares():
    _, _, step = net_and_step()
    x = images()
    step(x)
    with mr.profile() as p:
        step(x)
        step(x)
    rows = p.rows
    assert rows[-1].kind == "Python"
    assert sum(row.share for row in rows) == pytest.approx(1)
    assert sum(row.seconds for row in rows) == pytest.approx(p.seconds)
    assert sum(row.calls for row in rows[:-1]) == len(p.events)
    assert [row.seconds for row in rows[:-1]] == sorted(
        (r.seconds for r in rows[:-1]), reverse=True
    )
    (sgd,) = [row for row in rows if row.name == "update.sgd"]
    assert sgd.calls == 2
    assert sgd.bytes > 3 * 4 * 2 * 16 * 16 * 9  # parameters, gradients and momenta by addresses
    lines = p.table().splitlines()
    assert lines[0].split() == [
        *("what", "by", "arrays", "calls", "ms", "mean", "ms", "share", "GiB/s", "GFLOP/s")
    ]
    assert len(lines) == 2 + len(rows) + 1
    (line,) = [line for line in lines if line.startswith("update.sgd")]
    assert " kernel " in line
    assert lines[-2].startswith("between launches")
    assert f"{counts(p).total()} launches of kernels" in lines[-1]
    assert repr(p).startswith(f"Profile(launches={len(p.events)}, ")


def test_nothing_ran():
    with mr.profile() as p:
        pass
    assert [row.name for row in p.rows] == ["Python"]
    assert "0 launches of kernels and 0 calls of NumPy" in p.table()
    assert mr.profile().rows[0].seconds == 0


def test_a_trace_for_perfetto(tmp_path):
    _, _, step = net_and_step()
    with mr.profile() as p:
        step(images())
    path = tmp_path / "new" / "trace.json"
    p.chrome_trace(path)
    events = json.loads(path.read_text())["traceEvents"]
    assert len(events) == len(p.events)
    assert min(event["ts"] for event in events) == 0
    assert all(event["ph"] == "X" and event["dur"] >= 0 for event in events)
    ends = [event["ts"] + event["dur"] for event in events]
    assert all(end <= after["ts"] for end, after in zip(ends, events[1:]))  # one after another
    convolution = next(event for event in events if event["name"] == CONVOLVE)
    assert convolution["args"]["operations"] == 2 * 8 * 32 * 32 * 16 * 16 * 9
    assert convolution["args"]["shapes"]["y"] == [8, 32, 32, 16]
    assert convolution["cat"] == "kernel"
    with pytest.raises(ArgumentError):
        p.chrome_trace(3)


def test_profiles_are_nested_and_each_counts():
    f = mr.capture(lambda x: mr.relu(x).sum())
    x = images()
    for seed in range(3):
        f(images(seed))
    with mr.profile() as outer:
        mr.relu(x)
        with mr.profile() as inner:
            mr.relu(x)
            f(x)
    assert counts(inner)["relu.fwd"] == 2
    assert counts(outer)["relu.fwd"] == 3
    assert counts(outer)["sums.runs"] == counts(inner)["sums.runs"] > 0


def test_an_exception_inside_ends_it_and_keeps_what_ran():
    x = images()
    before = current()
    p = mr.profile()

    def fails():
        with p:
            mr.relu(x)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert current() is before
    assert counts(p) == {"relu.fwd": 1}
    seconds = p.seconds
    mr.relu(x)
    assert counts(p) == {"relu.fwd": 1}
    assert p.seconds == seconds


def test_entered_again_it_adds():
    x, p = images(), mr.profile()
    for times in (1, 2):
        with p:
            mr.relu(x)
        assert counts(p) == {"relu.fwd": times}
    with p, pytest.raises(ArgumentError, match="profile: expected a profile that is not on"):
        p.__enter__()
    mr.relu(x)
    assert counts(p) == {"relu.fwd": 2}


def test_an_exit_without_an_entry_changes_nothing():
    p = mr.profile()
    with pytest.raises(ArgumentError, match="profile: expected a mode that was entered"):
        p.__exit__(None, None, None)
    assert p.seconds == 0


def test_it_is_no_decorator():
    with pytest.raises(ArgumentError, match=r"profile: expected a with statement.*as p"):
        mr.profile()(lambda: None)


def test_threads_do_not_mix():
    x = images()

    def other():
        mr.relu(x)
        with mr.profile() as mine:
            mr.relu(x)
            mr.relu(x)
        found.append(mine)

    found: list = []
    with mr.profile() as p:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        mr.relu(x)
    assert counts(p) == {"relu.fwd": 1}
    assert counts(found[0]) == {"relu.fwd": 2}


def test_an_engine_can_be_taken_out_from_under_the_profiler():
    with mr.detect_anomaly(), mr.profile():
        engine = current()
        assert isinstance(engine, Profiler)
        assert isinstance(engine.inner, NaNGuard)
        bare = without(engine, NaNGuard)
        assert isinstance(bare, Profiler)
        assert not isinstance(bare.inner, NaNGuard)
        assert isinstance(engine.inner, NaNGuard)
        assert without(engine, Profiler) is engine.inner


def test_profiling_holds_no_memory():
    """Events know shapes and bytes; arrays are freed as they are without a profile."""
    import weakref

    with mr.profile() as p:
        x = mr.from_numpy(np.ones((4, 3, 8, 8), np.float32))
        array = weakref.ref(x.numpy())
        mr.relu(x)
        del x
        assert array() is None
    assert counts(p)["relu.fwd"] == 1
