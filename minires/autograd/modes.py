"""Modes that hold for a thread: recording, the search for NaN, and fusion."""

from __future__ import annotations

import contextlib
import contextvars
from typing import Any

_grad_mode: contextvars.ContextVar[bool] = contextvars.ContextVar("minires_grad", default=True)
_fusion: contextvars.ContextVar[bool] = contextvars.ContextVar("minires_fusion", default=True)
_anomaly: contextvars.ContextVar[bool] = contextvars.ContextVar("minires_anomaly", default=False)


class _Mode(contextlib.ContextDecorator):
    """Set a context variable inside ``with`` or a decorated function; nests, per thread."""

    def __init__(self, variable: contextvars.ContextVar[bool], value: bool):
        self._variable, self._value = variable, value
        self._tokens: list[contextvars.Token[bool]] = []

    def _recreate_cm(self) -> _Mode:  # a decorated function may run in several threads at once
        return _Mode(self._variable, self._value)

    def __enter__(self) -> None:
        self._tokens.append(self._variable.set(self._value))

    def __exit__(self, *exc: object) -> None:
        self._variable.reset(self._tokens.pop())


def no_grad(function: Any = None) -> Any:
    """Record nothing: results inside do not require gradients. Context manager, or decorator with
    or without parentheses."""
    mode = _Mode(_grad_mode, False)
    return mode if function is None else mode(function)


def enable_grad(function: Any = None) -> Any:
    """Record again, inside :func:`no_grad`."""
    mode = _Mode(_grad_mode, True)
    return mode if function is None else mode(function)


class set_grad_enabled(_Mode):
    """Record or not, by a flag: from this line on, or inside ``with`` only."""

    def __init__(self, mode: bool):
        super().__init__(_grad_mode, bool(mode))
        self._before = _grad_mode.get()
        _grad_mode.set(bool(mode))

    def __call__(self, function: Any) -> Any:  # as a decorator it acts inside the function only
        _grad_mode.set(self._before)
        return super().__call__(function)

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        _grad_mode.set(self._before)


def no_fusion() -> _Mode:
    """Run every operation by itself, at once. Context manager or decorator.

    By default convolutions, batch norms, additions and ReLUs share their passes over memory where
    nobody looks in between; the values are the same up to rounding. See docs/architecture.md.
    """
    return _Mode(_fusion, False)


def is_grad_enabled() -> bool:
    """Whether operations are recorded in this thread."""
    return _grad_mode.get()


def detect_anomaly() -> _Mode:
    """Stop at the first operation that makes a NaN, forward or backward, and name its line."""
    return _Mode(_anomaly, True)
