"""Watching a function run: which operations it is made of, and how those with kinks chose.

A numerical derivative is right only while nothing on the way switches: a ReLU that opens, a
maximum that moves, between two points of a difference. Operations that choose say so
(:func:`minires.autograd.switch`), at no cost unless somebody watches. :mod:`minires.gradcheck`
does, and :mod:`minires.nn.trace` watches which operations a network is made of.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from .autograd.context import Context
from .autograd.engine import Around, around, without
from .device import CPU, move

AnyObserver = TypeVar("AnyObserver", bound="Observer")


class Observer:
    """The functions that one evaluation applied, and the choices that they made.

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
        ctx: Context | None,
        args: Sequence[Any],
        options: Mapping[str, Any],
        outputs: Sequence[Any],
    ) -> None:
        """Called after each function, with its context, its arguments and its results as variables.
        Of what has no derivative, comparisons come here too, as ``operator.gt`` and its siblings,
        without a context."""

    def wrote(self, target: Any, new: Any) -> None:
        """Called after the variable ``target`` was given the values of ``new`` in place."""


class Watcher(Around):
    """An engine that tells an :class:`Observer` of every operation."""

    watching = True

    def __init__(self, inner: Any, observer: Observer) -> None:
        super().__init__(inner)
        self.observer = observer
        self.complex_step = observer.complex_step

    def run(
        self,
        function: Any,
        ctx: Context,
        args: tuple[Any, ...],
        arrays: list[Any],
        options: dict[str, Any],
    ) -> Any:
        arrays = self.observer.enter(function, arrays)
        outputs = self.inner.run(function, ctx, args, arrays, options)
        made = outputs if type(outputs) is tuple else (outputs,)
        self.observer.leave(function, ctx, args, options, made)
        return outputs

    def compared(self, function: Any, args: Sequence[Any], output: Any) -> None:
        self.observer.leave(function, None, args, {}, (output,))

    def wrote(self, target: Any, new: Any) -> None:
        self.observer.wrote(target, new)

    def chose(self, name: str, choices: Callable[[], Any]) -> None:
        array = choices()
        array = np.ascontiguousarray(move(array, CPU))
        if array.dtype.kind == "f":  # signs and quotients: the same choice in any precision
            array = array.astype(np.float64)
        digest = hashlib.blake2b(array.data, digest_size=8).digest()
        self.observer.switches.append((name, digest))


@contextlib.contextmanager
def watch(complex_step: bool = False) -> Iterator[Observer]:
    """Observe the operations inside. With ``complex_step``, float64 and complex128 tensors mix."""
    with observed_by(Observer(complex_step)) as observer:
        yield observer


@contextlib.contextmanager
def observed_by(observer: AnyObserver) -> Iterator[AnyObserver]:
    """Let ``observer`` see the operations inside ``with``: at most one sees an operation."""
    with around("observed_by", lambda engine: Watcher(without(engine.plain(), Watcher), observer)):
        yield observer
