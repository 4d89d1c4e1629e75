"""``summary``: what a network is made of, and what one pass through it costs."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from minires.device import memory
from minires.nn.module import Module
from minires.nn.trace import Step, Trace, check_module, initialized, tensors_or_zeros, trace
from minires.ops.conv2d.op import Conv2d, Conv2dInput
from minires.ops.matmul import MatMul

_WIDTH = 100  # columns of the table


@dataclass(frozen=True)
class SummaryRow:
    """One layer.

    Attributes:
        output_shape: None if the forward pass did not call it.
        output_bytes: what its results take in memory; 0 if they are views, or another layer's.
        kept_bytes: what its operations were the first to keep for the backward pass.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...] | None
    params: int
    mult_adds: int
    output_bytes: int
    kept_bytes: int


@dataclass(frozen=True)
class Summary:
    """The result of :func:`summary`; ``str()`` is the table."""

    model: str
    input_shape: tuple[int, ...]
    rows: tuple[SummaryRow, ...]
    total_params: int
    trainable_params: int
    total_mult_adds: int
    total_output_bytes: int
    total_kept_bytes: int

    def __str__(self) -> str:
        divisor, unit = (1000, "kB") if self.total_output_bytes >= 10_000 else (1, "B")

        def line(label: str, shape: str, *counts: int) -> tuple[str, ...]:
            params, mult_adds, *sizes = counts
            digits = 1 if divisor > 1 else 0
            memory_cells = [f"{size / divisor:,.{digits}f}" for size in sizes]
            return (label, shape, f"{params:,}", f"{mult_adds:,}", *memory_cells)

        table: list[Sequence[str]] = [
            ("layer", "output shape", "parameters", "mult-adds", f"output {unit}", "kept")
        ]
        for row in self.rows:
            label = f"{row.name} ({row.kind})" if row.name else row.kind
            shape = "not called" if row.output_shape is None else str(row.output_shape)
            table.append(
                line(label, shape, row.params, row.mult_adds, row.output_bytes, row.kept_bytes)
            )
        table.append(
            line(
                "total",
                "",
                self.total_params,
                self.total_mult_adds,
                self.total_output_bytes,
                self.total_kept_bytes,
            )
        )
        head, *rows, total = _aligned(table)
        rule = "-" * len(head)
        scale, prefix = _unit(self.total_mult_adds)
        kept_scale, kept_prefix = _unit(self.total_kept_bytes)
        return "\n".join(
            [
                f"{self.model} on input {self.input_shape}",
                *(rule, head, rule),
                *rows,
                *(rule, total, rule),
                f"parameters {self.total_params:,} (trainable {self.trainable_params:,})",
                f"multiply-adds {self.total_mult_adds / scale:.2f} {prefix} for this batch of "
                f"{self.input_shape[0]}; convolutions and matrix products only".replace("  ", " "),
                f"kept for the backward pass {self.total_kept_bytes / kept_scale:.2f} "
                f"{kept_prefix}B",
            ]
        )

    __repr__ = __str__


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table: two columns of text, shortened to fit, and the rest numbers."""
    widths = [max(len(cells[i]) for cells in table) for i in range(len(table[0]))]
    widths[0] = min(widths[0], _WIDTH - sum(widths[1:]) - 2 * (len(widths) - 1))
    lines = []
    for label, shape, *numbers in table:
        if len(label) > widths[0]:
            label = "…" + label[1 - widths[0] :]
        aligned = [f"{text:>{width}}" for text, width in zip(numbers, widths[2:])]
        lines.append("  ".join([f"{label:<{widths[0]}}", f"{shape:<{widths[1]}}", *aligned]))
    return lines


def _unit(number: float) -> tuple[int, str]:
    """A divisor that leaves ``number`` readable, and the prefix of its unit then."""
    for power, prefix in ((9, "G"), (6, "M"), (3, "k")):
        if number >= 10**power:
            return 10**power, prefix
    return 1, ""


def summary(model: Module, x: Any, dtype: Any = None) -> Summary:
    """Parameters, output shapes, multiply-adds and activation memory of every layer of ``model``.

    The model is run once, in evaluation mode, on ``x``: a tensor, a tuple of tensors, or a shape,
    which stands for zeros of ``dtype`` (by default that of the parameters). Its state, its modes
    and the random state are what they were afterwards; lazy layers go on waiting for an input.

    * Multiply-adds: of convolutions (output entries × c_in / groups × k_h × k_w; a
      transposed one: input entries × c_out / groups × k_h × k_w) and of matrix products (output
      entries × inner size), as in published counts; biases, batch norm, pooling and additions
      count as 0. They are for the whole batch: with a batch of 1 they are the published figures.
    * ``output``: the bytes of what a layer returns; views and tensors handed through are 0.
    * ``kept``: the bytes that stay in memory until the backward pass because an operation of this
      layer needs them again, such as a convolution's input. What several operations keep counts
      once, for the first; parameters do not count. This is what training needs on top of
      parameters, gradients and optimiser state when every operation runs by itself: the masks of
      dropout come on top, and fused operations (``docs/architecture.md``) may keep less. It is 0
      for what needs no gradient.

    A row is a module without children, one that holds parameters itself, or one whose ``forward``
    computes or keeps something itself, in the order of definition. One that is called several
    times shows its last shape, and the sum of the rest over all calls.

    Raises:
        ArgumentError: ``model`` is no module; ``x`` is neither a tensor nor integers, batch first.

    >>> from minires import nn
    >>> summary(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), (2, 3)).total_mult_adds
    24
    """
    check_module("summary", model)
    given = tensors_or_zeros("summary", model, x, dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that statistics or maps are odd is no matter here
        model = initialized(model, given)
        seen = trace("summary", model, given, grad=True)
    costs = _sums((step.module, _mult_adds(step)) for step in seen.steps)
    kept = _kept(model, seen)
    outputs = _sums((path, v.nbytes) for path, v in seen.calls if v is not None and _made(v, path))
    shapes = {path: value.shape for path, value in seen.calls if value is not None}
    rows = []
    for name, module in model.named_modules():
        own = sum(param.numel() for param in module.parameters(recurse=False))
        cost, keeps = costs.get(name, 0), kept.get(name, 0)
        if own or cost or keeps or not module._modules:
            kind, size = type(module).__name__, outputs.get(name, 0)
            rows.append(SummaryRow(name, kind, shapes.get(name), own, cost, size, keeps))
    params = list(model.parameters())
    return Summary(
        type(model).__name__,
        given[0].shape,
        tuple(rows),
        sum(param.numel() for param in params),
        sum(param.numel() for param in params if param.requires_grad),
        sum(row.mult_adds for row in rows),
        sum(row.output_bytes for row in rows),
        sum(row.kept_bytes for row in rows),
    )


def _sums(pairs: Any) -> dict[str, int]:
    result: dict[str, int] = {}
    for key, number in pairs:
        result[key] = result.get(key, 0) + number
    return result


def _mult_adds(step: Step) -> int:
    """Multiplications of a convolution or matrix product; everything else counts as 0."""
    if step.function in (Conv2d, Conv2dInput):
        (geometry,) = (a for a in step.inputs if hasattr(a, "multiply_adds"))
        return int(geometry.multiply_adds)
    if step.function is MatMul:
        return math.prod(step.outputs[0].shape) * step.values[0].shape[-1]
    return 0


def _made(value: Any, path: str) -> bool:
    """Whether a call of this module made the tensor that it returned, in memory of its own."""
    step = value.step
    return step is not None and step.module == path and not getattr(step.function, "view", False)


def _kept(model: Module, seen: Trace) -> dict[str, int]:
    """Bytes that each module's operations were the first to keep for the backward pass."""
    known = {id(memory(tensor._array)) for tensor in (*model.parameters(), *model.buffers())}
    alive = []  # an array that was freed could give its id to another
    result: dict[str, int] = {}
    for step in seen.steps:
        for array in step.ctx.kept() if step.ctx is not None else ():
            owner = memory(array)
            if id(owner) not in known:
                known.add(id(owner))
                alive.append(owner)
                result[step.module] = result.get(step.module, 0) + int(array.nbytes)
    return result
