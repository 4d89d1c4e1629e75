"""Vectors: what kernels do with the numbers of one register, as a value.

Numba vectorises a plain loop when it can prove that it may. Where a kernel's speed hangs on it,
the kernel says so instead: ``v = load(x, i)`` reads as many numbers as a register holds, from
position ``i`` of ``x`` on; ``v * w + u`` and :func:`fma` act on all of them at once, and
``store(y, i, v)`` writes them back. A vector lives in a register; there is nothing else to it.

::

    x      ... | x[i]  x[i+1]  x[i+2]  ...  x[i+15] | x[i+16] ...     an array in memory
               |                                    |
    load       +------------- v --------------------+                 one register, 16 lanes

    spread     x[i]   x[i]    x[i]     ...  x[i]                      one number in all lanes

Each operation is an *intrinsic*, a Python function that writes the LLVM instruction
(:mod:`.vector` tells how), and at the end of this file stands its meaning in NumPy, which is what
runs under ``NUMBA_DISABLE_JIT=1``. Operations on values alone take plain numbers, too, so that a
formula can be written once and serve the vectors of a row and the few entries behind the last
whole one.
"""

from __future__ import annotations

import ctypes
import operator
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from .cpu import lanes
from .vector import (
    INDEX,
    Vector,
    constant,
    llvm_function,
    multiply_add,
    operation,
    pointer_to,
    spread_value,
)

# ----------------------------------------------------------------------------- memory and registers


def _load(context, x, i):
    """The vector at x[i], x[i + 1], ..."""
    kind = Vector(x.dtype)

    def generate(context, builder, signature, args):
        vector = context.get_value_type(kind)
        # Aligned like a single number: x[i] may lie anywhere. Where it lies at the beginning of a
        # cache line, the load is as quick as an aligned one.
        return builder.load(
            pointer_to(builder, args[0], args[1], vector), align=x.dtype.bitwidth // 8
        )

    return kind(x, types.int64), generate


def _store(context, x, i, v):
    """x[i], x[i + 1], ... = v"""

    def generate(context, builder, signature, args):
        place = pointer_to(builder, args[0], args[1], args[2].type)
        builder.store(args[2], place, align=x.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(x, types.int64, v), generate


def _spread(context, x, i):
    """The vector of which every entry is x[i]."""
    kind = Vector(x.dtype)

    def generate(context, builder, signature, args):
        value = builder.load(builder.gep(args[0], [args[1]]))
        return spread_value(builder, value, context.get_value_type(kind))

    return kind(x, types.int64), generate


def _zeros(context, x):
    """A vector of zeros, of the dtype of the array x."""
    kind = Vector(x.dtype)

    def generate(context, builder, signature, args):
        return ir.Constant(context.get_value_type(kind), [0.0] * kind.count)

    return kind(x), generate


# -------------------------------------------------------------------------------- arithmetic


def _fma(context, a, b, c):
    """a * b + c, rounded once."""

    def generate(context, builder, signature, args):
        return builder.call(multiply_add(builder, args[0].type), args)

    return a(a, a, a), generate


def _difference(context, a, b):
    """a - b just as it stands: ``(a - c) + (b - c)`` may otherwise become ``(a + b) - (c + c)``,
    which is not the same where c is large."""

    def generate(context, builder, signature, args):
        return builder.fsub(*args, flags=("nsz",))  # and no other of the kernel's freedoms

    return a(a, a), generate


def _times(context, number, v):
    """A number written in the kernel, times a vector."""
    number = _literal(number)

    def generate(context, builder, signature, args):
        kind = args[1].type
        return builder.fmul(ir.Constant(kind, [float(number)] * kind.count), args[1])

    return v(types.literal(number), v), generate


def _times_plus(context, number, v, w):
    """A number written in the kernel, times a vector, plus a vector; rounded once."""
    number = _literal(number)

    def generate(context, builder, signature, args):
        kind = args[1].type
        factor = ir.Constant(kind, [float(number)] * kind.count)
        return builder.call(multiply_add(builder, kind), [factor, args[1], args[2]])

    return v(types.literal(number), v, v), generate


def _literal(number: Any) -> int:
    """The number itself: only that of a literal is known while the kernel is compiled."""
    if not isinstance(number, types.IntegerLiteral):
        raise numba.errors.RequireLiteralValue("the number must be an integer in the source")
    return int(number.literal_value)


# ------------------------------------------------------------------------------------- choices


def _relu(context, v):
    """max(v, 0), written so that NaN stays NaN."""

    def generate(context, builder, signature, args):
        zero = constant(args[0].type, 0.0)
        # an "ordered" comparison with NaN is false, in each lane by itself, and v is chosen
        return builder.select(builder.fcmp_ordered("<=", args[0], zero), zero, args[0])

    return v(v), generate


def _where_open(context, v, chooser):
    """0 where chooser <= 0, else v: what a ReLU lets through; the chooser is its output."""

    def generate(context, builder, signature, args):
        zero = constant(args[0].type, 0.0)
        return builder.select(builder.fcmp_ordered("<=", args[1], zero), zero, args[0])

    return v(v, v), generate


def _lanes_of(context, x):
    """How many numbers a vector of the array's dtype has: a constant."""

    def generate(context, builder, signature, args):
        return ir.Constant(INDEX, lanes(str(x.dtype)))

    return types.int64(x), generate


def _where_above(context, v, limit, a, b):
    """a where v > limit or v is NaN, else b."""

    def generate(context, builder, signature, args):
        v, limit, a, b = args
        above = builder.fcmp_ordered(">", v, limit)  # "uno": one of both is NaN
        return builder.select(builder.or_(above, builder.fcmp_unordered("uno", v, v)), a, b)

    return a(v, v, a, a), generate


# ------------------------------------------------------------------------------------ functions


def _sqrt(context, v):
    """The square root."""

    def generate(context, builder, signature, args):
        return builder.call(llvm_function(builder, "sqrt", args[0].type, 1), args)

    return v(v), generate


def _nearest(context, v):
    """The nearest whole number, as a float."""

    def generate(context, builder, signature, args):
        return builder.call(llvm_function(builder, "rint", args[0].type, 1), args)

    return v(v), generate


def _power_of_two(context, v):
    """2 to the power of whole numbers within the range of exponents; of others, anything."""

    def generate(context, builder, signature, args):
        kind = args[0].type
        # A float is sign, exponent + bias, mantissa; 2**k has a mantissa of zeros. So the bits of
        # k + bias, shifted to where the exponent stands, are those of 2**k.
        bits, mantissa, bias = (64, 52, 1023) if v.dtype == types.float64 else (32, 23, 127)
        integers = ir.VectorType(ir.IntType(bits), kind.count)
        # Added to 1.5 * 2**mantissa, whose last bit counts 1, the whole number k becomes the last
        # bits of the mantissa. The shift makes it the exponent, and pushes the large number out.
        beside = builder.fadd(args[0], constant(kind, 1.5 * 2.0**mantissa))
        exponent = builder.add(builder.bitcast(beside, integers), constant(integers, bias))
        return builder.bitcast(builder.shl(exponent, constant(integers, mantissa)), kind)

    return v(v), generate


# ------------------------------------------------------------------------------------- integers


def _whole(context, x, number):
    """A vector of integers, as wide as one of the array x, of which every entry is ``number``."""
    dtype = types.int64 if x.dtype == types.float64 else types.int32
    kind = Vector(dtype)

    def generate(context, builder, signature, args):
        value = builder.trunc(args[1], ir.IntType(32)) if dtype == types.int32 else args[1]
        return spread_value(builder, value, context.get_value_type(kind))

    return kind(x, types.int64), generate


def _store_int32(context, x, i, v):
    """x[i], x[i + 1], ... = a vector of integers, for an array of int32."""

    def generate(context, builder, signature, args):
        narrow = ir.VectorType(ir.IntType(32), args[2].type.count)
        value = args[2] if args[2].type == narrow else builder.trunc(args[2], narrow)
        builder.store(value, pointer_to(builder, args[0], args[1], narrow), align=4)
        return context.get_dummy_value()

    return types.void(x, types.int64, v), generate


def _where_equal(context, v, x, i, number):
    """v where x[i], x[i + 1], ... of an array of int32 is ``number``, else 0."""

    def generate(context, builder, signature, args):
        v, x, i, number = args
        kind = ir.VectorType(ir.IntType(32), v.type.count)
        found = builder.load(pointer_to(builder, x, i, kind), align=4)
        wanted = spread_value(builder, builder.trunc(number, ir.IntType(32)), kind)
        return builder.select(builder.icmp_signed("==", found, wanted), v, constant(v.type, 0.0))

    return v(v, x, types.int64, types.int64), generate


# ----------------------------------------------------------- squares, and places in memory


def _transpose(context, x, at, places, y, to, ends):
    """y[to + ends[j] + i] = x[at + places[i] + j] for all i and j up to the lanes of a vector.

    In log2(lanes) rounds, in each of which pairs of rows exchange halves of smaller and smaller
    squares. For four lanes::

        a0 a1 | a2 a3           a0 a1 | c0 c1           a0 b0 | c0 d0
        b0 b1 | b2 b3   rows 2  b0 b1 | d0 d1   rows 1  a1 b1 | c1 d1
        ------+------   apart   ------+------   apart   ------+------
        c0 c1 | c2 c3    ->     a2 a3 | c2 c3    ->     a2 b2 | c2 d2
        d0 d1 | d2 d3           b2 b3 | d2 d3           a3 b3 | c3 d3

    Of several j with the same end, the first stays.
    """
    kind = Vector(x.dtype)

    def generate(context, builder, signature, args):
        x, at, places, y, to, ends = args
        vector, count = context.get_value_type(kind), kind.count

        def address(array, begin, table, r):
            offset = builder.load(builder.gep(table, [ir.Constant(INDEX, r)]))
            return pointer_to(builder, array, builder.add(begin, offset), vector)

        # all rows are in registers from here on, until the last round
        size = x_type.dtype.bitwidth // 8
        rows = [builder.load(address(x, at, places, r), align=size) for r in range(count)]
        distance = count // 2
        while distance:
            for r in range(count):
                if r & distance:
                    continue
                upper, lower = rows[r], rows[r + distance]
                # A mask names for each lane of the result a lane of ``upper``, or of ``lower`` if
                # it is ``count`` or more. The new upper row takes the lanes without the bit
                # ``distance`` of both rows, the new lower row those with it.
                for to_row, lane in ((r, 0), (r + distance, distance)):
                    mask = [
                        (k & ~distance) + lane + (count if k & distance else 0)
                        for k in range(count)
                    ]
                    rows[to_row] = builder.shuffle_vector(
                        upper, lower, ir.Constant(ir.VectorType(ir.IntType(32), count), mask)
                    )
            distance //= 2
        # backwards: rows of the same end overwrite each other, the first is written last
        for r, row in reversed(list(enumerate(rows))):
            builder.store(row, address(y, to, ends, r), align=size)
        return context.get_dummy_value()

    x_type = x
    return types.void(x, types.int64, places, y, types.int64, ends), generate


def _part(context, x, i):
    """The array x from its entry i on."""

    def generate(context, builder, signature, args):
        return builder.gep(args[0], [args[1]])

    return x(x, types.int64), generate


def _prefetch(context, x, i):
    """Begin to bring x[i] near, into the second-level cache; nothing waits for it."""

    def generate(context, builder, signature, args):
        fetch(builder, builder.gep(args[0], [args[1]]), write=False, nearness=2)
        return context.get_dummy_value()

    return types.void(x, types.int64), generate


def fetch(builder: Any, pointer: Any, write: bool, nearness: int) -> None:
    """LLVM's prefetch of the line at a pointer, which may be any: nothing happens if it is not
    memory. ``nearness`` is 3 for the nearest cache."""
    byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
    numbers = [ir.Constant(word, number) for number in (int(write), nearness, 1)]
    builder.call(function, [builder.bitcast(pointer, byte), *numbers])


def _at_address(context, address, size, like):
    """The array of ``size`` numbers at an address in memory, of the dtype of the array ``like``."""

    def generate(context, builder, signature, args):
        return builder.inttoptr(args[0], args[2].type)

    return like(types.int64, types.int64, like), generate


# ------------------------------------------------------------------- the same in NumPy, and names


def _plain_at_address(address: int, size: int, like: Any) -> Any:
    memory = (ctypes.c_char * (int(size) * like.itemsize)).from_address(int(address))
    return np.frombuffer(memory, like.dtype)


def _plain_transpose(x: Any, at: int, places: Any, y: Any, to: int, ends: Any) -> None:
    count = lanes(x.dtype)
    square = np.array([x[at + place : at + place + count] for place in places[:count]])
    for end, column in reversed(list(zip(ends, square.T))):
        y[to + end : to + end + count] = column


def _plain_store(x: Any, i: int, v: Any) -> None:
    x[i : i + v.size] = v


def _plain_fma(a: Any, b: Any, c: Any) -> Any:
    return a * b + c


def _plain_power_of_two(v: Any) -> Any:
    return np.ldexp(v.dtype.type(1), np.nan_to_num(v).clip(-1022, 1023).astype(np.int64))


def _plain_whole(x: Any, number: int) -> Any:
    return np.full(lanes(x.dtype), number)


def _plain_where_equal(v: Any, x: Any, i: int, number: int) -> Any:
    return np.where(x[i : i + v.size] == number, v, v.dtype.type(0))


load = operation(lambda x, i: x[i : i + lanes(x.dtype)].copy(), _load)
store = operation(_plain_store, _store)
spread = operation(lambda x, i: np.full(lanes(x.dtype), x[i]), _spread)
zeros = operation(lambda x: np.zeros(lanes(x.dtype), x.dtype), _zeros)
difference = operation(operator.sub, _difference)
fma = operation(_plain_fma, _fma)
times = operation(lambda number, v: v.dtype.type(number) * v, _times)
times_plus = operation(lambda number, v, w: v.dtype.type(number) * v + w, _times_plus)
relu = operation(lambda v: np.where(v <= 0, v.dtype.type(0), v), _relu)
where_open = operation(lambda v, m: np.where(m <= 0, v.dtype.type(0), v), _where_open)
lanes_of = operation(lambda x: lanes(x.dtype), _lanes_of)
where_above = operation(lambda v, limit, a, b: np.where((v > limit) | (v != v), a, b), _where_above)
sqrt = operation(np.sqrt, _sqrt)
nearest = operation(np.rint, _nearest)
power_of_two = operation(_plain_power_of_two, _power_of_two)
whole = operation(_plain_whole, _whole)
store_int32 = operation(_plain_store, _store_int32)
where_equal = operation(_plain_where_equal, _where_equal)
transpose = operation(_plain_transpose, _transpose)
part = operation(lambda x, i: x[i:], _part)
prefetch = operation(lambda x, i: None, _prefetch)
at_address = operation(_plain_at_address, _at_address)
