"""The kinds of argument there are, and the check of each.

Every public function and constructor passes what it is given through these, so that one rule holds
everywhere:

====================  ============================================================================
kind                  what is taken
====================  ============================================================================
:func:`integer`       what ``operator.index`` takes (NumPy integers, 0-d arrays), within bounds
:func:`number`        Python and NumPy integers and floats, 0-d real arrays; finite by default
:func:`flag`          ``True``, ``False`` and NumPy's two
:func:`choice`        one of some names
:func:`pair`          an integer for both directions, or (rows, columns)
:func:`single`        an integer for the one direction there is, or a tuple of one
:func:`sizes`         a sequence of integers, or one
:func:`listed`        what an iterable holds, as a list
:func:`callback`      something to call, or None
:func:`iterator`      a list or another iterable of several things
:func:`takes`         a function of so many arguments
:func:`taken`         arguments that fit a function
:func:`check_memory`  as many bytes as the memory of this machine has
====================  ============================================================================

A bool is neither an integer nor a number. Each check returns the value as plain Python: what comes
after it never sees a NumPy scalar.

Raises (all of them):
    ArgumentError: another kind of thing, or a value out of bounds; names function and argument.
    DTypeError: from :func:`listed`.
    OutOfMemory: an ArgumentError too, from :func:`check_memory`.
"""

from __future__ import annotations

import functools
import inspect
import math
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from .errors import (
    ArgumentError,
    BoundsError,
    DTypeError,
    OutOfMemory,
    message,
    quoted,
    unknown,
)

MOST = 2**31 - 1  # as much as any size that fits memory has in one direction


def as_integer(value: Any) -> int | None:
    """``value`` as an int, or None if it is no integer."""
    if type(value) is int:
        return value
    if isinstance(value, bool | np.bool_) or getattr(value, "dtype", None) == np.bool_:
        return None
    try:
        return operator.index(value)
    except (TypeError, ValueError, RuntimeError):  # what a class's own __index__ may raise
        return None


def as_number(value: Any) -> int | float | None:
    """``value`` as an int or a float, or None if it is no real number."""
    if type(value) is float or type(value) is int:
        return value
    if isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype.kind in "iuf":
        value = value[()]
    if isinstance(value, float | np.floating):
        return float(value)
    return as_integer(value)


def _bounds(least: Any, most: Any, above: Any = None, below: Any = None) -> str:
    signs = {">=": least, ">": above, "<=": most, "<": below}
    told = [f"{sign} {bound}" for sign, bound in signs.items() if bound is not None]
    return f" {' and '.join(told)}" if told else ""


def integer(
    op: str, name: str, value: Any, least: int | None = None, most: int = MOST, fix: str = ""
) -> int:
    """``value`` as an int from ``least`` to ``most``."""
    whole = as_integer(value)
    if whole is not None and (least is None or whole >= least) and whole <= most:
        return whole
    told = None if most == MOST and (whole is None or whole <= most) else most
    expected = f"{name} an integer{_bounds(least, told)}"
    raise ArgumentError(message(op, expected, quoted(value), fix=fix))


def number(
    op: str,
    name: str,
    value: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    finite: bool = True,
    fix: str = "",
) -> float:
    """``value`` as an int or a float with ``least <= value <= most``, ``above < value < below``."""
    real = as_number(value)
    if (
        real is not None
        and (_is_finite(real) or (not finite and isinstance(real, float)))
        and (least is None or real >= least)
        and (above is None or real > above)
        and (most is None or real <= most)
        and (below is None or real < below)
    ):
        return real
    huge = isinstance(real, int) and not _is_finite(real)
    kind = "a finite number" if huge or (finite and real is not None) else "a number"
    expected = f"{name} {kind}{_bounds(least, most, above, below)}"
    raise ArgumentError(message(op, expected, quoted(value), fix=fix))


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False


def position(op: str, value: Any, n: int) -> int:
    """``value``, an index into n things, as an int from 0 on; negative ones count from the end.

    Raises:
        BoundsError: an index that there is not.
    """
    index = as_integer(value)
    if index is None:
        raise ArgumentError(message(op, "an integer as index", quoted(value)))
    if not -n <= index < n:
        raise BoundsError(message(op, f"an index into {n} of them", quoted(index)))
    return index % n


def span(op: str, value: slice) -> slice:
    """A slice whose ends and step are plain integers."""
    parts = (value.start, value.stop, value.step)
    ends = [None if end is None else as_integer(end) for end in parts]
    wrong = any(end is None and part is not None for end, part in zip(ends, parts))
    if wrong or ends[2] == 0:
        expected = "a slice of integers, its step not 0"
        raise ArgumentError(message(op, expected, ":".join(quoted(part) for part in parts)))
    return slice(*ends)


def flag(op: str, name: str, value: Any) -> bool:
    """``value`` as a bool."""
    if not isinstance(value, bool | np.bool_):
        raise ArgumentError(message(op, f"{name} True or False", quoted(value)))
    return bool(value)


def choice(kind: str, value: Any, known: Iterable[str]) -> str:
    """``value``, if it is one of the names ``known``; ``kind`` is what they name."""
    names = tuple(known)
    if not isinstance(value, str) or value not in names:
        raise unknown(kind, value, names)
    return value


def pair(op: str, name: str, value: Any, least: int) -> tuple[int, int]:
    """``value``, an integer or (rows, columns), as two ints from ``least`` on."""
    entries = value if isinstance(value, tuple | list) else (value, value)
    if len(entries) == 1:  # as PyTorch takes it
        entries = (*entries, *entries)
    whole = [entry for entry in map(as_integer, entries) if entry is not None and entry >= least]
    if len(whole) != 2 or len(entries) != 2:
        expected = f"{name} an integer >= {least} or a pair of them"
        raise ArgumentError(message(op, expected, quoted(value)))
    if max(whole) > MOST:
        raise ArgumentError(message(op, f"{name} of at most {MOST}", quoted(value)))
    return whole[0], whole[1]


def single(op: str, name: str, value: Any, least: int) -> tuple[int]:
    """``value``, an integer or a tuple of one, as a tuple of one int from ``least`` on."""
    one = isinstance(value, tuple | list) and len(value) == 1
    return (integer(op, name, value[0] if one else value, least),)


def size(op: str, name: str, value: Any, least: int) -> int | tuple[int, int]:
    """:func:`pair`, but one integer stays one: how layers keep and show what they were given."""
    both = pair(op, name, value, least)
    return both if isinstance(value, tuple | list) else both[0]


def sizes(
    op: str, name: str, value: Any, least: int | None = 0, length: int | None = None
) -> tuple[int, ...]:
    """``value``, a sequence of integers or one of them, as a tuple of ints from ``least`` on;
    with ``least`` None they may be negative."""
    lowest = -MOST if least is None else least
    entries = value if isinstance(value, tuple | list) else (value,)
    numbers = map(as_integer, entries)
    whole = [entry for entry in numbers if entry is not None and lowest <= entry <= MOST]
    fits = len(whole) == len(entries)
    if not fits or (length is not None and len(whole) != length):
        many = "integers" if length is None else f"{length} integers"
        raise ArgumentError(message(op, f"{name} {many}{_bounds(least, None)}", quoted(value)))
    return tuple(whole)


def iterator(op: str, name: str, value: Any) -> Iterator[Any]:
    """An iterator over ``value``, which holds several things: a list, a generator, and so on."""
    if isinstance(value, str | bytes | bytearray) or hasattr(value, "dtype"):
        raise ArgumentError(message(op, f"{name} in a list", quoted(value)))
    try:
        return iter(value)
    except Exception as error:  # also what a class's own __iter__ raises
        raise ArgumentError(message(op, f"{name} in a list", quoted(value))) from error


def listed(op: str, expected: str, values: Any, fix: str = "") -> list[Any]:
    """What an iterable holds.

    Raises:
        DTypeError: not one, or one that fails.
    """
    try:
        return list(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DTypeError(message(op, expected, quoted(values), fix=fix)) from error


def callback(op: str, name: str, value: Any, like: str) -> Callable[..., Any] | None:
    """``value``, if it can be called as ``like`` shows, by position, or is None."""
    if value is None:
        return None
    if not callable(value):
        raise ArgumentError(message(op, f"{name} to be called as {like}", quoted(value)))
    if wrong := _misfit(value, range(like.count(",") + 1), {}):
        got = f"{quoted(value)} ({wrong})"
        raise ArgumentError(message(op, f"{name} to be called as {like}", got))
    return value


def takes(op: str, name: str, function: Any, n: int) -> None:
    """Refuse what cannot be called with ``n`` arguments by position."""
    if not callable(function):
        raise ArgumentError(message(op, f"{name} a function of {n} arguments", quoted(function)))
    if wrong := _misfit(function, range(n), {}):
        got = f"{quoted(function)} ({wrong})"
        raise ArgumentError(message(op, f"{name} a function of {n} arguments", got))


def taken(op: str, function: Any, args: Sequence[Any], options: dict[str, Any]) -> None:
    """Refuse arguments that ``function`` cannot be called with: too many, or of other names."""
    if wrong := _misfit(function, args, options):
        name = getattr(function, "__name__", type(function).__name__)
        raise ArgumentError(message(op, f"arguments that {quoted(name)} takes", wrong))


def _misfit(function: Any, args: Iterable[Any], options: dict[str, Any]) -> str:
    """What Python would say of such a call; nothing if the arguments fit."""
    try:
        known = inspect.signature(getattr(function, "forward", function))
    except (TypeError, ValueError):  # built-in functions have no signature
        return ""
    try:
        known.bind(*args, **options)
    except TypeError as error:
        return str(error)
    return ""


def check_memory(op: str, nbytes: int, what: str, fix: str = "") -> None:
    """Refuse a request of more bytes than this machine has memory, before anything is built."""
    most = memory()
    if nbytes > most:
        expected = f"what fits the memory of this machine, {_gigabytes(most)}"
        raise OutOfMemory(message(op, expected, f"{what}: {_gigabytes(nbytes)}", fix=fix))


@functools.cache
def memory() -> int:
    """Bytes of memory of this machine; a terabyte where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows, or an unknown name
        return 10**12


def _gigabytes(nbytes: int) -> str:
    return f"{nbytes // 10**9:,} GB" if nbytes < 10**18 else "more than 10^9 GB"
