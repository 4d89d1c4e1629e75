"""One call in a box: what it ends in, how long it takes, and what of it is no answer to a user."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import minires as mr
from minires import nn
from minires.errors import MiniresError
from minires.vision.transforms import Transform

PROCESSOR_SECONDS = 5.0  # of a call: beyond them it hangs
SECONDS = 120.0  # the same by the clock: a call that waits for ever (a loaded machine is slow)
LONGEST = 700  # characters of a message


class Hang(BaseException):
    """Raised by the alarm; no ``except Exception`` swallows it."""


def _alarm(*_: Any) -> None:
    raise Hang


@contextlib.contextmanager
def boxed() -> Iterator[None]:
    """Alarms for calls that do not end."""
    before = {s: signal.signal(s, _alarm) for s in (signal.SIGALRM, signal.SIGPROF)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


TRIES = 3  # of a call that seems to hang: kernels that no call needed before are compiled first


def fault(call: Callable[[], Any]) -> str | None:
    """What is wrong with how this call ends; None if it returns or says what a user did wrong."""
    found = None
    for _ in range(TRIES):
        found = _fault(call)
        if found is None or not found.startswith("hangs"):
            return found
    return found


def _fault(call: Callable[[], Any]) -> str | None:
    start = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, PROCESSOR_SECONDS)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        call()
    except Hang:
        return f"hangs: more than {PROCESSOR_SECONDS:g} s"
    except MiniresError as error:
        text = str(error)
        if len(text) > LONGEST:
            return f"a message of {len(text)} characters: {text[:80]}..."
    except MemoryError:
        return None
    except Exception as error:
        if isinstance(error, TypeError) and _is_pythons(error):
            return None
        return f"{type(error).__name__}: {str(error)[:120]} ({_place(error)})"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        if not mr.is_grad_enabled():
            mr.set_grad_enabled(True)
    if time.process_time() - start > PROCESSOR_SECONDS:
        return f"hangs: {time.process_time() - start:.0f} s"
    return None


def _is_pythons(error: BaseException) -> bool:
    """Whether Python itself refused, before any line of minires ran."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return "minires" not in last.filename.rsplit("/tests/", 1)[0] or "/tests/fuzz/" in last.filename


def _place(error: BaseException) -> str:
    """The last line of minires that ran."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/minires/" in f.filename]
    if not frames:
        return "outside"
    return f"{frames[-1].filename.rsplit('/minires/', 1)[1]}:{frames[-1].lineno}"


def _is_ours(result: Any) -> bool:
    return type(result).__module__.startswith("minires")


def used(result: Any, again: Callable[[Any], Any] | None = None, depth: int = 0) -> None:
    """Do with a result what its user does next: look at it, go on, go back."""
    if isinstance(result, mr.Tensor):
        if result.numel() < 10_000:
            repr(result)
        if result.requires_grad and result.numel() < 10**6:
            result.sum().backward()
    elif isinstance(result, nn.Module | Transform):
        repr(result)
        if again is not None and again(result) is not None:
            used(result(*again(result)))
    elif isinstance(result, tuple | list):
        for item in result[:4] if depth < 2 else ():
            used(item, again, depth + 1)
    elif inspect.isgenerator(result):
        used(list(itertools.islice(result, 3)), again, depth)
    elif isinstance(result, np.ndarray | np.generic | str | int | float | None):
        return
    elif _is_ours(result) and hasattr(type(result), "__enter__"):
        with result:
            pass
    elif _is_ours(result) and hasattr(type(result), "__iter__"):
        for item in itertools.islice(iter(result), 2):
            used(item, again, depth + 1)
