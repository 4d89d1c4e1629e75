"""Operands of a convolution on a GPU: parts of them, and their values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...autograd import copied
from ...device import backend_of
from ...kernels.operand import PLAIN, Operand
from ...memory import allocate


def written(operand: Operand) -> Operand:
    """The operand with its values in memory: the same object, which stands for the same values.

    Both gradients of a convolution read the same gy. Which of them first wants it written spares
    the other one the prologue.
    """
    if operand.kind != PLAIN:
        values = allocate(operand.x.shape, operand.x.dtype, operand.x)
        backend_of(values).write(operand, values)
        operand.x, operand.kind, operand.y, operand.coefficients = values, PLAIN, None, None
    return operand


def aligned(array: Any) -> Any:
    """The array, or a copy of one that begins within 16 bytes, as a view into the middle of other
    memory may: packs are read from multiples of their size. None stays None."""
    return array if array is None or array.data.ptr % 16 == 0 else copied(array)


def images(operand: Operand, part: slice, parts: Sequence[slice]) -> Operand:
    """These images of an operand, if there are several parts at all."""
    if len(parts) == 1:
        return operand
    y = None if operand.y is None else operand.y[part]
    return Operand(operand.x[part], operand.kind, operand.coefficients, y)
