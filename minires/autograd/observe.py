"""Watching a function run: which operations it is made of, and how those with kinks chose.

A numerical derivative is right only while nothing on the way switches: a ReLU that opens, a
maximum that moves, between two points of a difference. Operations that choose say so here with
:func:`switch`; it costs nothing unless somebody watches. ``minires.gradcheck`` does, and
``minires.nn.trace`` watches which operations a network is made of.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from ..mode import Mode, setting

_observer = setting("observer", None)

AnyObserver = TypeVar("AnyObserver", bound="Observer")


class Observer:
    """What one evaluation showed of itself.

    Attributes:
        unsafe: names of the functions on the path that are not ``complex_safe``.
        switches: for each choice made, in order: the operation's name and a digest of what it
            chose. Two evaluations with equal switches lie on one smooth piece of the function.
    """

    def __init__(self, complex_step: bool = False) -> None:
        self.complex_step = complex_step
        self.unsafe: set[str] = set()
        self.switches: list[tuple[str, bytes]] = []

    def enter(self, function: Any, arrays: Sequence[Any]) -> list[Any]:
        """Called with each function and its arguments; returns the arguments to use.

        In a complex step a float64 constant meets complex arrays: it becomes complex too.
        """
        if not function.complex_safe:
            self.unsafe.add(function.__name__)
        dtypes = [getattr(array, "dtype", None) for array in arrays]
        if not self.complex_step or np.complex128 not in dtypes:
            return list(arrays)
        return [
            array.astype(np.complex128) if dtype == np.float64 else array
            for array, dtype in zip(arrays, dtypes)
        ]

    def leave(
        self,
        function: Any,
        args: Sequence[Any],
        options: Mapping[str, Any],
        outputs: Sequence[Any],
    ) -> None:
        """Called after each function, with its arguments and its results as variables. Of what has
        no derivative, comparisons come here too, as ``operator.gt`` and its siblings."""

    def replaced(self, target: Any, new: Any) -> None:
        """Called after the variable ``target`` was given the values of ``new`` in place."""


@contextlib.contextmanager
def watch(complex_step: bool = False) -> Iterator[Observer]:
    """Observe what runs inside. With ``complex_step``, float64 and complex128 tensors mix."""
    with observed_by(Observer(complex_step)) as observer:
        yield observer


@contextlib.contextmanager
def observed_by(observer: AnyObserver) -> Iterator[AnyObserver]:
    """Let ``observer`` see what runs inside."""
    with Mode("observed_by", _observer, observer):
        yield observer


def tell(function: Any, args: Sequence[Any], output: Any) -> Any:
    """``output``, after telling whoever watches of an operation without derivative, which is no
    :class:`~.function.Function`."""
    observer = _observer.get().value
    if observer is not None:
        observer.leave(function, args, {}, [output])
    return output


def in_complex_step() -> bool:
    """Whether a derivative is being taken by a complex step, where dtypes may mix."""
    observer = _observer.get().value
    return observer is not None and observer.complex_step


def switch(name: str, chosen: Callable[[], Any]) -> None:
    """Tell whoever watches how an operation with kinks chose.

    Args:
        name: of the operation, as in "relu".
        chosen: makes the array of choices, a mask or indices; not called unless watched.
    """
    observer = _observer.get().value
    if observer is None:
        return
    array = chosen()
    array = np.ascontiguousarray(array.get() if hasattr(array, "get") else array)
    if array.dtype.kind == "f":  # signs and quotients: the same choice in any precision
        array = array.astype(np.float64)
    observer.switches.append((name, hashlib.blake2b(array.data, digest_size=8).digest()))
