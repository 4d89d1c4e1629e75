"""Cases of the operations that are one array expression."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ... import ops
from ...tensor import Tensor
from .case import Case, Groups, Values, apart, each, normal, positive, together

# What has no derivative: results are bools, indices, or constant wherever they are smooth.
NOT_DIFFERENTIABLE = {
    "all": "gives bools",
    "allclose": "gives a bool",
    "any": "gives bools",
    "argmax": "gives indices",
    "argmin": "gives indices",
    "isfinite": "gives bools",
    "isnan": "gives bools",
    "sign": "is constant wherever it is smooth, and never on the tape",
}


def _weighted(parts: Sequence[Tensor]) -> Tensor:
    """One tensor of several, each with a factor of its own, so that none stands for another."""
    return ops.concatenate([(i + 1.5) * part.reshape(-1) for i, part in enumerate(parts)])


def _op(
    name: str,
    label: str,
    function: Callable[..., Tensor],
    linear: Groups = (),
    /,
    **inputs: Values,
) -> Case:
    return Case("operation", name, label, inputs, function, linear=linear, kernels=False)


def _mask(*shape: int) -> Any:
    return np.random.default_rng(7).random(shape) < 0.5


def _choose(x: Tensor, y: Tensor) -> Tensor:
    return ops.where(Tensor(_mask(2, 3, 4)).to(x.device), x, y)


def _pairs() -> list[Case]:
    """Two operands, one stretched along each of two dimensions, and numbers on either side."""
    wide, tall = normal(2, 3, 1), normal(3, 4)
    both = together("x", "y")
    return [
        _op("add", "broadcast", ops.add, both, x=wide, y=tall),
        _op("add", "one entry", ops.add, both, x=normal(1, 1), y=normal(1)),
        _op("add", "number", lambda x: ops.add(2.0, x), x=tall),
        _op("sub", "broadcast", ops.sub, both, x=wide, y=tall),
        _op("sub", "number", lambda x: ops.sub(2.0, x), x=tall),
        _op("mul", "broadcast", ops.mul, each("x", "y"), x=wide, y=tall),
        _op("mul", "one tensor twice", lambda x: ops.mul(x, x), x=tall),
        _op("div", "broadcast", ops.div, each("x"), x=wide, y=positive(3, 4)),
        _op("div", "number", lambda x: ops.div(2.0, x), x=positive(3, 4)),
        _op("pow", "broadcast", ops.pow, x=positive(2, 3, 1), y=tall),
        _op("pow", "cube", lambda x: ops.pow(x, 3), x=tall),
        _op("pow", "number to a tensor", lambda x: ops.pow(2.5, x), x=tall),
        # the entries of apart() are odd multiples of 1/16: none is near a multiple of 1/4
        _op("remainder", "number", lambda x: ops.remainder(x, 0.25), x=apart(3, 4)),
        _op("remainder", "of a number", lambda y: ops.remainder(5.0, y), x=positive(3, 4)),
        _op("add", "alpha", lambda x, y: ops.add(x, y, alpha=-2.5), both, x=wide, y=tall),
        _op("maximum", "broadcast", ops.maximum, x=apart(2, 3, 1), y=normal(3, 4)),
        _op("minimum", "broadcast", ops.minimum, x=apart(2, 3, 1), y=normal(3, 4)),
        _op("where", "broadcast", _choose, both, x=wide, y=tall),
    ]


def _unary() -> list[Case]:
    x = normal(3, 4)
    return [
        _op("abs", "", ops.abs, x=apart(3, 4)),
        # the entries of apart() are odd multiples of 1/16: none is near these bounds
        _op("clamp", "upper bound", lambda x: ops.clamp(x, max=0.125), x=apart(3, 4)),
        _op("clip", "both bounds", lambda x: ops.clip(x, -0.5, 0.25), x=apart(3, 4)),
        _op("clip", "one bound", lambda x: ops.clip(x, min=0.125), x=apart(3, 4)),
        _op("clip", "tensors", ops.clip, x=apart(3, 4), y=positive(3, 4), z=positive(4)),
        _op("exp", "", ops.exp, x=x),
        _op("exp", "reversed", ops.exp, x=normal(3, 4, layout="reversed")),
        _op("log", "", ops.log, x=positive(3, 4)),
        _op("neg", "", ops.neg, each("x"), x=x),
        _op("sigmoid", "", ops.sigmoid, x=x),
        _op("sqrt", "", ops.sqrt, x=positive(3, 4)),
        _op("tanh", "", ops.tanh, x=x),
        _op("tanh", "every second", ops.tanh, x=normal(3, 2, layout="every second")),
    ]


def _reductions() -> list[Case]:
    x, spread = normal(2, 3, 4), apart(2, 3, 4)
    cases = [
        _op("sum", "all", lambda x: ops.sum(x), each("x"), x=x),
        _op("sum", "two dims", lambda x: ops.sum(x, (0, 2)), each("x"), x=x),
        _op("mean", "all", lambda x: ops.mean(x), each("x"), x=x),
        _op("mean", "one dim, kept", lambda x: ops.mean(x, 1, keepdim=True), each("x"), x=x),
        _op("var", "one dim", lambda x: ops.var(x, 2), x=x),
        _op("var", "population", lambda x: ops.var(x, (0, 1), correction=0), x=x),
        _op("std", "one dim", lambda x: ops.std(x, 0, correction=0), x=x),
        _op("logsumexp", "one dim", lambda x: ops.logsumexp(x, 1), x=x),
        _op("logsumexp", "all", lambda x: ops.logsumexp(x), x=x),
        _op("softmax", "last dim", ops.softmax, x=x),
        _op("softmax", "dim 1", lambda x: ops.softmax(x, 1), x=x),
        _op("log_softmax", "last dim", ops.log_softmax, x=x),
        _op("log_softmax", "dim 0", lambda x: ops.log_softmax(x, 0), x=x),
    ]
    for name in ("max", "min"):
        several, one = getattr(ops, f"a{name}"), getattr(ops, name)
        cases += [
            _op(f"a{name}", "two dims", lambda x, f=several: f(x, (0, 2)), x=spread),
            _op(name, "all", lambda x, f=one: f(x), x=spread),
            _op(name, "one dim", lambda x, f=one: f(x, 1).values, x=spread),
        ]
    return cases


def _twice(x: Tensor, y: Tensor) -> Tensor:
    return ops.concatenate([x, y, x])


def _moves() -> list[Case]:
    """Entries moved, repeated, joined or left out: all linear."""
    x = normal(2, 3, 4)
    index = np.array([2, 0, 2])

    def op(name: str, label: str, function: Callable[..., Tensor], /, **inputs: Values) -> Case:
        return _op(name, label, function, together(*inputs), **inputs)

    return [
        op("astype", "to float64", lambda x: ops.astype(x, np.float64), x=x),
        op("broadcast_to", "", lambda x: ops.broadcast_to(x, (2, 3, 4)), x=normal(3, 1)),
        op("cat", "dim 1", lambda x, y: ops.cat([x, y], 1), x=normal(2, 1), y=normal(2, 3)),
        op("channels_last", "", ops.channels_last, x=normal(2, 3, 1, 2)),
        op("chunk", "uneven", lambda x: _weighted(ops.chunk(x, 2, 1)), x=x),
        op("clone", "", ops.clone, x=x),
        op("concatenate", "one tensor twice", _twice, x=normal(1, 3), y=normal(2, 3)),
        op("expand", "", lambda x: ops.expand(x, 2, -1, 4), x=normal(3, 1)),
        op("flatten", "from dim 1", lambda x: ops.flatten(x, 1), x=x),
        op("from_nhwc", "", ops.from_nhwc, x=normal(2, 3, 2, 4)),
        op("getitem", "negative steps", lambda x: x[1, ::-2, ::3], x=x),
        op("getitem", "index array", lambda x: x[:, index], x=x),
        op("getitem", "mask", lambda x: x[_mask(2, 3, 4)], x=x),
        op("pad", "wider and narrower", lambda x: ops.pad(x, (1, 2, -1, 3)), x=x),
        op("pad", "reflect", lambda x: ops.pad(x, (2, 1, -1, 1), mode="reflect"), x=x),
        op("pad", "replicate", lambda x: ops.pad(x, (2, 1, 3, 0), mode="replicate"), x=x),
        op("pad", "circular", lambda x: ops.pad(x, (2, 1, 1, 2), mode="circular"), x=x),
        op("permute", "", lambda x: ops.permute(x, 2, 0, 1), x=x),
        op("reshape", "", lambda x: ops.reshape(x, 4, -1), x=x),
        op("reshape", "of a transposed", lambda x: ops.reshape(x.transpose(0, 2), 6, 4), x=x),
        op("split", "sizes", lambda x: _weighted(ops.split(x, [1, 3], 2)), x=x),
        op("squeeze", "", ops.squeeze, x=normal(2, 1, 3)),
        op("stack", "dim 1", lambda x, y: ops.stack([x, y], 1), x=normal(2, 3), y=normal(2, 3)),
        op("transpose", "", lambda x: ops.transpose(x, 0, 2), x=x),
        op("unsqueeze", "", lambda x: ops.unsqueeze(x, 1), x=x),
    ]


def _resizing() -> list[Case]:
    x, size = normal(1, 2, 3, 4), (4, 3)

    def to(**options: Any) -> Callable[[Tensor], Tensor]:
        return lambda x: ops.interpolate(x, **options)

    linear = {"size": size, "mode": "bilinear"}
    return [
        _op("interpolate", "nearest", to(scale_factor=2), each("x"), x=x),
        _op("interpolate", "nearest, fewer", to(size=(2, 3)), each("x"), x=x),
        _op("interpolate", "bilinear", to(**linear), each("x"), x=x),
        _op("interpolate", "corners", to(**linear, align_corners=True), each("x"), x=x),
        _op("interpolate", "linear", to(size=5, mode="linear"), each("x"), x=normal(2, 1, 3)),
    ]


def _products() -> list[Case]:
    return [
        _op("matmul", "matrices", ops.matmul, each("x", "y"), x=normal(2, 3), y=normal(3, 4)),
        _op(
            "matmul",
            "broadcast",
            ops.matmul,
            each("x", "y"),
            x=normal(2, 1, 2, 3),
            y=normal(2, 3, 2),
        ),
        _op("matmul", "vectors", ops.matmul, each("x", "y"), x=normal(3), y=normal(3)),
        _op("linear", "with bias", ops.linear, x=normal(3, 2), w=normal(4, 2), b=normal(4)),
        _op("linear", "more dims", ops.linear, each("x", "w"), x=normal(2, 3, 2), w=normal(4, 2)),
        _op("linear", "one entry", ops.linear, each("x", "w"), x=normal(1, 1), w=normal(1, 1)),
        _op("dropout", "fixed mask", _dropout, each("x"), x=normal(3, 4)),
        _op("dropout2d", "fixed mask", _dropout2d, each("x"), x=normal(2, 3, 2, 1)),
    ]


def _dropout(x: Tensor) -> Tensor:
    return ops.dropout(x, 0.4, generator=np.random.default_rng(3))


def _dropout2d(x: Tensor) -> Tensor:
    return ops.dropout2d(x, 0.4, generator=np.random.default_rng(3))


def _activations() -> list[Case]:
    x = normal(3, 4)
    return [
        _op("erf", "", ops.erf, x=x),
        _op("gelu", "exact", ops.gelu, x=x),
        _op("gelu", "tanh", lambda x: ops.gelu(x, "tanh"), x=x),
        _op("leaky_relu", "", lambda x: ops.leaky_relu(x, 0.1), x=apart(3, 4)),
        _op("silu", "", ops.silu, x=x),
        _op("softplus", "", ops.softplus, x=x),
        _op("softplus", "sharper", lambda x: ops.softplus(x, 2.5), x=x),
        _op("square", "", ops.square, x=x),
    ]


def _choices() -> list[Case]:
    x, spread = positive(2, 3, 4), apart(2, 3, 4)
    return [
        _op("norm", "Euclidean, all", lambda x: ops.norm(x), x=x),
        _op("norm", "one, one dim", lambda x: ops.norm(x, 1, 0, True), x=spread),
        _op("norm", "three, two dims", lambda x: ops.norm(x, 3, (0, 2)), x=spread),
        _op("norm", "one half", lambda x: ops.norm(x, 0.5, 1), x=spread),
        _op("norm", "minus two", lambda x: ops.norm(x, -2, 1), x=spread),
        _op("norm", "largest", lambda x: ops.norm(x, math.inf, 1), x=x),
        _op("norm", "smallest", lambda x: ops.norm(x, -math.inf, 1), x=x),
        _op("topk", "last dim", lambda x: ops.topk(x, 2).values, x=spread),
        _op("topk", "smallest, dim 0", lambda x: ops.topk(x, 1, 0, False).values, x=spread),
    ]


def _norms() -> list[Case]:
    """Normalisation of each sample, in the layouts of images and of rows."""
    images = normal(2, 4, 2, 3, layout="channels last")
    w, b = normal(4), normal(4)

    def groups(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return ops.group_norm(x, 2, w, b)

    def rows(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return ops.layer_norm(x, 4, w, b)

    return [
        _op("group_norm", "weights", groups, x=images, w=w, b=b),
        _op("group_norm", "(n, c)", lambda x: ops.group_norm(x, 1, eps=1e-3), x=normal(2, 4)),
        _op("layer_norm", "weights", rows, x=normal(2, 3, 4), w=w, b=b),
        _op("layer_norm", "two dims", lambda x: ops.layer_norm(x, (3, 2)), x=normal(2, 3, 2)),
    ]


def _nll(x: Tensor) -> Tensor:
    labels = Tensor(np.array([3, -100, 0])).to(x.device)
    return ops.nll_loss(x, labels)


def _losses() -> list[Case]:
    x, target = normal(3, 4), positive(3, 4)
    name, yes_no = "binary_cross_entropy_with_logits", ops.binary_cross_entropy_with_logits

    def squares(x: Tensor, target: Tensor) -> Tensor:
        return ops.mse_loss(x, target, reduction="none")

    def weighted(x: Tensor, target: Tensor, weight: Tensor, pos_weight: Tensor) -> Tensor:
        return yes_no(x, target, weight=weight, pos_weight=pos_weight, reduction="none")

    weights = {"weight": positive(3, 1), "pos_weight": positive(4)}
    return [
        _op("mse_loss", "mean", ops.mse_loss, x=x, target=target),
        _op("mse_loss", "each entry", squares, x=x, target=target),
        _op("nll_loss", "one label ignored", _nll, x=x),
        _op(name, "mean", yes_no, x=x, target=target),
        _op(name, "weights", weighted, each("weight"), x=x, target=target, **weights),
    ]


CASES = [
    *_pairs(),
    *_unary(),
    *_activations(),
    *_reductions(),
    *_choices(),
    *_norms(),
    *_losses(),
    *_moves(),
    *_resizing(),
    *_products(),
]
