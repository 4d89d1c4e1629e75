"""The stand-in's streams: who forgets to wait, or has a graph use others' memory, is found out."""

from __future__ import annotations

import numpy as np
import pytest
from cupy_stand_in import cupy_installed


@pytest.fixture
def xp():
    with cupy_installed() as module:
        yield module


def test_work_of_a_stream_is_done_when_somebody_waits_for_it(xp):
    x, stream = xp.zeros(3), xp.cuda.Stream(non_blocking=True)
    with stream:
        x += 1
        event = stream.record()
        x += 1
    assert x.get().tolist() == [0, 0, 0]  # the null stream waits for nobody
    assert not stream.done
    assert not event.done
    xp.cuda.get_current_stream().wait_event(event)
    assert x.get().tolist() == [1, 1, 1]
    stream.synchronize()
    assert x.get().tolist() == [2, 2, 2]


def test_a_copy_from_pinned_memory_reads_it_late(xp):
    x, pinned = xp.zeros(2), np.array([1.0, 2.0])
    stream = xp.cuda.Stream(non_blocking=True)
    x.set(pinned, stream=stream)
    pinned[:] = 7  # too early
    stream.synchronize()
    assert x.get().tolist() == [7, 7]


def test_results_of_work_to_come_are_no_numbers(xp):
    x, stream = xp.ones(2), xp.cuda.Stream(non_blocking=True)
    with stream:
        y, flags = x * 2, x > 0
    assert np.isnan(y.get()).all()
    assert not flags.get().any()
    stream.synchronize()
    assert y.get().tolist() == [2, 2]
    assert flags.get().all()


def test_arrays_of_a_stream_do_not_get_the_memory_of_another_one(xp):
    at = xp.empty(5).data.ptr
    with xp.cuda.Stream(non_blocking=True):
        assert xp.empty(5).data.ptr != at
    assert xp.empty(5).data.ptr == at


def captured(xp, work):
    stream = xp.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        assert stream.is_capturing()
        work()
        graph = stream.end_capture()
    assert not stream.is_capturing()
    return graph


def test_a_graph_does_its_work_at_each_launch_and_never_before(xp):
    x = xp.zeros(2)

    def work():
        part = x + 1
        x[...] = part * 2

    work()  # what it is made of is loaded before
    x.fill(0)
    graph = captured(xp, work)
    assert x.get().tolist() == [0, 0]
    graph.launch()
    graph.launch()
    assert x.get().tolist() == [6, 6]


def test_a_graph_in_memory_of_everybody_is_found_out(xp):
    """An array that was freed while the graph was captured belongs to others by then."""
    x = xp.zeros(4)

    def work():
        with xp.cuda.Stream.null:  # whose memory goes to the next array
            part = xp.empty(4)
        part[...] = x + 1
        x[...] = part

    work()
    graph = captured(xp, work)
    other = xp.full(4, 5.0)
    graph.launch()
    assert other.get().tolist() != [5, 5, 5, 5]


def test_what_is_first_used_in_a_capture_breaks_it(xp):
    """It would be loaded then."""
    x = xp.zeros(2)
    module = xp.RawModule(code="", name_expressions=["f<int>"])
    for use in (lambda: x + x, lambda: module.get_function("f<int>")):
        stream = xp.cuda.Stream(non_blocking=True)
        with stream:
            stream.begin_capture()
            with pytest.raises(xp.cuda.runtime.CUDARuntimeError, match="while the stream was capt"):
                use()
            with pytest.raises(xp.cuda.runtime.CUDARuntimeError, match="given up"):
                stream.end_capture()


def test_what_waits_breaks_the_capture(xp):
    x, stream = xp.zeros(2), xp.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        with pytest.raises(RuntimeError, match="D2H transfers are disallowed"):
            x.get()
        assert stream.is_capturing()  # CuPy refused before CUDA knew of it
        with pytest.raises(RuntimeError, match="cudaErrorStreamCaptureUnsupported"):
            stream.synchronize()
        with pytest.raises(RuntimeError, match="invalidated"):
            stream.is_capturing()
        with pytest.raises(xp.cuda.runtime.CUDARuntimeError, match="Invalidated"):
            stream.end_capture()
        x += 1
    stream.synchronize()
    assert x.get().tolist() == [1, 1]
    with pytest.raises(RuntimeError, match="default"):
        xp.cuda.Stream.null.begin_capture()


def test_events_tell_the_time_once_they_were_passed(xp):
    first, second = xp.cuda.Event(), xp.cuda.Event()
    with pytest.raises(RuntimeError, match="cudaErrorInvalidResourceHandle"):
        xp.cuda.get_elapsed_time(first, second)
    first.record()
    with xp.cuda.Stream(non_blocking=True) as stream:
        second.record()
    with pytest.raises(RuntimeError, match="cudaErrorNotReady"):
        xp.cuda.get_elapsed_time(first, second)
    stream.synchronize()
    assert xp.cuda.get_elapsed_time(first, second) >= 0
