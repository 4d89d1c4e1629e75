"""Vectors: the numbers of one register, as a value that kernels compute with.

Numba vectorises a plain loop when it can prove that it may. Where a kernel's speed hangs on it,
the kernel says so instead: ``v = load(x, i)`` reads as many numbers as a register holds, from
position ``i`` of ``x`` on; ``v * w + u`` and :func:`fma` act on all of them at once, and
``store(y, i, v)`` writes them back. A vector lives in a register; there is nothing else to it.

Each operation is an *intrinsic*, a Python function that writes the LLVM instruction, and beside it
stands its meaning in NumPy, which is what runs under ``NUMBA_DISABLE_JIT=1``. Those on values alone
take plain numbers, too, so that a formula can be written once and serve the vectors of a row and
the few entries behind the last whole one.
"""

from __future__ import annotations

import ctypes
import operator
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.core.typing.templates import signature as typed
from numba.extending import intrinsic, lower_builtin, models, register_model

from .cpu import lanes

config: Any = numba.config  # its settings are made at run time
INTERPRETED = bool(config.DISABLE_JIT)
INDEX = ir.IntType(64)


class Vector(types.Type):
    """As many numbers of a dtype as one register holds, or ``count``, which then take several."""

    def __init__(self, dtype: Any, count: int = 0):
        self.dtype = dtype
        self.count = count or lanes(str(dtype))
        super().__init__(name=f"Vector({dtype}, {self.count})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector):
        super().__init__(manager, kind, llvm_vector(manager, kind))


def llvm_vector(manager: Any, kind: Vector) -> ir.VectorType:
    return ir.VectorType(manager.lookup(kind.dtype).get_value_type(), kind.count)


def _operation(plain: Callable[..., Any], emit: Callable[..., Any]) -> Any:
    """``emit`` as an intrinsic; in interpreted kernels, its meaning ``plain``."""
    return plain if INTERPRETED else intrinsic(emit)


def pointer_to(builder: Any, pointer: Any, index: Any, kind: Any) -> Any:
    """The address of ``pointer[index]``, as that of a ``kind``."""
    return builder.bitcast(builder.gep(pointer, [index]), kind.as_pointer())


def spread_value(builder: Any, value: Any, kind: ir.VectorType) -> Any:
    """A vector of which every entry is ``value``."""
    undefined = ir.Constant(kind, ir.Undefined)
    one = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
    mask = ir.Constant(ir.VectorType(ir.IntType(32), kind.count), [0] * kind.count)
    return builder.shuffle_vector(one, undefined, mask)


def multiply_add(builder: Any, kind: Any) -> Any:
    """LLVM's fused multiply-add of three vectors or numbers, which rounds once."""
    return llvm_function(builder, "fma", kind, 3)


def llvm_function(builder: Any, name: str, kind: Any, arguments: int) -> Any:
    """LLVM's own function of that name, of vectors or numbers of one kind."""
    entry = kind.element if isinstance(kind, ir.VectorType) else kind
    suffix = "f32" if isinstance(entry, ir.FloatType) else "f64"
    if isinstance(kind, ir.VectorType):
        suffix = f"v{kind.count}{suffix}"
    signature = ir.FunctionType(kind, [kind] * arguments)
    return cgutils.get_or_insert_function(builder.module, signature, f"llvm.{name}.{suffix}")


def constant(kind: Any, number: float) -> ir.Constant:
    """A number as a constant of a kind; of a vector, in every entry."""
    if isinstance(kind, ir.VectorType):
        return ir.Constant(kind, [number] * kind.count)
    return ir.Constant(kind, number)


def _load(context, x, i):
    """The vector at x[i], x[i + 1], ..."""
    kind = Vector(x.dtype)

    def generate(context, builder, signature, args):
        vector = context.get_value_type(kind)
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
    if not isinstance(number, types.IntegerLiteral):
        raise numba.errors.RequireLiteralValue("the number must be an integer in the source")
    return int(number.literal_value)


def _relu(context, v):
    """max(v, 0), written so that NaN stays NaN."""

    def generate(context, builder, signature, args):
        zero = constant(args[0].type, 0.0)
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
        above = builder.fcmp_ordered(">", v, limit)
        return builder.select(builder.or_(above, builder.fcmp_unordered("uno", v, v)), a, b)

    return a(v, v, a, a), generate


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
        bits, mantissa, bias = (64, 52, 1023) if v.dtype == types.float64 else (32, 23, 127)
        integers = ir.VectorType(ir.IntType(bits), kind.count)
        # beside so large a number, the whole number is the last bits of the mantissa; a shift
        # then makes it the exponent, and pushes the large number out
        beside = builder.fadd(args[0], constant(kind, 1.5 * 2.0**mantissa))
        exponent = builder.add(builder.bitcast(beside, integers), constant(integers, bias))
        return builder.bitcast(builder.shl(exponent, constant(integers, mantissa)), kind)

    return v(v), generate


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


def _transpose(context, x, at, places, y, to, ends):
    """y[to + ends[j] + i] = x[at + places[i] + j] for all i and j up to the lanes of a vector.

    In log2(lanes) rounds, in each of which pairs of rows exchange halves of smaller and smaller
    squares. Of several j with the same end, the first stays.
    """
    kind = Vector(x.dtype)

    def generate(context, builder, signature, args):
        x, at, places, y, to, ends = args
        vector, count = context.get_value_type(kind), kind.count

        def address(array, begin, table, r):
            offset = builder.load(builder.gep(table, [ir.Constant(INDEX, r)]))
            return pointer_to(builder, array, builder.add(begin, offset), vector)

        size = x_type.dtype.bitwidth // 8
        rows = [builder.load(address(x, at, places, r), align=size) for r in range(count)]
        distance = count // 2
        while distance:
            for r in range(count):
                if r & distance:
                    continue
                upper, lower = rows[r], rows[r + distance]
                for to_row, lane in ((r, 0), (r + distance, distance)):
                    mask = [
                        (k & ~distance) + lane + (count if k & distance else 0)
                        for k in range(count)
                    ]
                    rows[to_row] = builder.shuffle_vector(
                        upper, lower, ir.Constant(ir.VectorType(ir.IntType(32), count), mask)
                    )
            distance //= 2
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


load = _operation(lambda x, i: x[i : i + lanes(x.dtype)].copy(), _load)
store = _operation(_plain_store, _store)
spread = _operation(lambda x, i: np.full(lanes(x.dtype), x[i]), _spread)
zeros = _operation(lambda x: np.zeros(lanes(x.dtype), x.dtype), _zeros)
difference = _operation(operator.sub, _difference)
fma = _operation(_plain_fma, _fma)
times = _operation(lambda number, v: v.dtype.type(number) * v, _times)
times_plus = _operation(lambda number, v, w: v.dtype.type(number) * v + w, _times_plus)
relu = _operation(lambda v: np.where(v <= 0, v.dtype.type(0), v), _relu)
where_open = _operation(lambda v, m: np.where(m <= 0, v.dtype.type(0), v), _where_open)
lanes_of = _operation(lambda x: lanes(x.dtype), _lanes_of)
where_above = _operation(
    lambda v, limit, a, b: np.where((v > limit) | (v != v), a, b), _where_above
)
sqrt = _operation(np.sqrt, _sqrt)
nearest = _operation(np.rint, _nearest)
power_of_two = _operation(_plain_power_of_two, _power_of_two)
whole = _operation(_plain_whole, _whole)
store_int32 = _operation(_plain_store, _store_int32)
where_equal = _operation(_plain_where_equal, _where_equal)
transpose = _operation(_plain_transpose, _transpose)
part = _operation(lambda x, i: x[i:], _part)
prefetch = _operation(lambda x, i: None, _prefetch)
at_address = _operation(_plain_at_address, _at_address)


def _operator(function: Any, instruction: str) -> None:
    """Let vectors be added, subtracted and multiplied with the usual signs."""

    @infer_global(function)
    class Between(AbstractTemplate):
        def generic(self, args: Any, keywords: Any) -> Any:
            if len(args) == 2 and isinstance(args[0], Vector) and args[0] == args[1]:
                return typed(args[0], *args)
            return None

    @lower_builtin(function, Vector, Vector)
    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return getattr(builder, instruction)(*args)


if not INTERPRETED:
    _operator(operator.add, "fadd")
    _operator(operator.sub, "fsub")
    _operator(operator.mul, "fmul")
    _operator(operator.truediv, "fdiv")
