"""Operands: how a kernel reads an array that was never written to memory.

Between two convolutions stand a batch norm and a ReLU, each of which would read and write the
whole tensor. A convolution copies its input into a small workspace anyway, block by block, to add
the padding. While it copies it can apply batch norm and ReLU, and neither result is written: the
operand is then an array ``x`` with a *prologue*, a formula that is applied to x. The kinds of
prologue, with one number per channel for each of mean, scale, shift, share and slope (formulas of
:mod:`minires.ops.batch_norm`):

=============  =======================================================================
PLAIN          x
NORMALISED     (x - mean) * scale + shift
RECTIFIED      max(NORMALISED, 0)
GRADIENT       scale * (x - share - (y - mean) * slope): what batch norm hands back when
               x is the gradient of its output and y was its input
GATED          the same, with x set to 0 where (y - mean) * scale + shift <= 0
PASSED         scale * x, with x set to 0 there: the same of a batch norm with fixed statistics,
               whose gradient does not depend on y but by the ReLU
=============  =======================================================================
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

PLAIN, NORMALISED, RECTIFIED, GRADIENT, GATED, PASSED = range(6)
KINDS = ("plain", "normalised", "rectified", "gradient", "gated", "passed")
PROLOGUES = frozenset(KINDS[1:])
POOLED = "pooled"  # a backend's max pooling reads operands too: those of a forward pass
MEAN, SCALE, SHIFT, SHARE, SLOPE = range(5)  # rows of the coefficients


@dataclass(slots=True, eq=False)
class Operand:
    """An operand (n, h, w, c) as a kernel is to read it.

    Attributes:
        x: the array that is read, contiguous.
        kind: of the prologue, one of the table of this module.
        coefficients: (5, c): mean, scale, shift, share, slope; 0 where a kind has no use for one.
        y: the second array of the last three kinds, of the shape of x.
    """

    x: Any
    kind: int = PLAIN
    coefficients: Any = None
    y: Any = None

    @property
    def arguments(self) -> tuple[Any, ...]:
        """(x, y, coefficients, kind) for a kernel; an empty array for an absent one."""
        nothing = nothing_of(self.x.dtype)
        y = nothing if self.y is None else self.y
        k = nothing if self.coefficients is None else self.coefficients
        return self.x, y, k, self.kind

    def values(self) -> Any:
        """The operand as an array: the definition, in plain NumPy."""
        if self.kind == PLAIN:
            return self.x
        mean, scale, shift, share, slope = self.coefficients
        if self.kind in (NORMALISED, RECTIFIED):
            z = (self.x - mean) * scale + shift
            return np.where(z <= 0, 0, z).astype(z.dtype) if self.kind == RECTIFIED else z
        g = self.x
        if self.kind != GRADIENT:
            g = np.where((self.y - mean) * scale + shift <= 0, 0, g).astype(g.dtype)
        if self.kind == PASSED:
            return scale * g
        return scale * (g - share - (self.y - mean) * slope)


@functools.cache
def nothing_of(dtype: np.dtype[Any]) -> Any:
    """An empty array, for a kernel's argument that is not there."""
    return np.empty(0, dtype)


def as_operand(operand: Any) -> Operand:
    """An array as an operand without a prologue; an operand as it is."""
    return operand if isinstance(operand, Operand) else Operand(operand)
