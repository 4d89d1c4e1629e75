"""Infinities and NaN are results (IEEE 754): NumPy's warnings of them, quickly switched off.

``np.errstate(all="ignore")`` works out anew what it is to switch off, which takes longer than an
addition of small arrays. What it sets is a context variable of NumPy's; this module finds out once
which one and to what value, and sets that::

    before = warnings_now()
    try:  # an interrupt may come at any line: what is set here is set back
        quiet()
        ...
    finally:
        restore(before)
"""

from __future__ import annotations

import contextvars
import functools
from collections.abc import Callable
from typing import Any

import numpy as np


def _switch() -> tuple[Callable[[], Any], Callable[[], Any], Callable[[Any], Any]]:
    """What tells the warnings of now, switches them off, and restores them: by the change that
    ``np.errstate`` makes to the context, or by NumPy's own functions where there is none."""
    before = contextvars.copy_context()
    with np.errstate(all="ignore"):
        inside = contextvars.copy_context()
    for variable, value in inside.items():
        if variable not in before or before[variable] is not value:
            return variable.get, functools.partial(variable.set, value), variable.set
    return np.geterr, functools.partial(np.seterr, all="ignore"), _restore


def _restore(before: Any) -> None:
    np.seterr(**before)


warnings_now, quiet, restore = _switch()
