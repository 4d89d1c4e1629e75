"""Activations beside the rectifier and the sigmoid family of ``layers.py``.

``inplace`` is accepted so that PyTorch code runs: results always have memory of their own.
"""

from __future__ import annotations

from minires import arguments
from minires.nn import functional as F
from minires.nn.module import Module
from minires.tensor import Tensor


class LeakyReLU(Module):
    """``x`` where positive, else ``negative_slope * x``; ``inplace`` changes nothing."""

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False) -> None:
        super().__init__()
        self.negative_slope = arguments.number("LeakyReLU", "negative_slope", negative_slope)
        self.inplace = arguments.flag("LeakyReLU", "inplace", inplace)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, self.negative_slope)

    def extra_repr(self) -> str:
        return f"negative_slope={self.negative_slope}" + (", inplace=True" if self.inplace else "")


class SiLU(Module):
    """``x * sigmoid(x)``, elementwise; ``inplace`` changes nothing."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = arguments.flag("SiLU", "inplace", inplace)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x)

    def extra_repr(self) -> str:
        return "inplace=True" if self.inplace else ""


class GELU(Module):
    """``x`` times the normal distribution function of ``x``, exact or by ``"tanh"``.

    Raises:
        ArgumentError: an ``approximate`` other than ``"none"`` and ``"tanh"``.
    """

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = arguments.choice("approximate", approximate, ("none", "tanh"))

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x, self.approximate)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"
