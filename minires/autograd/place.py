"""The line of the user's code that is being run, for messages."""

from __future__ import annotations

import contextlib
import os
import sys

Place = tuple[str, int]

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_ENGINE = tuple(
    os.path.join(_PACKAGE, part)
    for part in (
        *(folder + os.sep for folder in ("autograd", "fusion", "ops", "nn", "interop")),
        *("tensor.py", "derivatives.py", "mode.py", "anomaly.py", "watcher.py", "profiler.py"),
        os.path.join("captured", "recorder.py"),
    )
)
_is_engine: dict[str, bool] = {}


def caller() -> Place:
    """File and line of the nearest frame outside the engine: the line to name in a message."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        name = frame.f_code.co_filename
        engine = _is_engine.get(name)
        if engine is None:
            engine = name.startswith(_ENGINE) or name == contextlib.__file__
            _is_engine[name] = engine
        if not engine:
            break
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


def show_place(place: Place) -> str:
    """``net.py:40``, relative to the working directory where that is shorter."""
    name, line = place
    near = os.path.relpath(name) if os.path.isabs(name) else name
    return f"{name if near.startswith('..') else near}:{line}"
