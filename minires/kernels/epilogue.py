"""Epilogues: what a kernel does to its result before the result is written.

Behind a convolution of a residual network stand an addition and a ReLU, or a batch norm in
training, which first wants mean and variance of each channel. A kernel has its result in the cache,
block by block: applied there, they cost next to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .operand import as_operand

EPILOGUES = frozenset({"residual", "relu", "statistics"})


@dataclass(slots=True, eq=False)
class Epilogue:
    """y -> act(y + residual), and the statistics of the result.

    Attributes:
        residual: the second summand: an array like y, or for batch norm an
            :class:`~minires.kernels.operand.Operand` over one; or None.
        relu: whether act is max(y, 0), which leaves NaN, or nothing.
        statistics: None, or arrays (mean, var), each (c,), to be filled with the mean and the
            biased variance of each channel of the result.
    """

    residual: Any = None
    relu: bool = False
    statistics: Any = None

    def apply(self, y: Any) -> None:
        """Add and rectify in an array y (..., c): the definition, in plain NumPy."""
        if self.residual is not None:
            y += as_operand(self.residual).values()
        if self.relu:
            y[y.real <= 0] = 0  # and NaN stays


NOTHING = Epilogue()
