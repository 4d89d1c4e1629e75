"""Random shapes and options for each operation (Hypothesis): what a list of cases forgets.

Each strategy draws a :class:`~minires.selfcheck.Case`: strides beyond the kernel, padding
beyond it too, dilation, groups, h unlike w, sizes of one, and arguments whose memory is reversed,
strided, transposed or repeated. All start from the smallest, so that a case that fails shrinks to
the least that still does. Its label has all shapes, layouts and options, to make it again.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, assume, find, reject, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample
from hypothesis.extra.numpy import basic_indices, mutually_broadcastable_shapes

from ... import ops
from ...errors import MiniresError
from ...ops.conv2d.op import Conv2dGeometry
from ...tensor import Tensor
from .case import Case, Groups, Shape, Values, apart, each, normal, positive, together

Draw = Callable[[st.SearchStrategy[Any]], Any]
Maker = Callable[..., Values]


def smallest(
    strategy: st.SearchStrategy[Case], fails: Callable[[Case], bool], examples: int, seed: int
) -> Case | None:
    """Draw ``examples`` cases; the smallest one that fails, or None if all hold."""
    limits = settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    try:
        return find(strategy, fails, settings=limits, random=random.Random(seed))
    except NoSuchExample:
        return None


def _case(
    name: str,
    function: Callable[..., Tensor],
    inputs: dict[str, Values],
    options: dict[str, Any],
    linear: Groups = (),
    kernels: bool = True,
) -> Case:
    """A case whose label says how to make it again."""
    shapes = [
        f"{key} {v.shape}" + (f" {v.layout}" if v.layout != "contiguous" else "")
        for key, v in inputs.items()
    ]
    label = ", ".join([*shapes, *(f"{key}={value!r}" for key, value in options.items())])
    return Case("operation", name, label, inputs, function, linear=linear, kernels=kernels)


def _layout(draw: Draw, shape: Shape, make: Maker) -> Values:
    """An argument in a memory layout drawn for it."""
    layouts = ["contiguous", "reversed"]
    if shape and shape[-1] > 0:
        layouts.append("every second")
    if len(shape) >= 2:
        layouts.append("transposed")
    if len(shape) == 4:
        layouts.append("channels last")
    if shape and make is not apart:  # repeated entries are ties, where a maximum has no derivative
        layouts.append("broadcast")
    return make(*shape, layout=draw(st.sampled_from(layouts)))


def _pair(least: int, most: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(least, most), st.integers(least, most))


def _shape(draw: Draw, least: int = 0, most: int = 4) -> Shape:
    return tuple(draw(st.lists(st.integers(1, 3), min_size=least, max_size=most)))


@st.composite
def conv2d(draw: Draw) -> Case:
    groups = draw(st.integers(1, 3))
    c_in, c_out = draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    kernel = draw(_pair(1, 3))
    options: dict[str, Any] = {
        "stride": draw(_pair(1, 4)),
        "padding": draw(_pair(0, 3)),
        "dilation": draw(_pair(1, 3)),
        "groups": groups,
    }
    least = [
        max(1, d * (k - 1) + 1 - 2 * p)
        for k, d, p in zip(kernel, options["dilation"], options["padding"])
    ]
    size = tuple(n + draw(st.integers(0, 4)) for n in least)
    x, w = (draw(st.integers(1, 2)), groups * c_in, *size), (c_out, c_in, *kernel)
    Conv2dGeometry.from_shapes(x, w, **options)  # the bounds above are right, or this says why not
    inputs = {"x": _layout(draw, x, normal), "w": _layout(draw, w, normal)}
    bias = draw(st.booleans())
    if bias:
        inputs["b"] = normal(c_out)
    plain = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}
    shown = {key: value for key, value in options.items() if value != plain[key]}
    return _case(
        "conv2d",
        lambda *xs: ops.conv2d(*xs, **options),
        inputs,
        shown,
        () if bias else each("x", "w"),
    )


@st.composite
def batch_norm(draw: Draw) -> Case:
    training = draw(st.booleans())
    n, c, h, w = draw(st.tuples(*[st.integers(1, 3)] * 4))
    shape = (n, c, h, w) if draw(st.booleans()) else (n, c)
    assume(not training or n * int(np.prod(shape[2:])) > 1)
    inputs = {"x": _layout(draw, shape, normal), "w": normal(c), "b": normal(c)}

    def function(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        mean, var = (
            Tensor(values.astype(x.dtype)).to(x.device)
            for values in (np.linspace(-0.5, 0.5, c), np.linspace(0.5, 2, c))
        )
        if training:
            return ops.batch_norm(x, None, None, w, b, training=True)
        return ops.batch_norm(x, mean, var, w, b)

    return _case("batch_norm", function, inputs, {"training": training})


@st.composite
def relu(draw: Draw) -> Case:
    return _case("relu", ops.relu, {"x": _layout(draw, _shape(draw), apart)}, {})


def _image(draw: Draw, least: int = 1) -> Shape:
    h, w = draw(_pair(least, 6))
    return (draw(st.integers(1, 2)), draw(st.integers(1, 3)), h, w)


def _possible(function: Callable[..., Tensor], shape: Shape) -> None:
    """Draw again where the operation refuses the sizes, as its documentation says it does."""
    try:
        function(Tensor(np.zeros(shape, np.float32)))
    except MiniresError:
        reject()


@st.composite
def max_pool2d(draw: Draw) -> Case:
    kernel, options = (
        draw(_pair(1, 3)),
        {
            "stride": draw(_pair(1, 4)),
            "padding": draw(_pair(0, 2)),
            "dilation": draw(_pair(1, 2)),
            "ceil_mode": draw(st.booleans()),
        },
    )

    def function(x: Tensor) -> Tensor:
        return ops.max_pool2d(x, kernel, **options)

    shape = _image(draw)
    _possible(function, shape)
    inputs = {"x": _layout(draw, shape, apart)}
    return _case("max_pool2d", function, inputs, {"kernel_size": kernel, **options})


@st.composite
def avg_pool2d(draw: Draw) -> Case:
    kernel, options = (
        draw(_pair(1, 3)),
        {
            "stride": draw(_pair(1, 4)),
            "padding": draw(_pair(0, 1)),
            "ceil_mode": draw(st.booleans()),
            "count_include_pad": draw(st.booleans()),
        },
    )

    def function(x: Tensor) -> Tensor:
        return ops.avg_pool2d(x, kernel, **options)

    shape = _image(draw)
    _possible(function, shape)
    inputs = {"x": _layout(draw, shape, normal)}
    return _case("avg_pool2d", function, inputs, {"kernel_size": kernel, **options}, each("x"))


@st.composite
def adaptive_avg_pool2d(draw: Draw) -> Case:
    size = draw(_pair(1, 4))
    inputs = {"x": _layout(draw, _image(draw), normal)}

    def function(x: Tensor) -> Tensor:
        return ops.adaptive_avg_pool2d(x, size)

    return _case("adaptive_avg_pool2d", function, inputs, {"output_size": size}, each("x"))


@st.composite
def cross_entropy(draw: Draw) -> Case:
    n, c = draw(_pair(1, 4))
    classes = st.sampled_from([*range(c), -100])
    labels = draw(st.lists(classes, min_size=n, max_size=n))
    options = {
        "label_smoothing": draw(st.sampled_from([0.0, 0.1, 1.0])),
        "reduction": draw(st.sampled_from(["mean", "sum", "none"])),
    }
    assume(options["reduction"] != "mean" or set(labels) != {-100})

    def function(x: Tensor) -> Tensor:
        target = Tensor(np.array(labels)).to(x.device)
        return ops.cross_entropy(x, target, **options)

    inputs = {"x": _layout(draw, (n, c), normal)}
    return _case("cross_entropy", function, inputs, {"target": labels, **options})


def _binary(name: str, right: Maker, linear: Groups) -> st.SearchStrategy[Case]:
    @st.composite
    def strategy(draw: Draw) -> Case:
        pair = mutually_broadcastable_shapes(num_shapes=2, max_dims=3, max_side=3)
        a, b = draw(pair).input_shapes
        inputs = {"x": _layout(draw, a, normal), "y": _layout(draw, b, right)}
        return _case(name, getattr(ops, name), inputs, {}, linear, kernels=False)

    return strategy()


def _reduction(name: str, make: Maker, linear: Groups = ()) -> st.SearchStrategy[Case]:
    @st.composite
    def strategy(draw: Draw) -> Case:
        shape = _shape(draw, 1, 3)
        dims = st.lists(st.integers(0, len(shape) - 1), min_size=1, unique=True)
        options = {"dim": tuple(draw(dims)), "keepdim": draw(st.booleans())}
        inputs = {"x": _layout(draw, shape, make)}

        def function(x: Tensor) -> Tensor:
            return getattr(ops, name)(x, **options)

        return _case(name, function, inputs, options, linear, kernels=False)

    return strategy()


@st.composite
def matmul(draw: Draw) -> Case:
    n, k, m = draw(st.tuples(*[st.integers(1, 3)] * 3))
    lead = draw(mutually_broadcastable_shapes(num_shapes=2, max_dims=2, max_side=3)).input_shapes
    inputs = {
        "x": _layout(draw, (*lead[0], n, k), normal),
        "y": _layout(draw, (*lead[1], k, m), normal),
    }
    return _case("matmul", ops.matmul, inputs, {}, each("x", "y"), kernels=False)


@st.composite
def linear(draw: Draw) -> Case:
    size, out = draw(_pair(1, 4))
    inputs = {
        "x": _layout(draw, (*_shape(draw, 0, 2), size), normal),
        "w": _layout(draw, (out, size), normal),
    }
    return _case("linear", ops.linear, inputs, {}, each("x", "w"), kernels=False)


@st.composite
def pad(draw: Draw) -> Case:
    shape = _shape(draw, 1, 4)
    widths = tuple(draw(st.integers(-1, 2)) for _ in range(2 * draw(st.integers(1, len(shape)))))

    def function(x: Tensor) -> Tensor:
        return ops.pad(x, widths)

    _possible(function, shape)
    inputs = {"x": _layout(draw, shape, normal)}
    return _case("pad", function, inputs, {"padding": widths}, together("x"), kernels=False)


@st.composite
def getitem(draw: Draw) -> Case:
    shape = _shape(draw, 1, 4)
    index = draw(basic_indices(shape, allow_newaxis=True))
    inputs = {"x": _layout(draw, shape, normal)}

    def function(x: Tensor) -> Tensor:
        return x[index]

    return _case("getitem", function, inputs, {"index": index}, together("x"), kernels=False)


STRATEGIES: dict[str, st.SearchStrategy[Case]] = {
    "conv2d": conv2d(),
    "batch_norm": batch_norm(),
    "relu": relu(),
    "max_pool2d": max_pool2d(),
    "avg_pool2d": avg_pool2d(),
    "adaptive_avg_pool2d": adaptive_avg_pool2d(),
    "cross_entropy": cross_entropy(),
    "add": _binary("add", normal, together("x", "y")),
    "sub": _binary("sub", normal, together("x", "y")),
    "mul": _binary("mul", normal, each("x", "y")),
    "div": _binary("div", positive, each("x")),
    "sum": _reduction("sum", normal, each("x")),
    "mean": _reduction("mean", normal, each("x")),
    "logsumexp": _reduction("logsumexp", normal),
    "amax": _reduction("amax", apart),
    "amin": _reduction("amin", apart),
    "matmul": matmul(),
    "linear": linear(),
    "pad": pad(),
    "getitem": getitem(),
}
