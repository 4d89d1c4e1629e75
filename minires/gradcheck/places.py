"""Where the failing entries of a Jacobian stand, in words: one channel, a kernel column, a border.

A place is named only if the failures fill less than all that could fail, and if so many of them
would hardly meet there by accident.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.intp]  # (number of axes, number of entries)

ENOUGH = 3  # entries that must agree before they count as a pattern
CHANCE = 0.05  # a place is named if accident would put the failures there less often


def axis_names(shape: tuple[int, ...], name: str = "") -> tuple[str, ...]:
    """What the axes of an argument (or the output) are called: (n, c, h, w) and the like."""
    if name.rpartition(".")[2] in ("w", "weight") and len(shape) in (2, 4):
        return ("c_out", "c_in", "kh", "kw") if len(shape) == 4 else ("out", "in")
    known = {1: ("c",), 2: ("n", "c"), 4: ("n", "c", "h", "w")}
    return known.get(len(shape), tuple(f"dim {i}" for i in range(len(shape))))


def where(
    wrong: NDArray[np.bool_],
    support: NDArray[np.bool_],
    shape: tuple[int, ...],
    output_shape: tuple[int, ...],
    name: str,
) -> str:
    """What singles out the failing entries, along the argument's axes or else the output's.

    Args:
        wrong: (m, n), the entries that fail.
        support: (m, n), the entries that are not zero, which are those that could fail.
        shape, output_shape: of the argument (n entries) and of the output (m entries).
        name: of the argument.

    Returns:
        As in "only channel c=1 of x"; "" if the failures are spread over all.
    """
    sides = []
    for axis, sizes, owner in ((0, shape, name), (1, output_shape, "output")):
        failing = np.flatnonzero(wrong.any(axis=axis))
        possible = np.flatnonzero((support | wrong).any(axis=axis))
        if len(failing) == len(possible):  # nothing is spared
            continue
        if len(failing) == 1 and wrong.sum() >= ENOUGH:
            return f"only {owner}{[int(i) for i in np.unravel_index(failing[0], sizes)]}"
        sides.append((failing, possible, sizes, axis_names(sizes, "" if axis else name), owner))
    for failing, possible, sizes, names, owner in sides:
        at, could = (np.stack(np.unravel_index(some, sizes)) for some in (failing, possible))
        found = _at_the_edge(at[-2:], could[-2:], sizes[-2:], owner) if "h" in names else ""
        found = found or _one_index(at, could, names, owner)
        if found:
            return found
    return ""


def _by_accident(share: float, count: int) -> bool:
    """Whether ``count`` failures may well all lie in a place that holds this share of all."""
    return share**count > CHANCE


def _one_index(at: Places, could: Places, names: tuple[str, ...], owner: str) -> str:
    """All failures have the same index along an axis, or along several."""
    common = {}
    for label, here, possible in zip(names, at, could):
        share = float((possible == here[0]).mean())
        # the first failure may stand anywhere: it is the others that agree with it
        if (here == here[0]).all() and share < 1 and not _by_accident(share, len(here) - 1):
            common[label] = int(here[0])
    if not common:
        return ""
    pairs = ", ".join(f"{label}={index}" for label, index in common.items())
    kind = {"n": "image", "c": "channel", "h": "row", "w": "column"}.get(next(iter(common)))
    if kind is None or len(common) > 1:
        return f"all failures have {pairs}" + ("" if "kw" in names else f" of {owner}")
    if owner == "output":
        return f"only {'' if kind == 'image' else 'output '}{kind} {pairs}"
    return f"only {kind} {pairs} of {owner}"


# The distance of pixel (h, w) of an image of h_in x w_in to the far edges, or to any edge.
_DISTANCES: dict[str, Callable[[Places, int, int], Places]] = {
    "row": lambda at, h, w: h - 1 - at[0],
    "column": lambda at, h, w: w - 1 - at[1],
    "last": lambda at, h, w: np.minimum(h - 1 - at[0], w - 1 - at[1]),
    "border": lambda at, h, w: np.minimum.reduce([*at, h - 1 - at[0], w - 1 - at[1]]),
}


def _at_the_edge(at: Places, could: Places, sizes: tuple[int, ...], owner: str) -> str:
    """All failures lie at the edge of the images, and the rest of the images is right."""
    h, w = sizes
    for what, distance in _DISTANCES.items():
        reach = int(distance(at, h, w).max())
        share = float((distance(could, h, w) <= reach).mean())
        if share == 1 or (share > 0.5 and what != "border") or _by_accident(share, at.shape[1]):
            continue
        if what == "border":
            return f"only border entries of {owner} (h or w at the edge): padding?"
        starts = {"row": f"h >= {h - 1 - reach}", "column": f"w >= {w - 1 - reach}"}
        place = starts.get(what, " or ".join(starts.values()))
        if what == "last":
            return f"only the last rows and columns of {owner} ({place}): a remainder dropped?"
        if reach:
            return f"only the last {what}s of {owner} ({place}): a remainder dropped?"
        return (
            f"only in the last {what} of {owner} ({place.replace('>=', '=')}): a remainder dropped?"
        )
    return ""
