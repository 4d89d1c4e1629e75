"""How each operation is written in ONNX: one short function per :class:`~minires.Function`.

An emitter gets the :class:`~.onnx_graph.Graph` and the :class:`~minires.nn.trace.Step`, adds nodes
and returns the name of the result. Some look back at what made their input and write both as one
operator, as matrix product and bias become Gemm; a node that nobody needs any more is dropped in
the end. The operators: https://onnx.ai/onnx/operators/.

For a Function of your own, say ``@emits(Softplus)`` above an emitter.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from minires.interop.onnx_graph import Graph, refuse
from minires.nn.trace import Step, Value
from minires.ops import activation, convert, elementwise, index, layout, reduce, shape
from minires.ops.avg_pool2d.op import AvgPool2d
from minires.ops.batch_norm.op import BatchNorm
from minires.ops.conv2d.op import Conv2d, Conv2dInput
from minires.ops.matmul import MatMul
from minires.ops.max_pool2d.op import MaxPool2d
from minires.ops.pad import Pad
from minires.ops.relu.op import ReLU
from minires.ops.softmax import LogSoftmax, LogSumExp, Softmax
from minires.tensor import Tensor

Emitter = Callable[[Graph, Step], str]
EMITTERS: dict[Any, Emitter] = {}
END = np.iinfo(np.int64).max


def emits(*functions: Any) -> Callable[[Emitter], Emitter]:
    """Let the decorated emitter write steps of these Functions."""

    def register(emitter: Emitter) -> Emitter:
        EMITTERS.update(dict.fromkeys(functions, emitter))
        return emitter

    return register


def made_by(value: Any, function: Any) -> Step | None:
    """The step that made ``value``, if it applied ``function``."""
    step = value.step if isinstance(value, Value) else None
    return step if step is not None and step.function is function else None


# **** the layers of residual networks ****


@emits(Conv2d)
def conv2d(g: Graph, step: Step) -> str:
    x, w, b, geometry = step.inputs
    return g.add(
        "Conv",
        x,
        w,
        *([] if b is None else [b]),
        kernel_shape=[geometry.k_h, geometry.k_w],
        strides=geometry.stride,
        pads=[*geometry.padding, *geometry.padding],
        dilations=geometry.dilation,
        group=geometry.groups,
    )


@emits(Conv2dInput)
def conv_transpose2d(g: Graph, step: Step) -> str:
    x, w, geometry = step.inputs
    s, p, d = geometry.stride, geometry.padding, geometry.dilation
    least = [
        (n - 1) * s[i] - 2 * p[i] + d[i] * (k - 1) + 1
        for i, (n, k) in enumerate(zip(x.shape[2:], w.shape[2:]))
    ]
    return g.add(
        "ConvTranspose",
        x,
        w,
        kernel_shape=w.shape[2:],
        strides=s,
        pads=[*p, *p],
        output_padding=[geometry.h_in - least[0], geometry.w_in - least[1]],
        dilations=d,
        group=geometry.groups,
    )


@emits(BatchNorm)
def batch_norm(g: Graph, step: Step) -> str:
    x, w, b, mean, inv_std, _ = step.inputs
    mean_name, var_name, eps = _statistics(g, step, mean, inv_std)
    return g.add("BatchNormalization", x, w, b, mean_name, var_name, epsilon=eps)


def _statistics(g: Graph, step: Step, mean: Any, inv_std: Any) -> tuple[str, str, float]:
    """Mean and variance as the layer's buffers, where it is one, and else as constants."""
    module: Any = g.modules[step.module]
    names = ("running_mean", "running_var", "eps")
    held = {name: getattr(module, name, None) for name in names}
    if isinstance(held["running_mean"], Tensor) and isinstance(held["running_var"], Tensor):
        eps = float(module.eps)
        ours, var = held["running_mean"]._array, held["running_var"]._array
        if np.array_equal(ours, mean) and np.allclose((var + eps) ** -0.5, inv_std, rtol=1e-6):
            prefix = f"{step.module}." if step.module else ""
            return g.state(prefix + "running_mean"), g.state(prefix + "running_var"), eps
    return g.tensor(mean), g.tensor(inv_std**-2.0), 0.0


@emits(MaxPool2d)
def max_pool2d(g: Graph, step: Step) -> str:
    x, geometry = step.inputs
    after = []
    sizes = zip(
        (geometry.h_in, geometry.w_in),
        (geometry.h_out, geometry.w_out),
        geometry.kernel,
        geometry.stride,
        geometry.padding,
        geometry.dilation,
    )
    for size, out, k, s, p, d in sizes:  # as much at the far edge as the last window needs
        last = (out - 1) * s + d * (k - 1) + 1
        floored = (size + 2 * p - d * (k - 1) - 1) // s + 1
        after.append(p if floored == out else max(last - size - p, 0))
    return g.add(
        "MaxPool",
        x,
        kernel_shape=geometry.kernel,
        strides=geometry.stride,
        pads=[*geometry.padding, *after],
        dilations=geometry.dilation,
    )


@emits(AvgPool2d)
def avg_pool2d(g: Graph, step: Step) -> str:
    """Global, or with plain windows; anything else as two matrix products, rows and columns."""
    x, geometry = step.inputs
    rows, columns = (geometry.h_low, geometry.h_high), (geometry.w_low, geometry.w_high)
    sizes = geometry.h_in, geometry.w_in
    plain = [_plain_windows(*axis, size) for axis, size in zip((rows, columns), sizes)]
    windows = [window for window in plain if window is not None]
    kernel, stride = ([window[i] for window in windows] for i in (0, 1))
    if len(windows) == 2 and np.allclose(geometry.scale, 1 / math.prod(kernel)):
        if geometry.scale.shape == (1, 1) and tuple(kernel) == sizes:
            return g.add("GlobalAveragePool", x)
        return g.add("AveragePool", x, kernel_shape=kernel, strides=stride)
    dtype = step.outputs[0].dtype
    left, right = (
        ((i >= low[:, None]) & (i < high[:, None])).astype(dtype)
        for (low, high), i in zip((rows, columns), map(np.arange, sizes))
    )
    total = g.add("MatMul", g.add("MatMul", left, x), np.ascontiguousarray(right.T))
    return g.add("Mul", total, geometry.scale.astype(dtype))


def _plain_windows(low: Any, high: Any, size: int) -> tuple[int, int] | None:
    """Size and step of windows that start at 0, are all alike and are as many as fit."""
    k = int(high[0] - low[0])
    s = int(low[1] - low[0]) if len(low) > 1 else size
    regular = np.array_equal(low, np.arange(len(low)) * s) and (high - low == k).all()
    return (k, s) if regular and s > 0 and (size - k) // s + 1 == len(low) else None


# **** one operator each ****

SAME_NAME = {
    ReLU: "Relu",
    elementwise.Abs: "Abs",
    elementwise.Log: "Log",
    elementwise.Exp: "Exp",
    elementwise.Mul: "Mul",
    elementwise.Neg: "Neg",
    activation.Sigmoid: "Sigmoid",
    elementwise.Sqrt: "Sqrt",
    reduce.StandardDeviation: "Sqrt",
    elementwise.Sub: "Sub",
    activation.Tanh: "Tanh",
    elementwise.Div: "Div",
    elementwise.Pow: "Pow",
    activation.Erf: "Erf",
    activation.Softplus: "Softplus",
}


@emits(*SAME_NAME)
def same_name(g: Graph, step: Step) -> str:
    return g.add(SAME_NAME[step.function], *step.inputs)


@emits(layout.ChannelsLast, layout.Contiguous, convert.Clone, convert.Move)
def identity(g: Graph, step: Step) -> str:
    """Nothing: memory order is no matter of ONNX."""
    return g.tensor(step.inputs[0])


@emits(convert.Cast)
def cast(g: Graph, step: Step) -> str:
    x, dtype = step.inputs
    return g.add("Cast", x, to=g.element_type(dtype))


@emits(activation.SiLU)
def silu(g: Graph, step: Step) -> str:
    return g.add("Mul", step.inputs[0], g.add("Sigmoid", step.inputs[0]))


@emits(activation.GELU)
def gelu(g: Graph, step: Step) -> str:
    """x (1 + erf(x / sqrt(2))) / 2: the operator Gelu came with a later opset."""
    x = step.inputs[0]
    erf = g.add("Erf", g.add("Mul", x, math.sqrt(0.5)))
    return g.add("Mul", g.add("Mul", x, g.add("Add", erf, 1.0)), 0.5)


@emits(elementwise.Maximum)
def maximum(g: Graph, step: Step) -> str:
    x, y, sign = step.inputs
    return g.add("Max" if sign > 0 else "Min", x, y)


@emits(elementwise.Clip)
def clip(g: Graph, step: Step) -> str:
    return g.add("Clip", *step.inputs)


@emits(elementwise.Where)
def where(g: Graph, step: Step) -> str:
    x, y, condition = step.inputs
    return g.add("Where", condition, x, y)


COMPARISONS = {
    operator.lt: "Less",
    operator.le: "LessOrEqual",
    operator.gt: "Greater",
    operator.ge: "GreaterOrEqual",
    operator.eq: "Equal",
    operator.ne: "Equal",
}


@emits(*COMPARISONS)
def comparison(g: Graph, step: Step) -> str:
    (dtype,) = {value.dtype for value in step.values}  # the result is bool, the numbers are not
    if dtype.kind != "f" and any(isinstance(v, float) for v in step.inputs):
        refuse(step, "compares integers with a fraction", "Compare x.float().")
    sides = [v if isinstance(v, Value) else np.asarray(v, dtype) for v in step.inputs]
    result = g.add(COMPARISONS[step.function], *sides)
    return g.add("Not", result) if step.function is operator.ne else result


# **** sums, products, and what they make together ****


@emits(MatMul)
def matrix_product(g: Graph, step: Step) -> str:
    x, w = step.inputs
    transposed = _transposed(w)
    if transposed is not None and len(x.shape) == 2:
        return g.add("Gemm", x, transposed, transB=1)
    return g.add("MatMul", x, w)


def _transposed(w: Value) -> Any:
    """The matrix of which ``w`` is the transpose."""
    step = made_by(w, shape.Permute)
    return step.inputs[0] if step is not None and step.inputs[1] == (1, 0) else None


@emits(elementwise.Add)
def add(g: Graph, step: Step) -> str:
    for total, bias in (step.inputs, step.inputs[::-1]):
        product = made_by(total, MatMul)
        if product is not None and len(total.shape) == 2 and isinstance(bias, Value):
            x, w = product.inputs
            transposed = _transposed(w)
            if transposed is not None and bias.shape == total.shape[1:]:
                return g.add("Gemm", x, transposed, bias, transB=1)
    return g.add("Add", *step.inputs)


@emits(elementwise.Weigh)
def weigh(g: Graph, step: Step) -> str:
    """A product in which 0 times an infinity is 0, and NaN only where an operand is NaN."""
    product = g.add("Mul", *step.inputs)
    given = [g.add("IsNaN", side) for side in step.inputs if isinstance(side, Value)]
    wrong = g.add("IsNaN", product)
    for side in given:
        wrong = g.add("And", wrong, g.add("Not", side))
    return g.add("Where", wrong, 0.0, product)


@emits(Softmax, LogSoftmax)
def soft_maximum(g: Graph, step: Step) -> str:
    x, axes = step.inputs[:2]
    if len(axes) != 1:
        refuse(step, "is taken over a scalar", "It is 1, its logarithm 0.")
    return g.add(step.function.__name__, x, axis=axes[0])


REDUCTIONS = {reduce.Sum: "ReduceSum", LogSumExp: "ReduceLogSumExp"}


@emits(*REDUCTIONS, reduce.Extreme)
def reduction(g: Graph, step: Step) -> str:
    x, axes, keepdim, *which = step.inputs
    kind = f"Reduce{which[0].title()}" if which else REDUCTIONS[step.function]
    return g.add(kind, x, g.integers(axes), keepdims=int(keepdim))


@emits(reduce.Mean)
def mean(g: Graph, step: Step) -> str:
    x, axes, keepdim = step.inputs
    if axes == (2, 3) and len(x.shape) == 4 and keepdim:
        return g.add("GlobalAveragePool", x)
    return g.add("ReduceMean", x, g.integers(axes), keepdims=int(keepdim))


# **** shapes ****


@emits(shape.Reshape)
def reshape(g: Graph, step: Step) -> str:
    x, new, other = step.inputs[0], step.outputs[0].shape, g.twin.outputs[0].shape
    follow = [axis for axis, (m, n) in enumerate(zip(new, other)) if m != n]
    if len(follow) > 1:
        refuse(step, f"has more than one size that follows the batch: {new} and {other}")
    if follow == [0] and len(new) == 2 and x.shape[0] == new[0]:
        return g.add("Flatten", x, axis=1)
    sizes = [-1 if axis in follow else n for axis, n in enumerate(new)]
    return g.add("Reshape", x, g.integers(sizes), **({"allowzero": 1} if 0 in sizes else {}))


@emits(elementwise.Expand)
def expand(g: Graph, step: Step) -> str:
    x, new, other = step.inputs[0], step.outputs[0].shape, g.twin.outputs[0].shape
    own = (*(1,) * (len(new) - len(x.shape)), *x.shape)
    if any(m != n and size != m for m, n, size in zip(new, other, own)):
        refuse(step, f"repeats entries as often as the batch says: {x.shape} to {new}")
    return g.add("Expand", x, g.integers(1 if m != n else m for m, n in zip(new, other)))


@emits(shape.Permute)
def permute(g: Graph, step: Step) -> str:
    return g.add("Transpose", step.inputs[0], perm=step.inputs[1])


@emits(shape.Concatenate)
def concatenate(g: Graph, step: Step) -> str:
    return g.add("Concat", *step.inputs, axis=step.options["axis"])


@emits(Pad)
def pad(g: Graph, step: Step) -> str:
    x, widths, value = step.inputs
    pads = g.integers(width[side] for side in (0, 1) for width in widths)
    return g.add("Pad", x, pads, *([value] if value else []))


@emits(index.GetItem)
def getitem(g: Graph, step: Step) -> str:
    """Slices, then integers and at most one array of them, then new axes."""
    x = step.inputs[0]
    parts = plain_index(*step.inputs)
    arrays = [part for part in parts if hasattr(part, "dtype") and part.shape]
    integers = [part for part in parts if isinstance(part, int | np.integer)]
    computed = any(isinstance(part, Value) for part in parts)
    if computed or (arrays and (len(arrays) > 1 or integers or arrays[0].dtype.kind not in "iu")):
        refuse(step, "takes entries by a mask or several arrays", "Use slices, or one index array.")
    by_axis = [part for part in parts if part is not None]
    cuts = [
        (axis, part)
        for axis, part in enumerate(by_axis)
        if isinstance(part, slice) and part != slice(None)
    ]
    result = x
    if cuts:
        bounds = [_bounds(part) for _, part in cuts]
        starts, ends, steps = (g.integers(bound[i] for bound in bounds) for i in range(3))
        result = g.add("Slice", result, starts, ends, g.integers(a for a, _ in cuts), steps)
    for axis, part in reversed([*enumerate(by_axis)]):
        if not isinstance(part, slice):
            result = g.add("Gather", result, np.asarray(part, np.int64), axis=axis)
    kept = [part for part in parts if not isinstance(part, int | np.integer)]
    new = [axis for axis, part in enumerate(kept) if part is None]
    if new:
        result = g.add("Unsqueeze", result, g.integers(new))
    return g.tensor(result)


def plain_index(x: Value, index: Any) -> list[Any]:
    """An index with a part for each dimension; slices over all of a dimension are ``:``."""
    parts = list(index) if isinstance(index, tuple) else [index]
    if not any(part is Ellipsis for part in parts):
        parts.append(Ellipsis)
    widths = [0 if p is None or p is Ellipsis else _dimensions(p) for p in parts]
    hole = next(i for i, part in enumerate(parts) if part is Ellipsis)
    missing = len(x.shape) - sum(widths)
    parts[hole : hole + 1] = [slice(None)] * missing
    widths[hole : hole + 1] = [1] * missing
    axis = 0
    for i, width in enumerate(widths):
        part, size = parts[i], x.shape[axis] if width else 0
        if isinstance(part, slice) and part.indices(size) == (0, size, 1):
            parts[i] = slice(None)
        axis += width
    return parts


def _dimensions(part: Any) -> int:
    """How many dimensions a part of an index takes."""
    mask = getattr(part, "dtype", None) == np.bool_
    return len(part.shape) if mask else 1


def _bounds(part: slice) -> tuple[int, int, int]:
    """A slice as ONNX wants it: what Python leaves out lies beyond every size."""
    step = 1 if part.step is None else int(part.step)
    start = (0 if step > 0 else END) if part.start is None else int(part.start)
    end = (END if step > 0 else -END) if part.stop is None else int(part.stop)
    return start, end, step
