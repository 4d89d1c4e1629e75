"""What is checked: every case there is, and choosing among them by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...errors import unknown
from . import arrays, blocks, kernels, layers
from .case import Case

CASES = [*kernels.CASES, *arrays.CASES, *layers.CASES, *blocks.CASES]


def names_of(cases: Iterable[Case]) -> list[str]:
    """What these cases check, each name once."""
    return list(dict.fromkeys(case.name for case in cases))


NAMES = names_of(CASES)


def select(names: Sequence[str] = ()) -> list[Case]:
    """The cases of these operations, layers and blocks, all for none, in their order here.

    Raises:
        ArgumentError: a name that has no cases, with the nearest that do.
    """
    for name in names:
        if name not in NAMES:
            raise unknown("operation, layer or block", name, NAMES)
    return [case for case in CASES if not names or case.name in names]
