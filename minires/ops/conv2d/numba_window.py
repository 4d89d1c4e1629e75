"""Blocks and windows of a convolution, as kernels find them in its plan (:mod:`.numba_plan`).

A block is some whole images, or a band of rows of one image. Its window is the source pixels that
its positions need, with zeros where taps fall outside the image::

    source (5, 6), padding 1               window of the first two rows of a 3x3 kernel

                                            0  0  0  0  0  0  0  0
      a  b  c  d  e  f                      0  a  b  c  d  e  f  0
      g  h  i  j  k  l                      0  g  h  i  j  k  l  0
      m  n  o  p  q  r                      0  m  n  o  p  q  r  0
      s  t  u  v  w  x
      y  z  ...
"""

from __future__ import annotations

from ...kernels.numba.compiler import device_function
from ...kernels.numba.prologue import clear, read_apart


@device_function
def extent(plan, block):
    """The first image of a block, how many it has, its first row of positions, how many."""
    image_block, band = block // plan.bands, block % plan.bands
    # block k of n takes from k * size // n to (k + 1) * size // n: sizes differ by one at most
    image = image_block * plan.images // plan.image_blocks
    row = band * plan.rows // plan.bands
    images = (image_block + 1) * plan.images // plan.image_blocks - image
    return image, images, row, (band + 1) * plan.rows // plan.bands - row


@device_function
def window_begin(plan, image, row):
    """Where the window of a block begins in the source, for windows inside the source."""
    pixel = (image * plan.height + row * plan.step_h + plan.top) * plan.width + plan.left
    return pixel * plan.channels


@device_function
def source_pixel(plan, phase, i, positions, images, row):
    """Row and column of the source at which position ``i`` of a block's phase stands: the pixel
    under a tap whose offsets are 0."""
    columns = phase.columns
    line = i // columns % (positions // (images * columns))  # row of positions within the image
    return (row + line) * plan.step_h, i % columns * plan.step_w


@device_function
def all_inside(plan, phase, h, w):
    """Whether all taps of a phase lie in the image, seen from row ``h`` and column ``w``."""
    rows, columns = phase.tap_rows, phase.tap_columns
    if rows * columns == 0:
        return True
    # offsets ascend: the first and the last tap of each axis are the outermost
    high = h + phase.down[0] >= 0 and h + phase.down[rows - 1] < plan.height
    return high and w + phase.across[0] >= 0 and w + phase.across[columns - 1] < plan.width


@device_function
def inside(plan, phase, h, w, a, b):
    """Whether the tap in row ``a`` and column ``b`` of a phase lies in the image."""
    down, across = h + phase.down[a], w + phase.across[b]
    return 0 <= down < plan.height and 0 <= across < plan.width


@device_function
def place_of_tap(phase, a, b):
    """How many entries behind the start of a position, in the window, the tap in row ``a`` and
    column ``b`` lies."""
    return phase.down_at[a] + phase.across_at[b]


@device_function
def finite(x, at, size):
    """Whether x[at : at + size] is free of NaN and infinity."""
    spoiled = 0
    for i in range(at, at + size):
        spoiled += x[i] - x[i] != 0  # inf - inf and NaN - NaN are NaN, which equals nothing
    return spoiled == 0


@device_function
def fill_window(x, x2, k, kind, plan, image, images, row, rows, window):
    """window (images, lines, columns, c) = the source pixels of a block, a piece of a row at a
    time; the prologue (x2, k, kind) is applied on the way."""
    height, width, c = plan.height, plan.width, plan.channels
    first = row * plan.step_h + plan.top  # source row of the window's first line
    lines = (rows - 1) * plan.window_step + plan.span
    columns, left = plan.window_columns, plan.left
    if plan.joined:  # a window as wide as the image is one long row
        lines, columns, left = 1, lines * width, first * width
        height, width, first = 1, height * width, 0

    # Pixels that lie apart are read in one go where none of them is outside the image. There is one
    # call of read_apart, which is long: each takes half a second to compile.
    apart = plan.pitch_w
    whole = apart > 1 and left >= 0 and left + (columns - 1) * apart < width
    piece, step = (columns, apart) if whole else (plan.piece, 1)
    for i in range(images):
        for line in range(lines):
            h = first + line * plan.pitch_h
            for done in range(0, columns, piece):
                # a piece of the row: zeros | source pixels low, low + step, ... high - 1 | zeros
                to = i * plan.window_image + line * plan.window_row + done * c
                count, begin = min(piece, columns - done), left + done * apart
                low, high = max(begin, 0), min(begin + (count - 1) * step + 1, width)
                if h < 0 or h >= height or low >= high:
                    clear(window, to, count * c)
                    continue
                pixels = (high - low + step - 1) // step
                clear(window, to, (low - begin) * c)
                at = (((image + i) * height + h) * width + low) * c
                to += (low - begin) * c
                read_apart(x, x2, k, kind, c, at, step * c, pixels, window, to)
                clear(window, to + pixels * c, (count - (low - begin) - pixels) * c)
