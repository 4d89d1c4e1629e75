"""Every error minires raises on purpose, and the one way its text is put together.

A message says what was expected, what came, everything needed to reproduce it, and one way out::

    conv2d: expected x.shape[1] == w.shape[1] * groups, got 3 and 16 (x (8, 3, 32, 32), ...).
    Pass an input with 16 channels.

Each kind is also a ``ValueError``, ``TypeError`` or ``RuntimeError``, so plain Python code can
catch it without knowing minires; :class:`MiniresError` catches them all (the command line does).
"""

from __future__ import annotations

import difflib
import os
import reprlib
from collections.abc import Iterable


class MiniresError(Exception):
    """Base of every deliberate error; its text is meant for the user, without a traceback."""


class ShapeError(MiniresError, ValueError):
    """Sizes that do not fit together."""


class BoundsError(ShapeError, IndexError):
    """An index that a tensor does not have."""


class ArgumentError(MiniresError, ValueError):
    """An argument whose value is not allowed, or a name that does not exist."""


class UnknownName(ArgumentError, KeyError):
    """A name that a container does not have."""

    __str__ = Exception.__str__  # a KeyError shows its text in quotes


class OutOfMemory(ArgumentError, MemoryError):
    """Something that this machine has no memory for, refused before it is made."""


class DTypeError(MiniresError, TypeError):
    """A dtype, or mix of dtypes, that an operation does not take."""


class NotShared(DTypeError, BufferError):
    """An array whose owner does not share its memory."""


class DeviceError(MiniresError, RuntimeError):
    """A device that is not there, or arrays of two devices in one operation."""


class KernelMissing(MiniresError, RuntimeError):
    """An operation that has no kernel on this device."""


class GraphError(MiniresError, RuntimeError):
    """A backward pass that cannot be done: no graph, a freed graph, a saved value overwritten."""


class UninitializedError(MiniresError, ValueError, RuntimeError):
    """A parameter of a lazy layer that has no shape and no values yet."""


class CaptureError(MiniresError, RuntimeError):
    """A function that cannot be captured: what it does depends on more than its arguments."""


class NaNError(MiniresError, RuntimeError):
    """A NaN or infinity where a finite number is needed; names where it arose."""


class DataError(MiniresError, RuntimeError):
    """A data set that is missing, truncated or damaged."""


class DistributedError(MiniresError, RuntimeError):
    """Processes that were started together and cannot work together, or no longer."""


class CheckpointError(MiniresError, RuntimeError):
    """A checkpoint or run folder that cannot be read, or does not belong here."""


class ExportError(MiniresError, RuntimeError):
    """A network that another format or program cannot take, or a program that is not there."""


class GradcheckError(MiniresError, RuntimeError):
    """An analytic derivative that disagrees with the numerical one."""


LONGEST = 200  # characters of what a message quotes


class _Short(reprlib.Repr):
    """Representations of one line, of things of any size; survives a broken ``__repr__``."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 60
        self.maxlevel = 3

    def repr_int(self, x: int, level: int) -> str:
        bits = x.bit_length()  # Python refuses to write out more than 4,300 digits
        return super().repr_int(x, level) if bits < 1000 else f"an integer of {bits} bits"


_short = _Short()


def quoted(value: object) -> str:
    """A value as a message shows it: an array by its shape, anything long by its beginning and end.

    >>> quoted("a" * 1000)
    "'aaaaaaaaaaaaaaaaaaaaaaaaaaa...aaaaaaaaaaaaaaaaaaaaaaaaaaaa'"
    """
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if isinstance(shape, tuple) and shape and dtype is not None:
        kind = "an array" if type(value).__name__ == "ndarray" else f"a {type(value).__name__}"
        return _shortened(f"{kind} of shape {shape}, {dtype}")
    return _shortened(_short.repr(value))


def printable(text: str, most: int = LONGEST) -> str:
    """Text of a file or a server as one line that a terminal can show: control characters, which
    could move its cursor or change its title, as their escapes, and anything long abbreviated.

    >>> printable("404 \\x1b[2J")
    '404 \\\\x1b[2J'
    """
    half = most // 2 - 2
    short = text if len(text) <= most else f"{text[:half]} … {text[-half:]}"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in short)


def _shortened(value: object, most: int = LONGEST) -> str:
    lines = str(value)
    half = most // 2 - 2
    short = lines if len(lines) <= most else f"{lines[:half]} … {lines[-half:]}"
    return "\n".join(printable(line, most) for line in short.split("\n"))


def message(op: str, expected: str, got: object, context: str = "", fix: str = "") -> str:
    """The one wording: ``op: expected …, got … (context). fix``. What is too long is abbreviated.

    >>> message("conv2d", "stride >= 1", 0, "kernel (3, 3)", "Use stride=1.")
    'conv2d: expected stride >= 1, got 0 (kernel (3, 3)). Use stride=1.'
    """
    plain = str | tuple | type | Exception | os.PathLike
    known = isinstance(got, plain) or hasattr(got, "kind")  # text, shape, path, dtype
    shown = _shortened(got) if known else quoted(got)
    text = f"{op}: expected {_shortened(expected, 300)}, got {shown}"
    if context:
        text += f" ({_shortened(context)})"
    if fix:
        text += f". {_shortened(fix, 300)}"
    return text


def unknown(kind: str, name: object, known: Iterable[str]) -> ArgumentError:
    """The error for a name that does not exist, with the nearest names that do.

    >>> print(unknown("data set", "minst", ["mnist", "digits"]))
    unknown data set 'minst': did you mean mnist? Known: digits, mnist
    """
    names = sorted(known)
    shown = quoted(name if isinstance(name, str) else quoted(name))
    near = difflib.get_close_matches(shown.strip("'"), names, n=3, cutoff=0.5)
    hint = f": did you mean {' or '.join(near)}?" if near else "."
    listed = ", ".join(names)
    if len(listed) > 2 * LONGEST:  # whole names only
        begin = listed[: 2 * LONGEST].rpartition(", ")[0]
        listed = f"{begin} and {len(names) - begin.count(', ') - 1} more"
    return ArgumentError(f"unknown {kind} {shown}{hint} Known: {listed}")
