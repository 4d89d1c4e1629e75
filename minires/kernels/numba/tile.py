"""The register tile: a small matrix product whose result never leaves the vector registers.

A convolution or a matrix product spends its time on ``c[r, j] += a[r, p] * b[p, j]``. Written as
three loops, every step loads and stores an entry of ``c``. The tile instead keeps some rows of
``c``, each one or two vectors wide, in registers for the whole loop over ``p``; one step then
costs one or two vector loads from ``b``, a scalar from ``a`` per row, and nothing but fused
multiply-adds. For R = 12 rows of V = 2 vectors (AVX-512)::

                          b[p]:   +-- vector 0 --+-- vector 1 --+       2 registers
                                  | j = 0 ... 15 | j = 16 .. 31 |
                                  +--------------+--------------+
        a[0, p]  spread    *      |   c[0, 0:16] |  c[0, 16:32] |      24 registers of sums:
        a[1, p]  spread    *      |   c[1, 0:16] |  c[1, 16:32] |      each step of p adds
            ...                   |      ...     |      ...     |      a[r, p] * b[p] to row r
        a[11, p] spread    *      |  c[11, 0:16] | c[11, 16:32] |
                                  +--------------+--------------+

24 multiply-adds of 16 numbers for 14 loads, and no store before p is through. 24 + 2 + 1 of the
32 registers are in use. Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication"
(2008), is the paper about such tiles.

Numba cannot be talked into this from plain loops, so the tile is an intrinsic: a function of Python
that writes LLVM code. Loops of Python, like ``for r in range(ROWS)``, run while the code is written
and leave their body ROWS times; loops of the machine's are written by :func:`_loop`.

There are two, for the two products that convolutions are made of.

``product_V``, V vectors wide, for pixels times weights, sums over runs of neighbouring entries::

    c[ends[at + r] + c_at + j] = bias[bias_at + j] + sum over q < segments, p < run of
        a[starts[at + r] + offsets[q] + p] * b[b_at + (q * run + p) * W + j]

for r < ROWS and j < W = V * lanes. ``starts`` is where each row's pixel begins and ``ends`` where
its result goes, so that a row may be any pixel of any geometry; ``offsets`` leads from a pixel to
the entries under each row of the kernel.

``outer_V``, for weight gradients, adds up over pixels::

    c[c_at + r * c_stride + j] += sum over p < count of
        a[starts[at + p] + offset + r] * b[b_at + p * b_stride + j]

for r < OUTER_ROWS[V]; ``outer_low`` is ``outer_2`` with only LOW_ROWS, which leave fewer over where
there are 16 or 64. ``outer_window`` is an ``outer_1`` for the small windows of a network's first
layer, whose rows are WINDOW_ROWS from each of WINDOW_LINES places: a[starts[at + p] + offset[q] +
r]. All arrays are flat; positions count entries.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .cpu import lanes, rows
from .vector import INDEX, INTERPRETED, Vector, multiply_add, pointer_to, spread_value

ROWS = rows(2, limit=12)
OUTER_ROWS = {1: rows(1, limit=16), 2: rows(2, limit=12)}
LOW_ROWS = rows(2, limit=8)
WINDOW_ROWS = 9  # three pixels of three channels, under each of the three lines of a 3x3 kernel,
WINDOW_LINES = 3 if rows(1, limit=27) == 27 else 1  # which a tile takes at once where they fit
UNROLL = 4  # steps of a loop at a time, so that counting costs little beside multiplying

Sums = list[Any]  # the vectors of a tile, row after row


def _number(value: int) -> ir.Constant:
    """A whole number, in machine code."""
    return ir.Constant(INDEX, value)


def _loop(
    builder: Any, first: Any, count: Any, step: int, sums: Sums, body: Callable[[Any, Sums], Sums]
) -> tuple[Any, Sums]:
    """``for i in range(first, count - step + 1, step): sums = body(i, sums)``, in registers.

    Returns where it ended, and the sums. ``body`` writes the code of one step. In blocks of LLVM::

        entry:   ...
                 br head
        head:    i   = phi [first, entry], [i + step, inside]     value when coming from there
                 sum = phi [sums,  entry], [result,   inside]     one for each vector of the tile
                 br (i + step <= count) ? inside : end
        inside:  result = body(i, sum)
                 br head
        end:     ...

    A register is written once in LLVM's language, so what changes from step to step is a *phi*: a
    value that depends on where the program came from. As phis, the sums never need memory.
    """
    entry = builder.basic_block
    head, inside, end = (builder.append_basic_block(name) for name in ("head", "inside", "end"))
    builder.branch(head)
    builder.position_at_end(head)
    i = builder.phi(INDEX)
    now = [builder.phi(value.type) for value in sums]
    following_i = builder.add(i, _number(step))
    builder.cbranch(builder.icmp_signed("<=", following_i, count), inside, end)
    builder.position_at_end(inside)
    following = body(i, now)  # may contain loops itself: it need not end in the block ``inside``
    i.add_incoming(first, entry)
    i.add_incoming(following_i, builder.basic_block)
    for phi, before, after in zip(now, sums, following):
        phi.add_incoming(before, entry)
        phi.add_incoming(after, builder.basic_block)
    builder.branch(head)
    builder.position_at_end(end)
    return i, now


def _unrolled(
    builder: Any, count: Any, sums: Sums, body: Callable[[Any, Sums], Sums]
) -> tuple[Any, Sums]:
    """``for i in range(count): sums = body(i, sums)``, UNROLL steps at a time while they last, and
    then one at a time."""

    def several(i: Any, sums: Sums) -> Sums:
        for k in range(UNROLL):
            sums = body(builder.add(i, _number(k)), sums)
        return sums

    i, sums = _loop(builder, _number(0), count, UNROLL, sums, several)
    return _loop(builder, i, count, 1, sums, body)


class _Writer:
    """Writes the LLVM code of a tile of vectors of one dtype."""

    def __init__(self, context: Any, builder: Any, kind: Vector):
        self.builder = builder
        self.vector = context.get_value_type(kind)
        self.size = kind.dtype.bitwidth // 8
        self.lanes = kind.count
        self.fma = multiply_add(builder, self.vector)

    def load(self, pointer: Any, at: Any, v: int) -> Any:
        """Vector v of the row at pointer[at]."""
        index = self.builder.add(at, _number(v * self.lanes))
        return self.builder.load(
            pointer_to(self.builder, pointer, index, self.vector), align=self.size
        )

    def store(self, value: Any, pointer: Any, at: Any, v: int) -> None:
        """Write vector v of the row at pointer[at]."""
        index = self.builder.add(at, _number(v * self.lanes))
        self.builder.store(
            value, pointer_to(self.builder, pointer, index, self.vector), align=self.size
        )

    def entry(self, pointer: Any, at: Any) -> Any:
        """pointer[at], a single number."""
        return self.builder.load(self.builder.gep(pointer, [at]))

    def step(self, sums: Sums, left: list[Any], right: list[Any]) -> Sums:
        """sums[r][v] += left[r] * right[v]; left are places of scalars, right are vectors."""
        result = []
        for r, place in enumerate(left):
            # the number a[r, p] in all lanes, for the multiply-adds of its row
            spread = spread_value(self.builder, self.builder.load(place), self.vector)
            for v, vector in enumerate(right):
                total = sums[r * len(right) + v]
                result.append(self.builder.call(self.fma, [spread, vector, total]))
        return result


def _product(vectors: int) -> Any:
    """``product_V``, see the top of this file."""

    def product(
        context, a, starts, at, offsets, segments, run, b, b_at, bias, bias_at, c, ends, c_at
    ):
        n = types.int64
        signature = types.void(a, starts, n, offsets, n, n, b, n, bias, n, c, ends, n)

        def generate(context, builder, signature, args):
            a, starts, at, offsets, segments, run, b, b_at, bias, bias_at, c, ends, c_at = args
            write = _Writer(context, builder, Vector(signature.args[0].dtype))
            width = vectors * write.lanes

            # starts[at + r], read once: they are the same for all segments
            rows_at = [builder.add(at, _number(r)) for r in range(ROWS)]
            first = [write.entry(starts, row) for row in rows_at]
            # every row begins with the bias
            begin = [write.load(bias, bias_at, v) for v in range(vectors)] * ROWS

            # a segment: ``run`` entries side by side of each row's window, and as many rows of b
            def segment(q: Any, sums: Sums) -> Sums:
                offset = write.entry(offsets, q)
                left = [builder.gep(a, [builder.add(start, offset)]) for start in first]
                right = builder.add(b_at, builder.mul(builder.mul(q, run), _number(width)))

                def step(p: Any, sums: Sums) -> Sums:
                    row = builder.add(right, builder.mul(p, _number(width)))
                    places = [builder.gep(pointer, [p]) for pointer in left]
                    return write.step(sums, places, [write.load(b, row, v) for v in range(vectors)])

                return _unrolled(builder, run, sums, step)[1]

            # for q in segments: for p in run: step; then every row goes to where its result goes
            sums = _loop(builder, _number(0), segments, 1, begin, segment)[1]
            for r, row in enumerate(rows_at):
                place = builder.add(write.entry(ends, row), c_at)
                for v in range(vectors):
                    write.store(sums[r * vectors + v], c, place, v)
            return context.get_dummy_value()

        return signature, generate

    return intrinsic(product)


def _outer(vectors: int, rows: int, lines: int = 0) -> Any:
    """``outer_V``; with ``lines``, ``offset`` is a table of as many, each with so many rows."""
    count_of_rows = rows * max(lines, 1)

    def outer(context, a, starts, at, count, offset, b, b_at, b_stride, c, c_at, c_stride):
        n = types.int64
        signature = types.void(a, starts, n, n, offset if lines else n, b, n, n, c, n, n)

        def generate(context, builder, signature, args):
            a, starts, at, count, offset, b, b_at, b_stride, c, c_at, c_stride = args
            write = _Writer(context, builder, Vector(signature.args[0].dtype))

            # without lines: rows 0, 1, ... of one place; with lines: so many rows of each place
            offsets = [write.entry(offset, _number(q)) for q in range(lines)] or [offset]
            shifted = [builder.gep(a, [entry]) for entry in offsets]
            rows_at = [
                builder.add(c_at, builder.mul(c_stride, _number(r))) for r in range(count_of_rows)
            ]
            begin = [write.load(c, row, v) for row in rows_at for v in range(vectors)]  # += c

            # a pixel: entries a[start + offset + r] times a row of b
            def step(p: Any, sums: Sums) -> Sums:
                start = write.entry(starts, builder.add(at, p))
                pixels = [builder.gep(line, [start]) for line in shifted]
                places = [builder.gep(pixel, [_number(r)]) for pixel in pixels for r in range(rows)]
                row = builder.add(b_at, builder.mul(p, b_stride))
                return write.step(sums, places, [write.load(b, row, v) for v in range(vectors)])

            sums = _unrolled(builder, count, begin, step)[1]
            for r, row in enumerate(rows_at):
                for v in range(vectors):
                    write.store(sums[r * vectors + v], c, row, v)
            return context.get_dummy_value()

        return signature, generate

    return intrinsic(outer)


def _plain_product(vectors: int) -> Any:
    """What ``product`` computes, for interpreted kernels."""

    def product(a, starts, at, offsets, segments, run, b, b_at, bias, bias_at, c, ends, c_at):
        width = vectors * lanes(a.dtype)
        for r in range(at, at + ROWS):
            total = bias[bias_at : bias_at + width].copy()
            for q in range(segments):
                begin, below = starts[r] + offsets[q], b_at + q * run * width
                left = a[begin : begin + run]
                total += left @ b[below : below + run * width].reshape(run, width)
            c[ends[r] + c_at : ends[r] + c_at + width] = total

    return product


def _plain_outer(vectors: int, rows: int, lines: int = 0) -> Any:
    """What ``outer`` computes, for interpreted kernels."""

    def outer(a, starts, at, count, offset, b, b_at, b_stride, c, c_at, c_stride):
        width = vectors * lanes(a.dtype)
        for p in range(count):
            begins = starts[at + p] + (offset[:lines] if lines else np.array([offset]))
            left, row = a[np.add.outer(begins, np.arange(rows)).ravel()], b_at + p * b_stride
            product = np.multiply.outer(left, b[row : row + width])
            for r in range(left.size):
                place = c_at + r * c_stride
                c[place : place + width] += product[r]

    return outer


product_1 = _plain_product(1) if INTERPRETED else _product(1)
product_2 = _plain_product(2) if INTERPRETED else _product(2)
_make_outer = _plain_outer if INTERPRETED else _outer
outer_1, outer_2 = _make_outer(1, OUTER_ROWS[1]), _make_outer(2, OUTER_ROWS[2])
outer_low = _make_outer(2, LOW_ROWS)
outer_window = _make_outer(1, WINDOW_ROWS, WINDOW_LINES)
