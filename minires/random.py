"""Randomness: one global generator, seeded by :func:`manual_seed`, from which every draw comes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from .errors import ArgumentError, CheckpointError, message

_generator = np.random.Generator(np.random.PCG64())


def manual_seed(seed: int) -> np.random.Generator:
    """Seed every random draw of minires; the same seed gives the same numbers.

    Raises:
        ArgumentError: ``seed`` is not an integer >= 0.
    """
    if not isinstance(seed, int | np.integer) or isinstance(seed, bool) or seed < 0:
        raise ArgumentError(message("manual_seed", "an integer seed >= 0", repr(seed)))
    _generator.bit_generator.state = np.random.PCG64(int(seed)).state
    return _generator


def generator() -> np.random.Generator:
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
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise CheckpointError(
            message("set_state", "a state from minires.random.get_state()", repr(error))
        ) from error
