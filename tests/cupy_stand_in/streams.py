"""Streams, events and graphs of the stand-in, which keep to as little order as CUDA does.

What is launched on the null stream, or on one that is ordered with it, is done at once. Work of a
non-blocking stream is done as late as CUDA may do it: when somebody waits for it, by an event or by
``synchronize``. Who forgets to wait reads memory as it was before.

While a stream captures, its work is written into a graph and not done: arrays that it is to make
are full of NaN until the graph is launched, and the graph knows addresses alone. Copies to and from
the host, and whatever waits, are refused as CuPy and CUDA refuse them; and so is cuBLAS. So is the
first use of a kernel, ours or CuPy's, which would be loaded then.
"""

from __future__ import annotations

import threading
import time
import weakref

from .device import CUDARuntimeError, Device

TO_HOST = "the current stream is capturing, so D2H transfers are disallowed"
FROM_HOST = "the current stream is capturing, so H2D transfers are disallowed"
NO_BLAS = "calling cuBLAS API during stream capture is currently unsupported"
_streams = []  # non-blocking ones that have been used
_by_pointer = weakref.WeakValueDictionary()
launched = []  # graphs, in the order of their launches


class Stream:
    """``cupy.cuda.Stream``."""

    null = None

    def __init__(self, null=False, non_blocking=False, ptds=False, priority=None):
        self.device_id, self.is_non_blocking = Device._current, non_blocking
        self.ptr = 0 if null else id(self)
        _by_pointer[self.ptr] = self
        self._waiting = []  # work that is still to be done
        self._captured = None  # the work of the graph that is being captured
        self._broken = False  # whether CUDA gave the capture up

    def _do(self, work):
        if self._captured is not None:
            self._captured.append(work)
        elif self.is_non_blocking:
            self._waiting.append(work)
            if self not in _streams:
                _streams.append(self)
        else:
            work()

    @property
    def done(self):
        return not self._waiting

    def synchronize(self):
        if self._captured is not None:
            self._broken = True
            raise CUDARuntimeError(
                "cudaErrorStreamCaptureUnsupported: operation not permitted when stream is "
                "capturing"
            )
        while self._waiting:
            self._waiting.pop(0)()

    def begin_capture(self, mode=None):
        if self.ptr == 0:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        if self._captured is not None:
            raise CUDARuntimeError("cudaErrorIllegalState: the operation cannot be performed")
        self._captured, self._broken = [], False

    def end_capture(self):
        work, broken = self._captured, self._broken
        self._captured, self._broken = None, False
        if work is None:
            raise CUDARuntimeError("cudaErrorIllegalState: the operation cannot be performed")
        if broken:
            raise CUDARuntimeError("cudaErrorStreamCaptureInvalidated: it was given up")
        return Graph(work)

    def is_capturing(self):
        if self._broken:
            raise RuntimeError(
                "the stream was capturing, but an error has invalidated the capture sequence"
            )
        return self._captured is not None

    def record(self, event=None):
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event):
        event._wait()

    def use(self):
        _here.now()[-1:] = [self]
        return self

    def __enter__(self):
        if self.ptr and self.device_id != Device._current:
            raise RuntimeError(
                f"The device that the stream is created on ({self.device_id}) does not match with "
                f"the current device ({Device._current})"
            )
        _here.now().append(self)
        return self

    def __exit__(self, *error):
        _here.now().pop()

    def __eq__(self, other):
        return isinstance(other, Stream) and other.ptr == self.ptr

    def __hash__(self):
        return self.ptr


Stream.null = Stream(null=True)


class _Here(threading.local):
    """The streams that this thread has entered, on each device."""

    def __init__(self):
        self.entered = {}

    def now(self):
        return self.entered.setdefault(Device._current, [Stream.null])


_here = _Here()


class Event:
    """``cupy.cuda.Event``: a place in the work of a stream."""

    def __init__(self, block=False, disable_timing=False, interprocess=False):
        self._stream, self._time = None, None  # the time when the device came to it

    def record(self, stream=None):
        self._stream, self._time = stream or get_current_stream(), None
        if self._stream._captured is None:
            self._stream._do(self._pass)

    def _pass(self):
        self._time = time.perf_counter()

    def _wait(self):
        """Do what was launched before it."""
        while self._stream is not None and self._time is None and self._stream._waiting:
            self._stream._waiting.pop(0)()

    @property
    def done(self):
        return self._stream is None or self._time is not None

    def synchronize(self):
        self._wait()


def get_elapsed_time(start_event, end_event):
    for event in (start_event, end_event):
        if event._stream is None:
            raise CUDARuntimeError("cudaErrorInvalidResourceHandle: invalid resource handle")
        if event._time is None:
            raise CUDARuntimeError("cudaErrorNotReady: device not ready")
    return 1e3 * (end_event._time - start_event._time)


class Graph:
    """``cupy.cuda.Graph``."""

    def __init__(self, work):
        self._work = work

    def launch(self, stream=None):
        launched.append(self)
        (stream or get_current_stream())._do(self._run)

    def upload(self, stream=None):
        pass

    def _run(self):
        for work in self._work:
            work()


def by_pointer(ptr):
    """The stream that a library outside of CuPy was given the address of."""
    return _by_pointer[ptr]


def get_current_stream(device_id=-1):
    return _here.now()[-1]


def recording():
    """What takes work of the device that the current stream does later: while it captures, or if it
    is non-blocking; None if it is done at once."""
    stream = get_current_stream()
    return stream._do if stream._captured is not None or stream.is_non_blocking else None


def launch(work):
    """Do work when the current stream comes to it."""
    later = recording()
    work() if later is None else later(work)


def host_waits(error=TO_HOST):
    """The host is to see what the current stream has done: not while that captures."""
    stream = get_current_stream()
    if stream._captured is not None:
        raise RuntimeError(error)
    stream.synchronize()


def calls_cublas():
    """CuPy calls cuBLAS: not while the current stream captures."""
    if get_current_stream()._captured is not None:
        raise NotImplementedError(NO_BLAS)


def loads(name):
    """A compiled kernel is loaded, on its first use. That may allocate, and CUDA gives up what the
    current stream captures."""
    stream = get_current_stream()
    if stream._captured is not None:
        stream._broken = True
        raise CUDARuntimeError(
            f"cudaErrorStreamCaptureUnsupported: {name} was loaded while the stream was capturing"
        )


def waits_inside():
    """What CuPy calls waits for the current stream: CUDA gives up what that captures."""
    get_current_stream().synchronize()


def synchronize():
    """Wait for all streams."""
    for stream in _streams:
        stream.synchronize()


def reset():
    _here.entered.clear()
    _streams.clear()
    launched.clear()
