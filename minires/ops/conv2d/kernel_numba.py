"""Convolution on the CPU: gather the pixels that outputs need, then multiply by the register tile.

Forward and input gradient are one computation. Take a grid of output positions (i, j). Position
(i, j) needs source pixels (i * step + offset[u], j * step + offset[v]) for a grid of taps (u, v):

- forward: source x, step = stride, offset = u * dilation - padding;
- input gradient: source gy. Input pixels whose row is a ≡ r (mod stride) form one *phase*: they
  meet the same taps, those with u * dilation ≡ r + padding, at gy rows
  a + (r + padding - u * dilation) / stride. Each phase is a grid with step 1.

``_gather_gemm`` copies the pixels of a block of positions into the rows of a small matrix, zeros
where a tap falls outside, and multiplies it with the packed weights. The weight gradient gathers
the same rows and multiplies their transpose with gy, in a fixed number of parts that are summed
in a fixed order, so that the result does not depend on the number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from ...kernels.jit import device_function, kernel
from ...kernels.tile import (
    ROWS,
    copy,
    lanes,
    pack_panels,
    panel_width,
    tile_outer_1,
    tile_outer_2,
    tile_product_1,
    tile_product_2,
)
from .op import Conv2dGeometry

BLOCK = 2**15  # entries of a gathered block: large enough to reuse weights, small enough for L2
PARTS = 16  # of a weight gradient, fewer where each would be large:
PARTS_SIZE = 2**21  # entries of all parts together


@device_function
def _gather(source, off_h, off_w, first, count, grid, step, low, high, rows, depth):  # type: ignore[no-untyped-def]
    """Row p - low of the flat matrix ``rows`` = the taps of position p, for low <= p < high.

    Of each source pixel, ``count`` channels from ``first`` on. Taps side by side that take all
    channels are side by side in memory too, and are copied in one go.
    """
    height, width, channels = source.shape[1], source.shape[2], source.shape[3]
    flat = source.reshape(-1)
    taps = off_w.size
    joined = count == channels and (taps == 1 or off_w[1] == off_w[0] + 1)
    image, pixel = divmod(low, grid[0] * grid[1])
    i, j = divmod(pixel, grid[1])
    for position in range(low, high):
        at = (position - low) * depth
        for u in range(off_h.size):
            h = i * step[0] + off_h[u]
            start = (image * height + h) * width  # of the source row, in pixels
            left = right = 0  # the taps from left to right lie inside the image
            if joined and 0 <= h < height:
                w = j * step[1] + off_w[0]
                left = min(max(-w, 0), taps)
                right = max(min(width - w, taps), left)
                copy(
                    rows, at + left * count, flat, (start + w + left) * channels,
                    (right - left) * count,
                )  # fmt: skip
            if right - left < taps:
                for v in range(taps):
                    w = j * step[1] + off_w[v]
                    if not (0 <= h < height and 0 <= w < width):
                        for c in range(count):
                            rows[at + v * count + c] = 0
                    elif not joined:
                        copy(rows, at + v * count, flat, (start + w) * channels + first, count)
            at += taps * count
        j += 1
        if j == grid[1]:
            i, j = i + 1, 0
            if i == grid[0]:
                image, i = image + 1, 0


@kernel
def _gather_gemm(source, off_h, off_w, panels, vectors, bias, y, grid, step, start, stride, block):  # type: ignore[no-untyped-def]
    """y[n, start + (i, j) * stride] = gathered source @ panels + bias, for (i, j) in the grid."""
    groups, count, depth, width = panels.shape
    c_source, c_y = source.shape[3] // groups, y.shape[3] // groups
    positions = source.shape[0] * grid[0] * grid[1]
    weights = panels.reshape(-1)
    for task in prange((positions + block - 1) // block):
        low = task * block
        high = min(low + block, positions)
        rows = np.empty(block * depth, y.dtype)
        tile = np.empty(ROWS * width, y.dtype)
        for group in range(groups):
            _gather(
                source, off_h, off_w, group * c_source, c_source, grid, step, low, high, rows, depth
            )
            for panel in range(count):
                b_at = (group * count + panel) * depth * width
                columns = min(width, c_y - panel * width)
                channel = group * c_y + panel * width
                image, pixel = divmod(low, grid[0] * grid[1])
                i, j = divmod(pixel, grid[1])
                for top in range(low, high, ROWS):
                    a_at = (top - low) * depth
                    if vectors == 1:
                        tile_product_1(rows, a_at, depth, weights, b_at, tile, 0, width, depth)
                    else:
                        tile_product_2(rows, a_at, depth, weights, b_at, tile, 0, width, depth)
                    for r in range(min(ROWS, high - top)):
                        h, w = start[0] + i * stride[0], start[1] + j * stride[1]
                        for c in range(columns):
                            y[image, h, w, channel + c] = tile[r * width + c] + bias[channel + c]
                        j += 1
                        if j == grid[1]:
                            i, j = i + 1, 0
                            if i == grid[0]:
                                image, i = image + 1, 0


@kernel
def _gather_outer(gy, source, off_h, off_w, vectors, sums, step, block):  # type: ignore[no-untyped-def]
    """sums[part, group] = gathered sourceᵀ @ gy, over the part's share of output positions."""
    parts, groups, count, depth, width = sums.shape
    c_source, c_y = source.shape[3] // groups, gy.shape[3] // groups
    grid = (gy.shape[1], gy.shape[2])
    positions = gy.shape[0] * grid[0] * grid[1]
    flat_gy, flat_sums = gy.reshape(-1), sums.reshape(-1)
    for part in prange(parts):
        rows = np.zeros(block * depth, sums.dtype)
        columns_of_gy = np.zeros(block * width, sums.dtype)
        end = (part + 1) * positions // parts
        for low in range(part * positions // parts, end, block):
            high = min(low + block, end)
            for group in range(groups):
                _gather(
                    source, off_h, off_w, group * c_source, c_source, grid, step, low, high, rows,
                    depth,
                )  # fmt: skip
                for panel in range(count):
                    columns = min(width, c_y - panel * width)
                    for position in range(low, high):
                        gy_at = position * gy.shape[3] + group * c_y + panel * width
                        for c in range(columns):
                            columns_of_gy[(position - low) * width + c] = flat_gy[gy_at + c]
                    at = ((part * groups + group) * count + panel) * depth * width
                    for k in range(0, depth, ROWS):
                        if vectors == 1:
                            tile_outer_1(
                                rows, k, depth, columns_of_gy, 0, flat_sums, at + k * width, width,
                                high - low,
                            )  # fmt: skip
                        else:
                            tile_outer_2(
                                rows, k, depth, columns_of_gy, 0, flat_sums, at + k * width, width,
                                high - low,
                            )  # fmt: skip


def _vectors(width: int, dtype: Any) -> int:
    return width // lanes(dtype)


def _block(depth: int, least: int) -> int:
    """Positions in a block whose rows have ``depth`` entries: a multiple of ROWS, and at least
    ``least`` times ROWS, because each block passes over all the weights (or their sums)."""
    return ROWS * min(max(BLOCK // (ROWS * depth), least), 32)


def _forward_offsets(g: Conv2dGeometry) -> tuple[Any, Any]:
    return (
        np.arange(g.k_h) * g.dilation[0] - g.padding[0],
        np.arange(g.k_w) * g.dilation[1] - g.padding[1],
    )


def conv2d_fwd(x: Any, w: Any, b: Any, y: Any, g: Conv2dGeometry) -> None:
    """Fill y (n, h_out, w_out, c_out)."""
    if y.size == 0:
        return
    depth = g.k_h * g.k_w * (g.c_in // g.groups)
    by_group = w.reshape(g.groups, g.c_out // g.groups, g.c_in // g.groups, g.k_h, g.k_w)
    panels = pack_panels(by_group.transpose(0, 3, 4, 2, 1).reshape(g.groups, depth, -1))
    bias = np.zeros(g.c_out, y.dtype) if b is None else np.ascontiguousarray(b)
    _gather_gemm(
        x, *_forward_offsets(g), panels, _vectors(panels.shape[3], y.dtype), bias, y,
        (g.h_out, g.w_out), g.stride, (0, 0), (1, 1), _block(depth, 4),
    )  # fmt: skip


def _phases(size: int, k: int, stride: int, padding: int, dilation: int) -> Any:
    """For each residue r mod stride: how many input pixels have it, its taps, and their offsets.

    The taps are in the order of ascending offset.
    """
    for r in range(min(stride, size)):
        taps = [u for u in range(k - 1, -1, -1) if (r + padding - u * dilation) % stride == 0]
        offsets = [(r + padding - u * dilation) // stride for u in taps]
        yield r, (size - r + stride - 1) // stride, taps, np.array(offsets, np.int64)


def conv2d_bwd_input(gy: Any, w: Any, gx: Any, g: Conv2dGeometry) -> None:
    """Fill gx (n, h_in, w_in, c_in)."""
    if gx.size == 0:
        return
    by_group = w.reshape(g.groups, g.c_out // g.groups, g.c_in // g.groups, g.k_h, g.k_w)
    taps_first = by_group.transpose(3, 4, 0, 1, 2)  # (k_h, k_w, groups, c_out / g, c_in / g)
    bias = np.zeros(g.c_in, gx.dtype)
    (s_h, s_w), (p_h, p_w), (d_h, d_w) = g.stride, g.padding, g.dilation
    for r_h, n_h, taps_h, off_h in _phases(g.h_in, g.k_h, s_h, p_h, d_h):
        for r_w, n_w, taps_w, off_w in _phases(g.w_in, g.k_w, s_w, p_w, d_w):
            if not taps_h or not taps_w:
                gx[:, r_h::s_h, r_w::s_w] = 0  # the kernel steps over these pixels
                continue
            chosen = taps_first[np.ix_(taps_h, taps_w)].transpose(2, 0, 1, 3, 4)
            depth = len(taps_h) * len(taps_w) * (g.c_out // g.groups)
            panels = pack_panels(chosen.reshape(g.groups, depth, -1))
            _gather_gemm(
                gy, off_h, off_w, panels, _vectors(panels.shape[3], gx.dtype), bias, gx,
                (n_h, n_w), (1, 1), (r_h, r_w), g.stride, _block(depth, 4),
            )  # fmt: skip


def conv2d_bwd_weight(gy: Any, x: Any, gw: Any, g: Conv2dGeometry) -> None:
    """Fill gw (c_out, c_in / groups, k_h, k_w)."""
    if gy.size == 0:
        gw[...] = 0
        return
    c_out = g.c_out // g.groups
    depth = g.k_h * g.k_w * (g.c_in // g.groups)
    padded = -(-depth // ROWS) * ROWS
    width = panel_width(c_out, gw.dtype)
    count = -(-c_out // width)
    parts = min(max(PARTS_SIZE // (g.groups * padded * count * width), 4), PARTS)
    sums = np.zeros((parts, g.groups, count, padded, width), gw.dtype)
    _gather_outer(
        gy, x, *_forward_offsets(g), _vectors(width, gw.dtype), sums, g.stride, _block(padded, 16)
    )
    total = sums.sum(axis=0).transpose(0, 2, 1, 3)  # (groups, depth, panels, width)
    total = total.reshape(g.groups, padded, -1)[:, :depth, :c_out]
    taps = total.reshape(g.groups, g.k_h, g.k_w, -1, c_out).transpose(0, 4, 3, 1, 2)
    gw[...] = taps.reshape(gw.shape)
