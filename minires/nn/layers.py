"""Layers: modules around one operation each, with PyTorch's names, arguments and initial values.

The maths of an operation is in ``minires/ops``; a layer holds the parameters, checks what its
constructor is given, and knows about training and evaluation mode.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

from minires import arguments
from minires.creation import zeros
from minires.nn import functional as F
from minires.nn import init
from minires.nn.module import Module
from minires.nn.parameter import Parameter, UninitializedParameter
from minires.tensor import Tensor

REDUCTIONS = ("mean", "sum", "none")
DRAWN = 16  # bytes that an entry takes while it is drawn: float64, and float32 twice


def parameter(layer: str, make: Callable[..., Tensor], *shape: int) -> Parameter:
    """A parameter of this shape, ``make`` being ``zeros`` or ``ones``; a size of 0 is one that is
    not known yet.

    Raises:
        ArgumentError: the memory of this machine cannot hold it.
    """
    if 0 in shape:  # of a lazy layer: no other lets a size be 0
        return UninitializedParameter._of(*shape)
    arguments.check_memory(
        layer, math.prod(shape) * DRAWN, f"a parameter of shape {shape}, drawn in float64"
    )
    return Parameter(make(*shape))


class Identity(Module):
    """Returns its input; takes and ignores any arguments, so it can stand in for other layers."""

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x


class Flatten(Module):
    """Merges dimensions ``start_dim`` to ``end_dim``: ``(n, c, h, w) -> (n, c * h * w)``."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim = arguments.integer("Flatten", "start_dim", start_dim)
        self.end_dim = arguments.integer("Flatten", "end_dim", end_dim)

    def forward(self, x: Tensor) -> Tensor:
        return F.flatten(x, self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


def reset_affine(weight: Parameter, bias: Parameter | None) -> None:
    """PyTorch's default: U(±1/sqrt(fan_in)) for weight and bias alike.

    It is He's uniform rule (arXiv:1502.01852) with leaky slope sqrt(5), which makes
    gain * sqrt(3 / fan_in) = 1 / sqrt(fan_in); for ReLU networks ``init.kaiming_normal_`` is
    the better choice, and what :mod:`minires.models` uses.
    """
    init.kaiming_uniform_(weight, a=math.sqrt(5.0))
    if bias is not None:
        reset_bias(weight, bias)


def reset_bias(weight: Parameter, bias: Parameter) -> None:
    """U(±1/sqrt(fan_in)), by the fan-in of the weight beside it."""
    bound = 1.0 / math.sqrt(init.fans(weight)[0])
    init.uniform_(bias, -bound, bound)


class Linear(Module):
    """``y = x wᵀ + b`` for ``x (..., in_features)``, weight ``(out_features, in_features)``.

    Raises:
        ArgumentError: a feature count that is not an integer >= 1.
    """

    _least_inputs: ClassVar[int] = 1  # 0, which a lazy layer has, means: not known yet

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        least = self._least_inputs
        self.in_features = arguments.integer("Linear", "in_features", in_features, least)
        self.out_features = arguments.integer("Linear", "out_features", out_features, 1)
        bias = arguments.flag("Linear", "bias", bias)
        self.weight = parameter("Linear", zeros, self.out_features, self.in_features)
        self.bias = Parameter(zeros(self.out_features)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias anew, from U(±1/sqrt(in_features))."""
        reset_affine(self.weight, self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}"
        )


class ZeroPad2d(Module):
    """Widens images with zeros; negative widths cut.

    Args:
        padding: one width for all sides, or (left, right, top, bottom).

    Raises:
        ArgumentError: neither.
    """

    def __init__(self, padding: int | tuple[int, int, int, int]) -> None:
        super().__init__()
        name = "padding: one integer, or (left, right, top, bottom):"
        sides = padding if isinstance(padding, tuple | list) else (padding,) * 4
        self.padding = arguments.sizes("ZeroPad2d", name, sides, None, 4)

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, self.padding)

    def extra_repr(self) -> str:
        return str(self.padding)


class ReLU(Module):
    """``max(x, 0)``, elementwise.

    ``inplace`` is accepted so that PyTorch code runs, and changes nothing: the result always has
    memory of its own, because the tape may still need the input.
    """

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = arguments.flag("ReLU", "inplace", inplace)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x)

    def extra_repr(self) -> str:
        return "inplace=True" if self.inplace else ""


class Sigmoid(Module):
    """``1 / (1 + exp(-x))``, elementwise."""

    def forward(self, x: Tensor) -> Tensor:
        return F.sigmoid(x)


class Tanh(Module):
    """Hyperbolic tangent, elementwise."""

    def forward(self, x: Tensor) -> Tensor:
        return F.tanh(x)


class Softmax(Module):
    """``exp(x) / sum(exp(x))`` along ``dim``."""

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = arguments.integer(type(self).__name__, "dim", dim)

    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(x, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class LogSoftmax(Softmax):
    """The logarithm of :class:`Softmax` along ``dim``."""

    def forward(self, x: Tensor) -> Tensor:
        return F.log_softmax(x, self.dim)


class _Dropout(Module):
    """``inplace`` is accepted so that PyTorch code runs, and changes nothing, as in ``ReLU``."""

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        self.p = arguments.number(type(self).__name__, "p", p, least=0, most=1)
        self.inplace = arguments.flag(type(self).__name__, "inplace", inplace)

    def extra_repr(self) -> str:
        return f"p={self.p}" + (", inplace=True" if self.inplace else "")


class Dropout(_Dropout):
    """In training, zeroes entries with probability ``p`` and scales the others by 1 / (1 - p)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, self.training)


class Dropout2d(_Dropout):
    """:class:`Dropout` of whole channels: what one pixel of a map says, its neighbours say too."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout2d(x, self.p, self.training)


class CrossEntropyLoss(Module):
    """Cross entropy of logits ``(n, classes)`` with labels or class probabilities.

    ``weight`` is a factor for each class, or None; it is a buffer, and moves with :meth:`to`.

    Raises:
        ArgumentError: ``label_smoothing`` outside 0..1, or an unknown ``reduction``.
    """

    weight: Tensor | None

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        name = "CrossEntropyLoss"
        self.reduction = arguments.choice("reduction", reduction, REDUCTIONS)
        self.label_smoothing = arguments.number(
            name, "label_smoothing", label_smoothing, least=0, most=1
        )
        self.ignore_index = arguments.integer(name, "ignore_index", ignore_index)
        self.register_buffer("weight", weight)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(
            logits,
            target,
            self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )

    def extra_repr(self) -> str:
        return f"reduction={self.reduction!r}, label_smoothing={self.label_smoothing}"
