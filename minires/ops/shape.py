"""Operations that move entries without changing them: views, joins, cuts."""

from __future__ import annotations

import builtins
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..arguments import as_integer, listed
from ..autograd import Context, Function, Variable
from ..creation import DIMS, MOST, sizes_of
from ..device import array_module
from ..errors import ArgumentError, DTypeError, ShapeError, message, quoted
from ..tensor import Tensor, tensor_method
from .checks import check_same, given
from .elementwise import Expand
from .index import GetItem
from .reduce import dimension, dims


class Reshape(Function):
    view = True
    complex_safe = True

    @staticmethod
    def forward(ctx: Context, x: Any, shape: tuple[int, ...]) -> Any:
        ctx.shape = x.shape
        return x.reshape(shape)

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        return Reshape.apply(gy, ctx.shape), None


class Permute(Function):
    view = True
    complex_safe = True

    @staticmethod
    def forward(ctx: Context, x: Any, order: tuple[int, ...]) -> Any:
        ctx.order = order
        return x.transpose(order)

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        return Permute.apply(gy, tuple(int(i) for i in np.argsort(ctx.order))), None


class Concatenate(Function):
    complex_safe = True

    @staticmethod
    def forward(ctx: Context, *arrays: Any, axis: int) -> Any:
        ctx.axis, ctx.sizes = axis, [a.shape[axis] for a in arrays]
        return array_module(arrays[0]).concatenate(arrays, axis)

    @staticmethod
    def backward(ctx: Context, gy: Tensor) -> Any:
        parts, start = [], 0
        for size, need in zip(ctx.sizes, ctx.needs_grad):
            part = (slice(None),) * ctx.axis + (slice(start, start + size),)
            parts.append(GetItem.apply(gy, part) if need else None)
            start += size
        return tuple(parts)


# **** views ****


@tensor_method("reshape", "view")
def reshape(x: Tensor, *shape: Any) -> Tensor:
    """The same entries in row-major order in another shape; one size may be -1.

    A view where the memory allows it, else a copy.

    Raises:
        ShapeError: another number of entries.
    """
    total = given("reshape", x).numel()
    sizes = sizes_of("reshape", shape, -MOST)
    known = math.prod([n for n in sizes if n != -1])
    unknown = sizes.count(-1)
    if unknown > 1 or builtins.any(n < -1 for n in sizes):
        raise ShapeError(message("reshape", "sizes >= 0 and at most one -1", sizes))
    if (unknown and (known == 0 or total % known)) or (not unknown and known != total):
        raise ShapeError(message("reshape", f"a shape of {total} entries", sizes, f"x {x.shape}"))
    return Reshape.apply(x, sizes)


@tensor_method("permute")
def permute(x: Tensor, *order: Any) -> Tensor:
    """Reorder the dimensions: ``x.permute(0, 2, 3, 1)`` takes NCHW to NHWC. A view."""
    given("permute", x)
    entries = sizes_of("permute", order, -DIMS)
    if sorted(n % x.ndim if -x.ndim <= n < x.ndim else n for n in entries) != [*range(x.ndim)]:
        raise ShapeError(
            message("permute", f"each of the {x.ndim} dims once", entries, f"shape {x.shape}")
        )
    return Permute.apply(x, tuple(n % x.ndim for n in entries))


@tensor_method("transpose")
def transpose(x: Tensor, dim0: int, dim1: int) -> Tensor:
    """Exchange two dimensions. A view."""
    given("transpose", x)
    order = [*range(x.ndim)]
    if not order:  # a scalar, which dims lets have dimension 0
        dims("transpose", x, dim0), dims("transpose", x, dim1)
        return Permute.apply(x, ())
    a, b = dimension("transpose", x, dim0), dimension("transpose", x, dim1)
    order[a], order[b] = order[b], order[a]
    return Permute.apply(x, tuple(order))


def _transposed(x: Tensor) -> Tensor:
    """A matrix with rows and columns exchanged. A view."""
    if x.ndim != 2:
        raise ShapeError(message("T", "a matrix", f"shape {x.shape}", fix="Use .permute()."))
    return transpose(x, 0, 1)


Tensor.T = property(_transposed)  # type: ignore[attr-defined]


@tensor_method("flatten")
def flatten(x: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Join the dimensions from ``start_dim`` to ``end_dim`` into one, in row-major order."""
    if given("flatten", x).ndim == 0:
        dims("flatten", x, start_dim), dims("flatten", x, end_dim)
        return reshape(x, 1)
    first, last = dimension("flatten", x, start_dim), dimension("flatten", x, end_dim)
    if first > last:
        raise ShapeError(message("flatten", "start_dim <= end_dim", f"{start_dim} and {end_dim}"))
    joined = math.prod(x.shape[first : last + 1])
    return reshape(x, *x.shape[:first], joined, *x.shape[last + 1 :])


@tensor_method("squeeze")
def squeeze(x: Tensor, dim: int | tuple[int, ...] | None = None) -> Tensor:
    """Drop dimensions of size 1: all of them, or the dimensions in ``dim`` that have size 1."""
    axes = dims("squeeze", given("squeeze", x), dim)
    return reshape(x, *(n for i, n in enumerate(x.shape) if i not in axes or n != 1))


@tensor_method("unsqueeze")
def unsqueeze(x: Tensor, dim: int) -> Tensor:
    """Insert a dimension of size 1 at ``dim``.

    Raises:
        ShapeError: a place that there is not.
        ArgumentError: not an integer.
    """
    many, place = len(given("unsqueeze", x).shape), as_integer(dim)
    if place is None:
        raise ArgumentError(message("unsqueeze", "dim an integer", quoted(dim)))
    if not -many - 1 <= place <= many:
        expected = f"dim in {-many - 1}..{many}"
        raise ShapeError(message("unsqueeze", expected, place, f"shape {x.shape}"))
    place %= many + 1
    return reshape(x, *x.shape[:place], 1, *x.shape[place:])


@tensor_method("expand")
def expand(x: Tensor, *shape: Any) -> Tensor:
    """Repeat dimensions of size 1 without copying; -1 keeps a size. A view."""
    given("expand", x)
    sizes = list(sizes_of("expand", shape, -1))
    lead = len(sizes) - x.ndim
    for i, n in enumerate(sizes):
        own = x.shape[i - lead] if i >= lead else None
        if n == -1 and own is not None:
            sizes[i] = own
        elif lead < 0 or n < 0 or (own is not None and own not in (1, n)):
            raise ShapeError(
                message("expand", "sizes that x can be broadcast to", sizes, f"x {x.shape}")
            )
    if lead < 0:
        raise ShapeError(message("expand", f"at least {x.ndim} sizes", sizes, f"x {x.shape}"))
    if math.prod(sizes) > MOST:
        raise ShapeError(message("expand", f"at most {MOST} entries", tuple(sizes)))
    return Expand.apply(x, tuple(sizes))


def broadcast_to(x: Tensor, shape: Sequence[int]) -> Tensor:
    """:func:`expand`, with the shape as one argument."""
    return expand(x, tuple(shape) if isinstance(shape, list) else shape)


# **** joins ****


def _several(name: str, tensors: Any) -> list[Tensor]:
    if isinstance(tensors, Variable) and tensors.ndim < 2:  # more are taken as their slices
        got = f"one tensor of shape {tensors.shape}"
        raise DTypeError(message(name, "a list of tensors", got, fix="Pass [x, y]."))
    result = listed(name, "a list of tensors", tensors, "Pass [x, y].")
    if not result:
        raise ArgumentError(f"{name}: expected at least one tensor, got none")
    for index, tensor in enumerate(result):
        if not isinstance(tensor, Variable):
            raise DTypeError(
                message(name, "tensors", f"{type(tensor).__name__} at position {index}")
            )
    check_same(name, *result)
    return result


def concatenate(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Join tensors along an existing dimension; all other sizes must agree.

    Tensors of shape (0,), with which loops begin that join one result after the other, fit all.
    """
    parts = _several("concatenate", tensors)
    parts = [part for part in parts if part.shape != (0,)] or parts[:1]
    axis = dimension("concatenate", parts[0], dim)
    for part in parts[1:]:
        others = [s[:axis] + s[axis + 1 :] for s in (part.shape, parts[0].shape)]
        if part.ndim != parts[0].ndim or others[0] != others[1]:
            raise ShapeError(
                message(
                    "concatenate",
                    f"shapes that agree outside dim {axis}",
                    f"{parts[0].shape} and {part.shape}",
                )
            )
    return Concatenate.apply(*parts, axis=axis)


cat = concatenate


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Join tensors of one shape along a new dimension."""
    parts = _several("stack", tensors)
    for part in parts[1:]:
        if part.shape != parts[0].shape:
            raise ShapeError(
                message("stack", "tensors of one shape", f"{parts[0].shape} and {part.shape}")
            )
    return concatenate([unsqueeze(part, dim) for part in parts], dim)


@tensor_method("split")
def split(x: Tensor, split_size: int | Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """Cut along ``dim`` into pieces of ``split_size`` (the last may be smaller), or of the
    sizes given as a sequence. Views.

    Raises:
        ArgumentError: ``split_size`` is no integer >= 1.
        ShapeError: sizes that do not add up, or are no integers.
    """
    axis = dimension("split", x, dim)
    total = x.shape[axis]
    whole = as_integer(split_size)
    if whole is not None or not isinstance(split_size, Iterable):
        if whole is None:
            fix = "Divide with //." if isinstance(split_size, float) else ""
            expected = "split_size an integer, or a list of them"
            raise ArgumentError(message("split", expected, quoted(split_size), fix=fix))
        if whole < 1:
            raise ArgumentError(message("split", "split_size >= 1", whole))
        sizes = [builtins.min(whole, total - start) for start in range(0, total, whole)]
        sizes = sizes or [0]
    else:
        sizes = list(sizes_of("split", [numbers_in("split", "a list of sizes", split_size)]))
        if builtins.sum(sizes) != total:
            raise ShapeError(message("split", f"sizes >= 0 that add up to {total}", quoted(sizes)))
    ends = np.cumsum(sizes)
    return tuple(
        GetItem.apply(x, (slice(None),) * axis + (slice(int(end) - n, int(end)),))
        for n, end in zip(sizes, ends)
    )


def numbers_in(name: str, expected: str, values: Any) -> list[Any]:
    """The numbers in a list, or in an array or a tensor of them, which gives all at once."""
    return listed(name, expected, values.tolist() if hasattr(values, "tolist") else values)


@tensor_method("chunk")
def chunk(x: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """Cut along ``dim`` into at most ``chunks`` pieces of equal size (the last may be smaller).

    Raises:
        ArgumentError: ``chunks`` is no integer >= 1.
    """
    many = as_integer(chunks)
    if many is None or many < 1:
        raise ArgumentError(message("chunk", "whole chunks >= 1", quoted(chunks)))
    axis = dimension("chunk", x, dim)
    return split(x, builtins.max(1, -(-x.shape[axis] // many)), axis)
