"""Randomness: one global generator, seeded by :func:`manual_seed`, from which every draw comes.

On the CPU draws are NumPy's, one after another. What a network draws in each step on a GPU, the
masks of dropout, is computed there (:mod:`minires.kernels.cuda.draws`), from a key that the seed
decides and the number of draws before. These two are in the GPU's memory, where kernels count on,
and belong to the state that :func:`get_state` returns.

While a loader asks a data set for a sample, the global generator is another one, of that sample
alone (:func:`drawn_from`, :mod:`minires.data.sample`).
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import numpy as np

from .arguments import as_integer
from .device import Device, assign, move
from .errors import ArgumentError, CheckpointError, message, quoted
from .forks import in_children

# What checks its arguments; draws_on, drawn_from and derived trust those that call them.
__all__ = ["Generator", "generator", "get_state", "manual_seed", "preserved", "set_state"]


class Generator(np.random.Generator):
    """A source of random draws of its own, for what takes a ``generator``.

    >>> import minires as mr
    >>> generator = mr.Generator().manual_seed(1)
    >>> mr.randperm(5, generator=generator).tolist()
    [4, 0, 1, 2, 3]
    """

    def __init__(self, bit_generator: np.random.BitGenerator | None = None) -> None:
        if bit_generator is not None and not isinstance(bit_generator, np.random.BitGenerator):
            expected = "one of NumPy's bit generators, or None"
            fix = "For a seed use Generator().manual_seed(seed)."
            raise ArgumentError(message("Generator", expected, quoted(bit_generator), fix=fix))
        super().__init__(np.random.PCG64() if bit_generator is None else bit_generator)
        self._key = _key_of(self.bit_generator)
        self._calls: dict[str, int] = {}  # of GPUs that have not been asked yet
        self._on: dict[str, Any] = {}  # by the name of the GPU

    def manual_seed(self, seed: int) -> Generator:
        """Start anew from ``seed``; the same seed gives the same numbers.

        Raises:
            ArgumentError: ``seed`` is not an integer >= 0.
        """
        whole = as_integer(seed)
        if whole is None or whole < 0:
            raise ArgumentError(message("manual_seed", "an integer seed >= 0", quoted(seed)))
        source = np.random.PCG64(whole)
        self.bit_generator.state = source.state
        self._restart(_key_of(source), {})
        return self

    def _on_host(self, name: str) -> Any:
        return np.array([self._key, self._calls.get(name, 0)], np.uint64)

    def _restart(self, key: int, calls: dict[str, int]) -> None:
        """Go on with draws on GPUs from this key and these numbers of calls."""
        self._key, self._calls = key, calls
        for name, array in self._on.items():
            assign(array, self._on_host(name))

    def _gpu_state(self) -> dict[str, Any]:
        """The key, and how many calls each GPU has served."""
        calls = self._calls | {name: int(array[1].item()) for name, array in self._on.items()}
        return {"key": self._key, "calls": {name: n for name, n in calls.items() if n}}


def _key_of(bit_generator: Any) -> int:
    """64 bits that the state of a bit generator decides, and with it the seed."""
    return _hash(str(bit_generator.state))


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def draws_on(generator: Generator, device: Device) -> Any:
    """The state of a generator's draws on a GPU, in its memory: uint64, (key, calls so far). The
    array stays the same one, so that captured graphs read it anew."""
    name = str(device)
    if name not in generator._on:
        generator._on[name] = move(generator._on_host(name), device)
    return generator._on[name]


_generator = Generator()


def _in_child() -> None:
    global _generator
    before = _generator
    _generator = Generator()  # the lock of the other one may be held by a thread that is gone
    _generator.bit_generator.state = before.bit_generator.state
    _generator._restart(before._key, {})  # a child cannot ask the GPU of its parent


in_children(_in_child)


def manual_seed(seed: int) -> Generator:
    """Seed every random draw of minires; the same seed gives the same numbers.

    Raises:
        ArgumentError: ``seed`` is not an integer >= 0.
    """
    return _generator.manual_seed(seed)


class Keyed(Generator):
    """Draws that three words decide, each in 0..2**64 - 1. NumPy's Philox is a function of key and
    counter, so there is nothing to mix: it begins at once."""

    def __init__(self, *words: int) -> None:
        first, second, third = words
        key, counter = np.array([first, second], np.uint64), np.array([0, third, 0, 0], np.uint64)
        np.random.Generator.__init__(self, np.random.Philox(key=key, counter=counter))
        self._key = _hash(str(words))
        self._calls, self._on = {}, {}


_instead = ContextVar[Callable[[], Generator] | None]("minires_drawn_from", default=None)


@contextlib.contextmanager
def drawn_from(make: Callable[[], Generator]) -> Iterator[None]:
    """In this thread or task, :func:`generator` is what ``make()`` gives, until the block ends."""
    token = _instead.set(make)
    try:
        yield
    finally:
        _instead.reset(token)


def generator() -> Generator:
    """The global generator."""
    make = _instead.get()
    return _generator if make is None else make()


def get_state() -> dict[str, Any]:
    """The generator's state, as plain numbers and strings that JSON can hold.

    ``"gpu"`` is that of the draws on GPUs, which it waits for.
    """
    return {**_generator.bit_generator.state, "gpu": _generator._gpu_state()}


def derived(state: dict[str, Any], number: int) -> dict[str, Any]:
    """The state of another generator, which ``state``, as :func:`get_state` gave it, and
    ``number`` decide; other numbers give other draws."""
    source = np.random.PCG64(_hash(f"{sorted(state.items())} {number}"))
    return {**source.state, "gpu": {"key": _key_of(source), "calls": {}}}


@contextlib.contextmanager
def preserved() -> Iterator[None]:
    """Put the generator back afterwards: what is drawn inside changes no later draw."""
    state = get_state()
    try:
        yield
    finally:
        set_state(state)


# what anything that is no state leads to
_UNFIT = (ValueError, TypeError, LookupError, OverflowError, RuntimeError, AttributeError)


def set_state(state: dict[str, Any]) -> None:
    """Go back to a state that :func:`get_state` gave. One without ``"gpu"``, of a file that was
    saved before there were draws on GPUs, leaves those alone.

    Raises:
        CheckpointError: ``state`` is not such a state.
    """
    try:
        key, calls = _checked(state["gpu"]) if "gpu" in state else (None, {})
        _generator.bit_generator.state = state
    except (
        ValueError,
        TypeError,
        LookupError,
        OverflowError,
        RuntimeError,
        AttributeError,
    ) as error:
        expected = "a state from minires.random.get_state()"
        raise CheckpointError(message("set_state", expected, quoted(error))) from error
    if key is not None:
        _generator._restart(key, calls)


def _checked(gpu: Any) -> tuple[int, dict[str, int]]:
    """The key and the numbers of calls in a state."""
    calls = {str(Device(name)): count for name, count in gpu["calls"].items()}
    for number in (gpu["key"], *calls.values()):
        if type(number) is not int or not 0 <= number < 2**64:
            raise ValueError(message("gpu", "integers of 64 bits", quoted(number)))
    return gpu["key"], calls
