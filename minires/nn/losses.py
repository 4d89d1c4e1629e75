"""Losses other than ``CrossEntropyLoss``."""

from __future__ import annotations

from minires import arguments
from minires.nn import functional as F
from minires.nn.layers import REDUCTIONS
from minires.nn.module import Module
from minires.tensor import Tensor


class _Loss(Module):
    def __init__(self, reduction: str) -> None:
        super().__init__()
        self.reduction = arguments.choice("reduction", reduction, REDUCTIONS)

    def extra_repr(self) -> str:
        return f"reduction={self.reduction!r}"


class MSELoss(_Loss):
    """Squared differences of a prediction and a target of the same shape.

    Raises:
        ArgumentError: an unknown ``reduction``.
        ShapeError: at the call: shapes that differ; they are not broadcast.
    """

    def __init__(self, *, reduction: str = "mean") -> None:
        super().__init__(reduction)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(input, target, reduction=self.reduction)


class NLLLoss(_Loss):
    """Minus the log-probability ``(n, classes)`` of each label ``(n,)``; after ``LogSoftmax`` it is
    :class:`CrossEntropyLoss` of the logits.

    ``weight``, a factor for each class ``(classes,)``, is a buffer: it follows
    :meth:`~minires.nn.Module.to` and is part of the state.

    Raises:
        ArgumentError: an unknown ``reduction``; at the call: a label out of range.
        ShapeError: at the call: weights that are not one for each class.
    """

    weight: Tensor | None

    def __init__(
        self, weight: Tensor | None = None, *, ignore_index: int = -100, reduction: str = "mean"
    ) -> None:
        super().__init__(reduction)
        self.register_buffer("weight", weight)
        self.ignore_index = arguments.integer("NLLLoss", "ignore_index", ignore_index)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.nll_loss(
            input, target, self.weight, ignore_index=self.ignore_index, reduction=self.reduction
        )


class BCEWithLogitsLoss(_Loss):
    """Losses of yes-or-no questions, from logits; see
    :func:`minires.ops.binary_cross_entropy_with_logits`.

    ``weight`` and ``pos_weight`` are buffers: they follow :meth:`~minires.nn.Module.to` and are
    part of the state.

    Raises:
        ArgumentError: an unknown ``reduction``.
        ShapeError: at the call: shapes that differ, or weights that do not broadcast.
    """

    weight: Tensor | None
    pos_weight: Tensor | None

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        reduction: str = "mean",
        pos_weight: Tensor | None = None,
    ) -> None:
        super().__init__(reduction)
        self.register_buffer("weight", weight)
        self.register_buffer("pos_weight", pos_weight)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(
            input, target, self.weight, reduction=self.reduction, pos_weight=self.pos_weight
        )
