"""Infinities and NaN are results (IEEE 754): NumPy's warnings of them, quickly switched off.

``np.errstate(all="ignore")`` works out anew what it is to switch off, which takes longer than an
addition of small arrays. What it sets is a context variable of NumPy's; this module finds out once
which one and to what value, and sets that::

    token = quiet()
    try:
        ...
    finally:
        unquiet(token)
"""

from __future__ import annotations

import contextvars
import functools
from collections.abc import Callable
from typing import Any

import numpy as np


def _switch() -> tuple[Callable[[], Any], Callable[[Any], None]]:
    """What switches the warnings off and on again: the change that ``np.errstate`` makes to the
    context, or ``np.errstate`` itself where there is none to be seen."""
    before = contextvars.copy_context()
    with np.errstate(all="ignore"):
        inside = contextvars.copy_context()
    for variable, value in inside.items():
        if variable not in before or before[variable] is not value:
            return functools.partial(variable.set, value), variable.reset
    return _enter, _leave


def _enter() -> Any:
    state = np.errstate(all="ignore")
    state.__enter__()
    return state


def _leave(state: Any) -> None:
    state.__exit__(None, None, None)


quiet, unquiet = _switch()
