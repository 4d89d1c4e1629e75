"""Randomness: one global generator, seeded by :func:`manual_seed`, from which every draw comes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from .arguments import as_integer
from .errors import ArgumentError, CheckpointError, message, quoted
from .forks import in_children


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

    def manual_seed(self, seed: int) -> Generator:
        """Start anew from ``seed``; the same seed gives the same numbers.

        Raises:
            ArgumentError: ``seed`` is not an integer >= 0.
        """
        whole = as_integer(seed)
        if whole is None or whole < 0:
            raise ArgumentError(message("manual_seed", "an integer seed >= 0", quoted(seed)))
        self.bit_generator.state = np.random.PCG64(whole).state
        return self


_generator = Generator()


def _in_child() -> None:
    global _generator
    state = get_state()
    _generator = Generator()  # the lock of the other one may be held by a thread that is gone
    set_state(state)


in_children(_in_child)


def manual_seed(seed: int) -> Generator:
    """Seed every random draw of minires; the same seed gives the same numbers.

    Raises:
        ArgumentError: ``seed`` is not an integer >= 0.
    """
    return _generator.manual_seed(seed)


def generator() -> Generator:
    """The global generator."""
    return _generator


def get_state() -> dict[str, Any]:
    """The generator's state, as plain numbers and strings that JSON can hold."""
    return dict(_generator.bit_generator.state)


@contextlib.contextmanager
def preserved() -> Iterator[None]:
    """Put the generator back afterwards: what is drawn inside changes no later draw."""
    state = get_state()
    try:
        yield
    finally:
        set_state(state)


def set_state(state: dict[str, Any]) -> None:
    """Go back to a state that :func:`get_state` gave.

    Raises:
        CheckpointError: ``state`` is not such a state.
    """
    try:
        _generator.bit_generator.state = state
    except (ValueError, TypeError, LookupError, OverflowError, RuntimeError) as error:
        expected = "a state from minires.random.get_state()"
        raise CheckpointError(message("set_state", expected, quoted(error))) from error
