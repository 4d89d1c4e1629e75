"""The register tile: a small matrix product whose result never leaves the vector registers.

A convolution or a matrix product spends its time on ``c[r, j] += a[r, p] * b[p, j]``. Written as
three loops, every step loads and stores an entry of ``c``. The tile instead keeps ROWS rows of
``c``, each one or two vectors wide, in registers for the whole loop over ``p``; one step then
costs one or two vector loads from ``b``, ROWS scalars from ``a``, and nothing but fused
multiply-adds. Numba cannot be talked into this from plain loops, so the tile is an intrinsic: a
function of Python that writes LLVM code.
"""

from __future__ import annotations

import functools
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


@functools.cache
def vector_bytes() -> int:
    """The width of this CPU's vector registers in bytes: 64, 32 or 16."""
    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return 64
    return 32 if features.get("avx") else 16


# The tile and its operands must fit the registers: 32 of them with AVX-512 and NEON, else 16.
ROWS = 4 if vector_bytes() == 32 else 8


def lanes(dtype: Any) -> int:
    """How many numbers one vector register holds."""
    return vector_bytes() // np.dtype(dtype).itemsize


def _make_tile(vectors: int, along_rows: bool, accumulate: bool) -> Any:
    """An intrinsic ``tile(a, a_at, a_stride, b, b_at, c, c_at, c_stride, steps)``.

    With W = vectors * lanes, for r < ROWS and j < W::

        c[c_at + r * c_stride + j] (+)= sum over p < steps of  A(r, p) * b[b_at + p * W + j]

    where A(r, p) is ``a[a_at + r * a_stride + p]`` if ``along_rows``, else
    ``a[a_at + p * a_stride + r]``. The arrays are flat; positions count elements.
    """

    @intrinsic
    def tile(context, a, a_at, a_stride, b, b_at, c, c_at, c_stride, steps):  # type: ignore[no-untyped-def]
        integer = types.int64
        signature = types.void(a, integer, integer, b, integer, c, integer, integer, integer)
        width = lanes(np.dtype(str(c.dtype)))

        def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
            a_type, b_type, c_type = signature.args[0], signature.args[3], signature.args[5]
            scalar = context.get_data_type(c_type.dtype)
            vector = ir.VectorType(scalar, width)
            size = c_type.dtype.bitwidth // 8
            index = ir.IntType(64)
            multiply_add = cgutils.get_or_insert_function(
                builder.module,
                ir.FunctionType(vector, [vector] * 3),
                f"llvm.fma.v{width}f{size * 8}",
            )

            def number(value: int) -> ir.Constant:
                return ir.Constant(index, value)

            def data(kind: Any, value: Any) -> Any:
                return context.make_array(kind)(context, builder, value).data

            def load(pointer: Any, at: Any) -> Any:
                place = builder.bitcast(builder.gep(pointer, [at]), vector.as_pointer())
                return builder.load(place, align=size)

            _, a_at, a_stride, _, b_at, _, c_at, c_stride, steps = args
            a_data, b_data, c_data = (
                data(a_type, args[0]),
                data(b_type, args[3]),
                data(c_type, args[5]),
            )
            at = [
                [
                    builder.add(
                        c_at, builder.add(builder.mul(number(r), c_stride), number(v * width))
                    )
                    for v in range(vectors)
                ]
                for r in range(ROWS)
            ]
            zero = ir.Constant(vector, [0.0] * width)
            first = [
                [load(c_data, at[r][v]) if accumulate else zero for v in range(vectors)]
                for r in range(ROWS)
            ]
            row = [
                builder.add(a_at, builder.mul(number(r), a_stride) if along_rows else number(r))
                for r in range(ROWS)
            ]

            start = builder.basic_block
            loop, end = builder.append_basic_block("loop"), builder.append_basic_block("end")
            builder.cbranch(builder.icmp_signed(">", steps, number(0)), loop, end)
            builder.position_at_end(loop)
            p = builder.phi(index)
            p.add_incoming(number(0), start)
            sums = [[builder.phi(vector) for _ in range(vectors)] for _ in range(ROWS)]
            b_row = builder.add(b_at, builder.mul(p, number(vectors * width)))
            b_now = [load(b_data, builder.add(b_row, number(v * width))) for v in range(vectors)]
            a_step = p if along_rows else builder.mul(p, a_stride)
            following = []
            for r in range(ROWS):
                value = builder.load(builder.gep(a_data, [builder.add(row[r], a_step)]))
                spread = builder.shuffle_vector(
                    builder.insert_element(
                        ir.Constant(vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0)
                    ),
                    ir.Constant(vector, ir.Undefined),
                    ir.Constant(ir.VectorType(ir.IntType(32), width), [0] * width),
                )
                following.append(
                    [
                        builder.call(multiply_add, [spread, b_now[v], sums[r][v]])
                        for v in range(vectors)
                    ]
                )
            after = builder.add(p, number(1))
            p.add_incoming(after, loop)
            builder.cbranch(builder.icmp_signed("<", after, steps), loop, end)
            builder.position_at_end(end)
            for r in range(ROWS):
                for v in range(vectors):
                    sums[r][v].add_incoming(first[r][v], start)
                    sums[r][v].add_incoming(following[r][v], loop)
                    result = builder.phi(vector)
                    result.add_incoming(first[r][v], start)
                    result.add_incoming(following[r][v], loop)
                    following[r][v] = result
            for r in range(ROWS):
                for v in range(vectors):
                    place = builder.bitcast(builder.gep(c_data, [at[r][v]]), vector.as_pointer())
                    builder.store(following[r][v], place, align=size)
            return context.get_dummy_value()

        return signature, generate

    return tile


# c = a @ b, with rows of a a stride apart: ROWS pixels of a convolution's output
tile_product_1 = _make_tile(1, along_rows=True, accumulate=False)
tile_product_2 = _make_tile(2, along_rows=True, accumulate=False)
# c += aᵀ @ b, with columns of a side by side: ROWS entries of a weight gradient
tile_outer_1 = _make_tile(1, along_rows=False, accumulate=True)
tile_outer_2 = _make_tile(2, along_rows=False, accumulate=True)


def _copy(context, a, a_at, b, b_at, count):  # type: ignore[no-untyped-def]
    """a[a_at : a_at + count] = b[b_at : b_at + count], for flat arrays, a vector at a time.

    For runs of a few dozen numbers; a plain loop becomes a call of memcpy, which costs more than
    such a run itself.
    """
    integer = types.int64
    signature = types.void(a, integer, b, integer, integer)
    width = lanes(np.dtype(str(a.dtype)))

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        scalar = context.get_data_type(signature.args[0].dtype)
        size = signature.args[0].dtype.bitwidth // 8
        target, source = (
            context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 2)
        )
        a_at, b_at, count = args[1], args[3], args[4]
        index = count.type
        full = builder.and_(count, ir.Constant(index, -width))  # width is a power of two
        for first, last, step, kind in (
            (ir.Constant(index, 0), full, width, ir.VectorType(scalar, width)),
            (full, count, 1, scalar),
        ):
            with cgutils.for_range_slice(
                builder, first, last, ir.Constant(index, step), intp=index
            ) as (i, _):
                pieces = [
                    builder.bitcast(builder.gep(pointer, [builder.add(at, i)]), kind.as_pointer())
                    for pointer, at in ((target, a_at), (source, b_at))
                ]
                builder.store(builder.load(pieces[1], align=size), pieces[0], align=size)
        return context.get_dummy_value()

    return signature, generate


copy: Any = intrinsic(_copy)


def panel_width(columns: int, dtype: Any) -> int:
    """How many columns a panel of ``b`` has: two vectors, or one where one is enough."""
    return lanes(dtype) if columns <= lanes(dtype) else 2 * lanes(dtype)


def pack_panels(b: Any) -> Any:
    """(groups, steps, columns) cut into panels (groups, panels, steps, width), zero-filled."""
    groups, steps, columns = b.shape
    width = panel_width(columns, b.dtype)
    count = -(-columns // width)
    padded = np.zeros((groups, steps, count * width), b.dtype)
    padded[:, :, :columns] = b
    return np.ascontiguousarray(padded.reshape(groups, steps, count, width).transpose(0, 2, 1, 3))
