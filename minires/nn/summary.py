"""``summary``: what a network is made of, and what one pass through it costs."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minires.autograd import no_grad
from minires.errors import ArgumentError, message
from minires.nn.layers import Conv2d, Linear
from minires.nn.module import Module
from minires.tensor import Tensor, zeros

_NAME_WIDTH = 52  # keeps the table within 100 columns


@dataclass(frozen=True)
class SummaryRow:
    """One layer. ``output_shape`` is None if the forward pass did not call it."""

    name: str
    kind: str
    output_shape: tuple[int, ...] | None
    params: int
    mult_adds: int


@dataclass(frozen=True)
class Summary:
    """What :func:`summary` found; ``str()`` is the table."""

    model: str
    input_shape: tuple[int, ...]
    rows: tuple[SummaryRow, ...]
    total_params: int
    trainable_params: int
    total_mult_adds: int

    def __str__(self) -> str:
        cells = [("layer", "output shape", "parameters", "mult-adds")]
        for row in self.rows:
            label = f"{row.name} ({row.kind})" if row.name else row.kind
            if len(label) > _NAME_WIDTH:
                label = "…" + label[1 - _NAME_WIDTH :]
            shape = "not called" if row.output_shape is None else str(row.output_shape)
            cells.append((label, shape, f"{row.params:,}", f"{row.mult_adds:,}"))
        widths = [max(len(line[i]) for line in cells) for i in range(4)]
        lines = [
            f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}".rstrip()
            for a, b, c, d in cells
        ]
        rule = "-" * max(map(len, lines))
        scaled, unit = self.total_mult_adds / 1e6, "M"
        if scaled >= 1000:
            scaled, unit = scaled / 1000, "G"
        return "\n".join(
            [
                f"{self.model} on input {self.input_shape}",
                rule,
                lines[0],
                rule,
                *lines[1:],
                rule,
                f"parameters {self.total_params:,} (trainable {self.trainable_params:,})",
                f"multiply-adds {scaled:.2f} {unit} for this batch of {self.input_shape[0]}; "
                "convolutions and linear layers only",
            ]
        )

    __repr__ = __str__


def _mult_adds(module: Module, output: Tensor) -> int:
    """Multiplications of a convolution or linear layer; everything else counts as 0."""
    if isinstance(module, Conv2d):
        return (
            output.numel() * (module.in_channels // module.groups) * math.prod(module.kernel_size)
        )
    if isinstance(module, Linear):
        return output.numel() * module.in_features
    return 0


def summary(model: Module, input_size: Sequence[int], dtype: Any = np.float32) -> Summary:
    """Parameters, output shapes and multiply-adds of every layer of ``model``.

    The model is run once, in evaluation mode, on zeros of shape ``input_size``; its state and its
    modes are what they were afterwards. Multiply-adds are those of convolutions (output entries
    × c_in / groups × k_h × k_w) and linear layers (output entries × in_features), as in published
    counts; biases, batch norm, pooling and additions count as 0. They are for the whole batch:
    with a batch of 1 they are the published figures.

    A row is a module without children, or one that holds parameters itself, in the order of
    definition; one that is called several times shows its last shape and all its multiply-adds.

    Raises:
        ArgumentError: ``input_size`` is not a sequence of integers, batch first.
    """
    whole = all(isinstance(size, int) for size in input_size)
    if not whole or len(input_size) < 2 or min(input_size) < 1:
        raise ArgumentError(
            message(
                "summary",
                "input_size as integers >= 1, batch first, such as (1, 3, 32, 32)",
                repr(input_size),
            )
        )
    shapes: dict[int, tuple[int, ...]] = {}
    costs: dict[int, int] = {}

    def note(module: Module, _args: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor):
            shapes[id(module)] = output.shape
            costs[id(module)] = costs.get(id(module), 0) + _mult_adds(module, output)

    modes = [(module, module.training) for module in model.modules()]
    handles = [module.register_forward_hook(note) for module, _ in modes]
    try:
        model.eval()
        with no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that statistics or maps are odd is no matter here
            model(zeros(*input_size, dtype=dtype))
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
    rows = []
    for name, module in model.named_modules():
        own = sum(param.numel() for param in module.parameters(recurse=False))
        if own or not module._modules:
            shape = shapes.get(id(module))
            rows.append(
                SummaryRow(name, type(module).__name__, shape, own, costs.get(id(module), 0))
            )
    params = list(model.parameters())
    return Summary(
        type(model).__name__,
        tuple(input_size),
        tuple(rows),
        sum(param.numel() for param in params),
        sum(param.numel() for param in params if param.requires_grad),
        sum(row.mult_adds for row in rows),
    )
