"""Streams and events of the stand-in: all that is launched is done at once, in order."""

from __future__ import annotations

from .device import Device

_current = []  # streams that were entered


class Stream:
    """``cupy.cuda.Stream``."""

    null = None

    def __init__(self, null=False, non_blocking=False, ptds=False, priority=None):
        self.device_id, self._non_blocking = Device._current, non_blocking
        self.ptr = 0 if null else id(self)

    @property
    def done(self):
        return True

    def synchronize(self):
        pass

    def is_capturing(self):
        return False

    def record(self, event=None):
        return event or Event()

    def wait_event(self, event):
        pass

    def use(self):
        _current[:] = [self]
        return self

    def __enter__(self):
        _current.append(self)
        return self

    def __exit__(self, *error):
        _current.pop()


Stream.null = Stream(null=True)


class Event:
    """``cupy.cuda.Event``."""

    def __init__(self, block=False, disable_timing=False, interprocess=False):
        pass

    @property
    def done(self):
        return True

    def record(self, stream=None):
        pass

    def synchronize(self):
        pass


def get_current_stream(device_id=-1):
    return _current[-1] if _current else Stream.null


def get_elapsed_time(start_event, end_event):
    return 0.0


def recording():
    """What takes work of the device while the current stream captures, to do it in every launch of
    the graph; None if it is done at once."""
    return None


def host_waits(what):
    """What waits for the device is not allowed while a stream captures."""


def synchronize():
    """Wait for all streams."""


def reset():
    _current.clear()
