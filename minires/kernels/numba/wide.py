"""Wide vectors: the numbers of one vector in float64, to add them up without losing digits.

A float32 has 24 binary digits, a float64 has 53: the sum of 2^29 floats in float64 is as good as
exact. ``wide(v)`` is a vector of as many float64 as ``v`` has entries (in two registers, where
``v`` is of float32; ``v`` itself, where it is of float64). Sums of wide vectors stay in registers
or are stored into arrays of float64::

    v         16 x float32     1 register       wide(v)     16 x float64     2 registers
    narrow(wide(v), x)         back to the dtype of x, rounded
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from .cpu import lanes
from .vector import Vector, operation, pointer_to, spread_value


def _wide(context, v):
    """The numbers of v in float64."""
    kind = Vector(types.float64, v.count)

    def generate(context, builder, signature, args):
        # LLVM divides a vector of 16 float64 into registers by itself
        return args[0] if v == kind else builder.fpext(args[0], context.get_value_type(kind))

    return kind(v), generate


def _wide_zeros(context, x):
    """As many zeros in float64 as a vector of the array x has numbers."""
    kind = Vector(types.float64, lanes(str(x.dtype)))

    def generate(context, builder, signature, args):
        return ir.Constant(context.get_value_type(kind), [0.0] * kind.count)

    return kind(x), generate


def _load_wide(context, x, i, v):
    """The vector at x[i], x[i + 1], ... of an array of float64, of as many numbers as v has."""

    def generate(context, builder, signature, args):
        place = pointer_to(builder, args[0], args[1], args[2].type)
        return builder.load(place, align=8)

    return v(x, types.int64, v), generate


def _spread_wide(context, x, i, v):
    """The vector of as many numbers as v has, each of which is x[i]; x is an array of float64."""

    def generate(context, builder, signature, args):
        value = builder.load(builder.gep(args[0], [args[1]]))
        return spread_value(builder, value, args[2].type)

    return v(x, types.int64, v), generate


def _narrow(context, v, x):
    """The numbers of a wide vector, rounded to the dtype of the array x."""
    kind = Vector(x.dtype)

    def generate(context, builder, signature, args):
        return args[0] if v == kind else builder.fptrunc(args[0], context.get_value_type(kind))

    return kind(v, x), generate


def _sum_of(context, v):
    """The sum of the numbers of a wide vector: the upper half is added to the lower, and so on."""

    def generate(context, builder, signature, args):
        # 8 lanes: (0 1 2 3) + (4 5 6 7), then (0 1) + (2 3), then 0 + 1. The order of a sum decides
        # its bits, so it is the same for every vector, whatever the processor.
        (total,), count = args, v.count
        while count > 1:
            count //= 2
            low, high = (
                ir.Constant(ir.VectorType(ir.IntType(32), count), [*range(begin, begin + count)])
                for begin in (0, count)
            )
            total = builder.fadd(
                builder.shuffle_vector(total, total, low),
                builder.shuffle_vector(total, total, high),
            )
        return builder.extract_element(total, ir.Constant(ir.IntType(32), 0))

    return types.float64(v), generate


def _plain_wide_zeros(x: Any) -> Any:
    return np.zeros(lanes(x.dtype))


wide = operation(lambda v: v.astype(np.float64), _wide)
wide_zeros = operation(_plain_wide_zeros, _wide_zeros)
load_wide = operation(lambda x, i, v: x[i : i + v.size].copy(), _load_wide)
spread_wide = operation(lambda x, i, v: np.full(v.size, x[i]), _spread_wide)
narrow = operation(lambda v, x: v.astype(x.dtype), _narrow)
sum_of = operation(lambda v: v.sum(), _sum_of)
