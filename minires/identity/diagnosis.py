"""What is wrong with a skip path, in words, from the Jacobian it left behind."""

from __future__ import annotations

from typing import Any

import numpy as np

from minires.identity.jacobians import Array, Jacobians

_CLOSE = 1e-9  # of the largest entry: a factor of 1.001 is far from 1, rounding is not


def what_is_wrong(j: Jacobians, y: Array, f: Array, value_agrees: bool) -> str:
    """Why J_block is not D (J_F + S).

    Args:
        j: Jacobians at the tensor where the paths part.
        y: the block's value; f: the value of F; both of any shape.
        value_agrees: whether the block's value, at least, is right.
    """
    passing = (y.reshape(-1) > 0) if not j.open.all() else j.open
    # Rows that the block's own ReLU lets pass: there J_block - J_F is the skip as backward saw it.
    seen, skip = (j.block - j.residual)[passing], j.skip[passing]
    head = "J_block - J_F is not S"
    if not skip.any():
        return f"{head}: {_worst(j)}"
    after = np.where(f.reshape(-1, 1) > 0, j.residual, 0.0) + j.skip
    if not j.open.all() and _close(j.block, after):
        return f"{head}: the skip is added after the ReLU, which it should pass through"
    if _close(seen, np.zeros_like(seen)):
        why = (
            "the skip is in the value, but no gradient comes back through it (detached)"
            if value_agrees
            else "the skip was dropped"
        )
        return f"{head}, it is 0: {why}"
    factor = float((seen * skip).sum() / np.square(skip).sum())
    if abs(factor - 1) > _CLOSE and _close(seen, factor * skip):
        why = "the skip is counted twice" if abs(factor - 2) < _CLOSE else "the skip is scaled"
        return f"{head}, it is {factor:.6g} S: {why}"
    return f"{head}: {_channels(j, seen, skip, passing) or _worst(j)}"


def _close(one: Array, other: Array) -> bool:
    return bool(np.abs(one - other).max(initial=0.0) <= _CLOSE * np.abs(other).max(initial=1.0))


def _channels(j: Jacobians, seen: Array, skip: Array, passing: Any) -> str:
    """Whether all rows that differ are those of a few output channels, which lost their skip."""
    channel = np.indices(j.shape_out)[1].reshape(-1)[passing]
    wrong = np.abs(seen - skip).max(1) > _CLOSE * np.abs(skip).max()
    lost = sorted({int(c) for c in channel[wrong]})
    of_lost = np.isin(channel, lost)
    if len(lost) == j.shape_out[1] or not _close(seen[of_lost], np.zeros_like(seen[of_lost])):
        return ""
    many = "channels" if len(lost) > 1 else "channel"
    return f"the skip is lost in {many} {', '.join(map(str, lost))} of {j.shape_out[1]}"


def _worst(j: Jacobians) -> str:
    """The entry that is furthest off."""
    off = np.abs(j.block - j.expected)
    row, column = np.unravel_index(int(off.argmax()), off.shape)
    at_y = [int(i) for i in np.unravel_index(row, j.shape_out)]
    at_x = [int(i) for i in np.unravel_index(column, j.shape_in)]
    return (
        f"{int((off > 0).sum()):,} of {off.size:,} entries differ, most at ∂y{at_y} / ∂x{at_x}: "
        f"J_block {j.block[row, column]:.6g}, D (J_F + S) {j.expected[row, column]:.6g}"
    )
