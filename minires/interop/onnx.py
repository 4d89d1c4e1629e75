"""Export to ONNX: a network as a file that other runtimes execute.

The forward pass is traced twice, over two batches of different size and different values. What is
the same in both passes is written down; a size that differs follows the batch and is left open.
Anything else that differs would be wrong for the next input, and is an error.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import numpy as np

from minires.autograd import show_place
from minires.device import array_module
from minires.errors import ExportError, ShapeError, message
from minires.files import as_path, check_writable, write_atomic
from minires.interop.onnx_graph import Graph, refuse
from minires.interop.onnx_ops import EMITTERS, plain_index
from minires.nn.module import Module
from minires.nn.trace import Step, Trace, Value, check_module, tensors, trace
from minires.ops.batch_norm.op import BatchNorm, BatchNormStatistics
from minires.ops.elementwise import Expand
from minires.ops.index import GetItem
from minires.ops.shape import Reshape
from minires.tensor import Tensor

MOST_BYTES = 2 * 10**9  # a file in the protobuf format ends at 2 GiB, with all that is around
NOT_IN_PLACE = "Use where, pad or concatenate instead."
TARGET_SHAPES = {Reshape, Expand}  # their second argument is a shape; emitters see to it


def export_onnx(net: Module, x: Tensor | Sequence[Tensor], path: str | os.PathLike[str]) -> None:
    """Write ``net`` in evaluation mode to an ONNX file (opset 18).

    The forward pass is run on ``x`` and on one more batch, and the operations that it is made of
    are written down, in the dtype of the network. Control flow is frozen: a Python ``if`` or loop
    in ``forward`` is exported as it went for ``x``. The first dimension of inputs is the batch, of
    any size in the file; all others are those of ``x``. Parameters and buffers become initializers
    named as in the state dict; the file's inputs are ``input`` (``input_0``, ... for several), its
    outputs ``output``. The network and the random state stay as they were. The file has passed
    ``onnx.checker`` before it takes its name; after an error nothing is written.

    Args:
        net: returns a tensor, or a tuple of tensors.
        x: a typical batch of inputs (arrays are taken, too); a tuple, if ``net`` takes several.

    Raises:
        ExportError: an operation without counterpart in ONNX, or one whose arguments depend on the
            values of ``x``: names it, the module and the line. Or the package ``onnx`` is missing.
        ArgumentError: ``net`` is no module; ``x`` is no tensor; ``path`` is no path.
        ShapeError: ``x`` has no batch dimension.
        CheckpointError: ``path`` cannot be written.
    """
    onnx = _onnx()
    check_module("export_onnx", net)
    check_writable(as_path("export_onnx", path))
    inputs = _batches(x)
    first = trace("export_onnx", net, inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the first pass has said it
        second = trace("export_onnx", net, [_another(value) for value in inputs])
    graph = Graph(onnx, net, first, second)
    for step, twin in _paired(first, second):
        graph.step, graph.twin = step, twin
        graph.names[step.outputs[0]] = EMITTERS[step.function](graph, step)
    if graph.nbytes > MOST_BYTES:
        size = f"{graph.nbytes:,} bytes"
        raise ExportError(message("export_onnx", "at most 2 GB of parameters", size))
    content = graph.model().SerializeToString()
    onnx.checker.check_model(content, full_check=True)
    write_atomic(path, content)


def _onnx() -> Any:
    try:
        import onnx
    except ImportError as error:
        raise ExportError(
            message(
                "export_onnx",
                "the package onnx",
                f"none here: {error}",
                fix="Install it: pip install 'minires[onnx]'.",
            )
        ) from error
    return onnx


def _batches(x: Any) -> list[Tensor]:
    """The inputs as tensors with one batch dimension."""
    inputs = tensors("export_onnx", x)
    sizes = {tensor.shape[:1] for tensor in inputs}
    if len(sizes) > 1 or sizes & {(), (0,)}:
        shapes = ", ".join(str(tensor.shape) for tensor in inputs)
        raise ShapeError(message("export_onnx", "inputs with one batch size, at least 1", shapes))
    return inputs


def _another(x: Tensor) -> Tensor:
    """A batch of one more and of other values, within the range of the given ones."""
    array = x._array
    larger = array_module(array).concatenate([array, array[:1]])[::-1]
    return Tensor((larger * 0.75).astype(x.dtype) if x.is_floating_point() else larger.copy())


# **** comparing the two passes ****


def _paired(first: Trace, second: Trace) -> Iterator[tuple[Step, Step]]:
    """The steps that the outputs depend on, each with its twin in the other pass.

    Raises:
        ExportError: the two passes differ in more than sizes.
    """
    pairs = list(itertools.zip_longest(first.needed(), second.needed()))
    origin = _origins(first, [step for step, _ in pairs])
    origin |= _origins(second, [twin for _, twin in pairs])
    for step, twin in pairs:
        if step is None or twin is None or step.function is not twin.function:
            _diverge(step, twin)
        if step.function is BatchNormStatistics:
            continue  # the BatchNorm behind it is refused
        if step.function is BatchNorm and step.inputs[-1]:
            refuse(
                step,
                "uses the statistics of the batch in evaluation, too",
                "Export layers with track_running_stats=True.",
            )
        if step.function not in EMITTERS:
            refuse(
                step,
                "has no counterpart in ONNX",
                "Use other operations, or add an emitter for it (docs/export.md).",
            )
        for i, (one, two) in enumerate(itertools.zip_longest(step.inputs, twin.inputs)):
            ends = [origin.get(v) if isinstance(v, Value) else None for v in (one, two)]
            if ends[0] != ends[1]:
                _diverge(step, twin)
            if ends[0] is None and not (i == 1 and step.function in TARGET_SHAPES):
                _check_constant(step, twin, one, two)
        yield step, twin
    if [*map(origin.get, first.outputs)] != [*map(origin.get, second.outputs)]:
        raise ExportError("export_onnx: the network returned other tensors for another batch.")
    for place in (value.written for value in first.outputs if value.written is not None):
        raise ExportError(
            "export_onnx: the network returns a tensor that was written in place at "
            f"{show_place(place)}. {NOT_IN_PLACE}"
        )
    if not all(value in origin or value.name for value in first.outputs):
        raise ExportError(
            "export_onnx: the network returns a tensor that no operation with a derivative made "
            "(as argmax makes none). Return what comes before it."
        )


def _origins(seen: Trace, steps: list[Any]) -> dict[Any, tuple[int, int]]:
    """Where each value comes from: (-1, i) is input i, (k, i) output i of step k."""
    origin = {value: (-1, i) for i, value in enumerate(seen.inputs)}
    for k, step in enumerate(steps):
        for i, value in enumerate(step.outputs if step is not None else ()):
            origin[value] = (k, i)
    return origin


def _diverge(step: Step | None, twin: Step | None) -> NoReturn:
    names = [
        "the end" if s is None else f"{s.function.__name__} at {show_place(s.place)}"
        for s in (step, twin)
    ]
    raise ExportError(
        "export_onnx: the forward pass does other operations for another batch: "
        f"{names[0]} against {names[1]}. Python decides there by the number or the values of "
        "the inputs; ONNX cannot."
    )


def _check_constant(step: Step, twin: Step, one: Any, two: Any) -> None:
    """An argument that is no result of another step must be the same in both passes."""
    if isinstance(one, Value):
        if one.written is not None:
            refuse(
                step,
                f"reads a tensor that was written in place at {show_place(one.written)}",
                NOT_IN_PLACE,
            )
        if one.name and one.name == two.name:
            return
        one, two = one.array, two.array
    if step.function is GetItem and not isinstance(one, Value):
        one, two = tuple(plain_index(step.inputs[0], one)), tuple(plain_index(twin.inputs[0], two))
    if not _same(one, two):
        shapes = [getattr(v, "shape", v) for v in (one, two)]
        if shapes[0] == shapes[1]:
            shapes = ["the values", "other values"]
        refuse(
            step,
            f"has an argument that follows the input: {shapes[0]} for one batch, {shapes[1]} for "
            "another, and no recorded operation computes it",
            "Compute it by operations on x, or make it a constant.",
        )


def _same(one: Any, two: Any) -> bool:
    """Whether two arguments are equal, but for the size of the batch in a geometry."""
    if dataclasses.is_dataclass(one) and not isinstance(one, type):
        names = [field.name for field in dataclasses.fields(one) if field.name != "n"]
        return all(_same(getattr(one, name), getattr(two, name)) for name in names)
    if hasattr(one, "dtype") and hasattr(two, "dtype"):
        xp = array_module(one)
        floats = np.dtype(one.dtype).kind in "fc"
        return one.shape == two.shape and bool(xp.array_equal(one, two, equal_nan=floats))
    if isinstance(one, tuple) and isinstance(two, tuple) and len(one) == len(two):
        return all(map(_same, one, two))
    return bool(one == two) or (one != one and two != two)
