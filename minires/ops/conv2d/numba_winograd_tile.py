"""The transforms of Winograd's convolution F(4x4, 3x3), on tiles of vectors.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2015, arXiv:1509.09308,
section 4), compute a 4x4 tile of outputs from the 6x6 inputs ``d`` that it needs and the 3x3
weights ``g`` as::

    Y = Aᵀ [ (G g Gᵀ) * (Bᵀ d B) ] A

with ``*`` entry by entry and

         | 4  0 -5  0  1  0 |        |  1/4    0     0  |        | 1  1  1  1  1  0 |
         | 0 -4 -4  1  1  0 |        | -1/6  -1/6  -1/6 |   Aᵀ = | 0  1 -1  2 -2  0 |
    Bᵀ = | 0  4 -4 -1  1  0 |    G = | -1/6   1/6  -1/6 |        | 0  1  1  4  4  0 |
         | 0 -2 -1  2  1  0 |        | 1/24  1/12   1/6 |        | 0  1 -1  8 -8  1 |
         | 0  2 -1 -2  1  0 |        | 1/24 -1/12   1/6 |
         | 0  4  0 -5  0  1 |        |   0     0     1  |

The weight gradient is the same formula differentiated: ``gw = Gᵀ [ (Bᵀ d B) * (A gy Aᵀ) ] G``.

Tiles of outputs lie side by side; the tiles of inputs that they need overlap by two pixels::

    pixels of a row of d    0 1 2 3 4 5            of Y    0 1 2 3
                                    4 5 6 7 8 9                    4 5 6 7

Each of the 36 entries of a transformed tile is a *plane*: entry (r, s) is plane e = 6 r + s. What
is an entry here is a vector in the code: a tile is transformed for as many channels at once as a
register holds. Plane e of the tile at ``u[at]`` is at ``u[at + e * plane]``.

A product with two matrices, ``Bᵀ d B``, is two steps of the same kind. The first multiplies the six
columns of d by Bᵀ; the second multiplies each row of the result by Bᵀ again, since the row r of
``X B`` is Bᵀ times the row r of X. So there is one function for a column of each matrix (the first
part of this file), and whole tiles (the second part) call it for columns and then for rows.

Products by 2, 4, 5 and 8 and sums are all there is; factors common to two entries are taken once.
``times_plus(4, x, y)`` is 4 x + y.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from ...kernels.numba.compiler import device_function
from ...kernels.numba.simd import fma, lanes_of, load, spread, store, times, times_plus

G = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)


@functools.cache
def matrix_of(dtype: Any) -> Any:
    """G in a dtype."""
    return G.astype(dtype)


# ------------------------------------------------------------------- of one column, or of one row


@device_function
def _data(d0, d1, d2, d3, d4, d5):
    """Bᵀ d, for a column d of six.

    The rows 1 and 2 of Bᵀ differ in the signs of odd entries alone, and so do 3 and 4: each pair is
    the even part a plus and minus the odd part b, and c plus and minus 2 e.
    """
    a, b = times_plus(-4, d2, d4), times_plus(-4, d1, d3)
    c, e = d4 - d2, d3 - d1
    return (
        times_plus(4, d0, times_plus(-5, d2, d4)),  # 4 d0 - 5 d2 + d4
        a + b,  # -4 d1 - 4 d2 + d3 + d4
        a - b,  # 4 d1 - 4 d2 - d3 + d4
        times_plus(2, e, c),  # -2 d1 - d2 + 2 d3 + d4
        times_plus(-2, e, c),  # 2 d1 - d2 - 2 d3 + d4
        times_plus(4, d1, times_plus(-5, d3, d5)),  # 4 d1 - 5 d3 + d5
    )


@device_function
def _output(m0, m1, m2, m3, m4, m5):
    """Aᵀ m, for a column m of six."""
    a, b, c, e = m1 + m2, m1 - m2, m3 + m4, m3 - m4
    # m0 + m1 + m2 + m3 + m4;  m1 - m2 + 2 (m3 - m4);  m1 + m2 + 4 (m3 + m4);
    # m1 - m2 + 8 (m3 - m4) + m5
    return m0 + a + c, times_plus(2, e, b), times_plus(4, c, a), times_plus(8, e, b) + m5


@device_function
def _gradient(y0, y1, y2, y3):
    """A y, for a column y of four: the rows 1 and 2 of A differ in the signs of y1 and y3 alone,
    and so do the rows 3 and 4."""
    a, b = y0 + y2, y1 + y3
    c, e = times_plus(4, y2, y0), times_plus(8, y3, times(2, y1))  # y0 + 4 y2;  2 y1 + 8 y3
    return y0, a + b, a - b, c + e, c - e, y3


@device_function
def _weight(matrix, r, g0, g1, g2):
    """Row r of G g, for a column g of three; ``matrix`` is G, flat."""
    v = spread(matrix, 3 * r) * g0
    return fma(spread(matrix, 3 * r + 2), g2, fma(spread(matrix, 3 * r + 1), g1, v))


@device_function
def _weight_gradient(s0, s1, s2, s3, s4, s5, matrix):
    """Gᵀ s, for a column s of six.

    Entry 0 is s0/4 - (s1 + s2)/6 + (s3 + s4)/24, entry 1 is (s2 - s1)/6 + (s3 - s4)/12, entry 2 is
    -(s1 + s2)/6 + (s3 + s4)/6 + s5.
    """
    quarter, sixth, small = (
        spread(matrix, 0),
        spread(matrix, 7),
        spread(matrix, 9),
    )  # 1/4, 1/6, 1/24
    a, b = (s1 + s2) * sixth, (s2 - s1) * sixth
    c, e = (s3 + s4) * small, (s3 - s4) * small
    return fma(s0, quarter, c - a), times_plus(2, e, b), times_plus(4, c, s5) - a


# -------------------------------------------------------------------------------- of a whole tile


@device_function
def _load_data(x, at, step):
    """Bᵀ of the six vectors at x[at], x[at + step], ..."""
    return _data(
        load(x, at),
        load(x, at + step),
        load(x, at + 2 * step),
        load(x, at + 3 * step),
        load(x, at + 4 * step),
        load(x, at + 5 * step),
    )


@device_function
def _load_gradient(x, at, step):
    """A of the four vectors at x[at], x[at + step], ..."""
    return _gradient(
        load(x, at), load(x, at + step), load(x, at + 2 * step), load(x, at + 3 * step)
    )


@device_function
def _load_output(m, at, step):
    """Aᵀ of the six vectors at m[at], m[at + step], ..."""
    return _output(
        load(m, at),
        load(m, at + step),
        load(m, at + 2 * step),
        load(m, at + 3 * step),
        load(m, at + 4 * step),
        load(m, at + 5 * step),
    )


@device_function
def _store_planes(u, to, plane, v):
    """Six planes, one after another."""
    store(u, to, v[0])
    store(u, to + plane, v[1])
    store(u, to + 2 * plane, v[2])
    store(u, to + 3 * plane, v[3])
    store(u, to + 4 * plane, v[4])
    store(u, to + 5 * plane, v[5])


@device_function
def _store_pixels(y, to, pixel, count, v):
    """The first ``count`` of four pixels of a row."""
    store(y, to, v[0])
    if count > 1:
        store(y, to + pixel, v[1])
    if count > 2:
        store(y, to + 2 * pixel, v[2])
    if count > 3:
        store(y, to + 3 * pixel, v[3])


@device_function
def data_tile(x, at, row, pixel, u, to, plane):
    """u = Bᵀ d B of the 6x6 pixels d at x[at], whose neighbours are ``row`` and ``pixel`` entries
    apart."""
    # Bᵀ of the six columns of d: a has the entries (0, 0) to (5, 0), b those of column 1, ...
    a, b = _load_data(x, at, row), _load_data(x, at + pixel, row)
    c, d = _load_data(x, at + 2 * pixel, row), _load_data(x, at + 3 * pixel, row)
    e, f = _load_data(x, at + 4 * pixel, row), _load_data(x, at + 5 * pixel, row)
    # Bᵀ of the six rows of that: planes 0 to 5, 6 to 11, ...
    _store_planes(u, to, plane, _data(a[0], b[0], c[0], d[0], e[0], f[0]))
    _store_planes(u, to + 6 * plane, plane, _data(a[1], b[1], c[1], d[1], e[1], f[1]))
    _store_planes(u, to + 12 * plane, plane, _data(a[2], b[2], c[2], d[2], e[2], f[2]))
    _store_planes(u, to + 18 * plane, plane, _data(a[3], b[3], c[3], d[3], e[3], f[3]))
    _store_planes(u, to + 24 * plane, plane, _data(a[4], b[4], c[4], d[4], e[4], f[4]))
    _store_planes(u, to + 30 * plane, plane, _data(a[5], b[5], c[5], d[5], e[5], f[5]))


@device_function
def gradient_tile(x, at, row, pixel, z, to, plane):
    """z = A d Aᵀ of the 4x4 pixels d of gy at x[at]: 36 planes, as those of the inputs."""
    a, b = _load_gradient(x, at, row), _load_gradient(x, at + pixel, row)
    c, d = _load_gradient(x, at + 2 * pixel, row), _load_gradient(x, at + 3 * pixel, row)
    _store_planes(z, to, plane, _gradient(a[0], b[0], c[0], d[0]))
    _store_planes(z, to + 6 * plane, plane, _gradient(a[1], b[1], c[1], d[1]))
    _store_planes(z, to + 12 * plane, plane, _gradient(a[2], b[2], c[2], d[2]))
    _store_planes(z, to + 18 * plane, plane, _gradient(a[3], b[3], c[3], d[3]))
    _store_planes(z, to + 24 * plane, plane, _gradient(a[4], b[4], c[4], d[4]))
    _store_planes(z, to + 30 * plane, plane, _gradient(a[5], b[5], c[5], d[5]))


@device_function
def output_tile(m, at, plane, y, to, row, pixel, rows, columns):
    """y = Aᵀ m A: as many rows and columns of the 4x4 pixels as the image has."""
    down = 6 * plane  # from an entry (r, s) to (r + 1, s)
    a, b = _load_output(m, at, down), _load_output(m, at + plane, down)
    c, d = _load_output(m, at + 2 * plane, down), _load_output(m, at + 3 * plane, down)
    e, f = _load_output(m, at + 4 * plane, down), _load_output(m, at + 5 * plane, down)
    _store_pixels(y, to, pixel, columns, _output(a[0], b[0], c[0], d[0], e[0], f[0]))
    if rows > 1:
        v = _output(a[1], b[1], c[1], d[1], e[1], f[1])
        _store_pixels(y, to + row, pixel, columns, v)
    if rows > 2:
        v = _output(a[2], b[2], c[2], d[2], e[2], f[2])
        _store_pixels(y, to + 2 * row, pixel, columns, v)
    if rows > 3:
        v = _output(a[3], b[3], c[3], d[3], e[3], f[3])
        _store_pixels(y, to + 3 * row, pixel, columns, v)


@device_function
def weight_planes(g, at, tap, matrix, r, v, to, plane):
    """v = the six planes of row r of G g Gᵀ; tap t of g is at g[at + t * tap]."""
    # row r of G g: three entries, one for each column (taps 0, 3, 6; 1, 4, 7; 2, 5, 8) of g
    a = _weight(matrix, r, load(g, at), load(g, at + 3 * tap), load(g, at + 6 * tap))
    b = _weight(matrix, r, load(g, at + tap), load(g, at + 4 * tap), load(g, at + 7 * tap))
    c = _weight(matrix, r, load(g, at + 2 * tap), load(g, at + 5 * tap), load(g, at + 8 * tap))
    for s in range(6):  # times Gᵀ: G times that row
        store(v, to + s * plane, _weight(matrix, s, a, b, c))


@device_function
def _load_sums(sums, at, step, part, parts, matrix):
    """Gᵀ of six vectors, each summed over the parts."""
    return _weight_gradient(
        _sum(sums, at, part, parts),
        _sum(sums, at + step, part, parts),
        _sum(sums, at + 2 * step, part, parts),
        _sum(sums, at + 3 * step, part, parts),
        _sum(sums, at + 4 * step, part, parts),
        _sum(sums, at + 5 * step, part, parts),
        matrix,
    )


@device_function
def _sum(sums, at, part, parts):
    """The vector at sums[at] plus those of the other parts, ``part`` entries apart, in order."""
    total = load(sums, at)
    for index in range(1, parts):
        total = total + load(sums, at + index * part)
    return total


@device_function
def _store_taps(taps, to, step, v):
    """Three taps, one after another."""
    store(taps, to, v[0])
    store(taps, to + step, v[1])
    store(taps, to + 2 * step, v[2])


@device_function
def weight_gradient(sums, at, plane, part, parts, matrix, taps):
    """taps (9, lanes) = Gᵀ s G, of the planes s that are the sum of some parts."""
    lanes, down = lanes_of(sums), 6 * plane
    # Gᵀ of the six columns of s ...
    a = _load_sums(sums, at, down, part, parts, matrix)
    b = _load_sums(sums, at + plane, down, part, parts, matrix)
    c = _load_sums(sums, at + 2 * plane, down, part, parts, matrix)
    d = _load_sums(sums, at + 3 * plane, down, part, parts, matrix)
    e = _load_sums(sums, at + 4 * plane, down, part, parts, matrix)
    f = _load_sums(sums, at + 5 * plane, down, part, parts, matrix)
    # ... and of the three rows of that: taps 0 to 2, 3 to 5, 6 to 8
    _store_taps(taps, 0, lanes, _weight_gradient(a[0], b[0], c[0], d[0], e[0], f[0], matrix))
    v = _weight_gradient(a[1], b[1], c[1], d[1], e[1], f[1], matrix)
    _store_taps(taps, 3 * lanes, lanes, v)
    v = _weight_gradient(a[2], b[2], c[2], d[2], e[2], f[2], matrix)
    _store_taps(taps, 6 * lanes, lanes, v)
