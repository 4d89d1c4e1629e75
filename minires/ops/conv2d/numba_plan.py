"""The plan of a convolution on the CPU: which blocks it is cut into, and where everything lies.

Forward and input gradient are one computation. Take a grid of *positions* (i, j). Position (i, j)
needs source pixels (i * step + offset[u], j * step + offset[v]) for a grid of taps (u, v):

- forward: source x, step = stride, offset = u * dilation - padding;
- input gradient: source gy. Input pixels whose row is a = r (mod stride) form one *phase*: they
  meet the same taps, those with u * dilation = r + padding (mod stride), at gy rows
  i + (r + padding - u * dilation) / stride, where i = a // stride. Each phase is a grid with
  step 1, whose results lie stride pixels apart. Pixels that no tap reaches form phases without
  taps, and get the empty sum.

A *block* is some whole images, or a band of rows of one image. Its source pixels are its *window*:
a copy in scratch memory with zeros where taps fall outside the image, or the source itself where
none does. The plan tells for every position of a block where its pixels begin in the window
(``starts``), how to get from there to the pixels under each kernel row or tap (``offsets``), and
where its result goes (``ends``): flat tables, in entries, the same for all blocks.

Zeros in the window are multiplied like all other entries, for a loop without conditions is fast.
That adds nothing, unless the other factor is NaN or infinite. Then results are computed again from
the taps inside the image alone (``RIMMED``, ``REACH``, :func:`inside`).

Plans depend on sizes only, and are kept.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...kernels.numba.allocator import LINE
from ...kernels.numba.compiler import device_function
from ...kernels.numba.cpu import lanes
from ...kernels.numba.prologue import clear, read_apart
from ...kernels.numba.tile import ROWS
from .op import Conv2dGeometry

# Where in the table each size of the plan stands.
(
    IMAGES, IMAGE_BLOCKS, ROW_COUNT, BANDS,  # the cut: images in IMAGE_BLOCKS, rows in BANDS
    HEIGHT, WIDTH, CHANNELS,  # the source
    TOP, LEFT,  # where the window of position (0, 0) begins, in source pixels
    STEP,  # source rows from one row of positions to the next
    PITCH_H, PITCH_W,  # source pixels from one row or column of the window to the next
    COLUMNS, WINDOW_STEP, SPAN,  # a window for r rows: (r - 1) * WINDOW_STEP + SPAN rows
    PIECE, JOINED,  # pixels copied at a time; whether the window's rows join without a gap
    ROW_SIZE, IMAGE_SIZE,  # entries from one row and one image of the window to the next
    Y_IMAGE, Y_ROW, Y_PIXEL,  # entries from one image, row of positions and pixel of the result on
    GROUPS, GROUP, Y_GROUP,  # groups; channels of one, in the source and in the result
    TAPS, TILE, PHASES, FIRST_PHASE,  # all taps; the ends of a tile; the phases, where they begin
    RIMMED, STEP_W,  # whether some taps fall outside the source; STEP, for columns
) = range(31)  # fmt: skip
# Of each phase: its positions, the sums of products that each is, and where its tables begin; the
# rows and columns of taps, and where REACH begins: of each row of taps how far it lies from the
# position in the source, and where in the window; then of each column the same.
(
    P_ROWS, P_COLUMNS, SEGMENTS, RUN, FIRST_TAP, STARTS, ENDS, OFFSETS,
    TAP_ROWS, TAP_COLUMNS, REACH, PHASE_SIZE,
) = range(12)  # fmt: skip

# Bytes that a block may take in a core's second-level cache, beside the sums of a weight gradient.
L2 = {"forward": 7 << 18, "input": 7 << 18, "weight": 3 << 18}
PIECE_SIZE = 2048  # entries that are read at a time where there is something to compute on the way
TILE_ROW = 32  # entries from one row of a tile outside of the result to the next
SHARES = 4  # blocks should come in multiples of that, to occupy the cores evenly
POSITIONS = 4096  # at most so many positions in a block: their tables must not crowd the cache


@dataclass(frozen=True)
class Phase:
    """The rows (or columns) that meet the same taps; see the top of this file."""

    start: int  # the first pixel of the result
    count: int  # positions
    taps: tuple[int, ...]
    offsets: tuple[int, ...]  # ascending


@dataclass(frozen=True)
class Axis:
    """The rows (or columns) of a convolution."""

    step: int  # source pixels between two positions
    stride: int  # pixels of the result between two positions
    phases: tuple[Phase, ...]

    @property
    def low(self) -> int:
        return min((o for phase in self.phases for o in phase.offsets), default=0)

    @property
    def span(self) -> int:
        offsets = [o for phase in self.phases for o in phase.offsets]
        return max(offsets) - min(offsets) + 1 if offsets else 1

    @property
    def count(self) -> int:
        return max(phase.count for phase in self.phases)


def forward_axis(count: int, k: int, stride: int, padding: int, dilation: int) -> Axis:
    offsets = tuple(u * dilation - padding for u in range(k))
    return Axis(stride, 1, (Phase(0, count, tuple(range(k)), offsets),))


def backward_axis(size: int, k: int, stride: int, padding: int, dilation: int) -> Axis:
    phases = []
    for r in range(min(stride, size)):
        taps = [u for u in range(k - 1, -1, -1) if (r + padding - u * dilation) % stride == 0]
        offsets = [(r + padding - u * dilation) // stride for u in taps]
        phases.append(Phase(r, -(-(size - r) // stride), tuple(taps), tuple(offsets)))
    return Axis(1, stride, tuple(phases))


@dataclass(frozen=True)
class Plan:
    """Everything about a convolution that follows from its sizes.

    Attributes:
        table: the sizes, phases and tables that kernels read.
        blocks: how many there are.
        in_place: whether the window is the source itself.
        window: entries of a window.
        taps: the kernel taps u * k_w + v in the order in which phases use them, then the others.
        pixels: positions of each block, for one phase, as the forward pass has.
    """

    table: np.ndarray[Any, Any]
    blocks: int
    in_place: bool
    window: int
    taps: np.ndarray[Any, Any]
    pixels: np.ndarray[Any, Any]


def flat(g: Conv2dGeometry) -> Conv2dGeometry:
    """A convolution of single pixels as one of a single column with all pixels of the batch."""
    if (g.k_h, g.k_w, g.stride, g.padding) != (1, 1, (1, 1), (0, 0)):
        return g
    pixels = g.n * g.h_in * g.w_in
    sizes = {"n": 1, "h_in": pixels, "w_in": 1, "h_out": pixels, "w_out": 1}
    return Conv2dGeometry(**{**g.__dict__, **sizes})


@functools.lru_cache(maxsize=512)
def plan(g: Conv2dGeometry, role: str, plain: bool, itemsize: int) -> Plan:
    """The plan for a role, "forward", "input" or "weight" (gradient).

    ``plain``: the source is an array to be read as it is. A weight gradient's positions and
    windows are the forward pass's, but it wants larger blocks.
    """
    g = flat(g)
    if role == "input":
        h = backward_axis(g.h_in, g.k_h, g.stride[0], g.padding[0], g.dilation[0])
        w = backward_axis(g.w_in, g.k_w, g.stride[1], g.padding[1], g.dilation[1])
        source, result = (g.h_out, g.w_out, g.c_out), (g.h_in, g.w_in, g.c_in)
    else:
        h = forward_axis(g.h_out, g.k_h, g.stride[0], g.padding[0], g.dilation[0])
        w = forward_axis(g.w_out, g.k_w, g.stride[1], g.padding[1], g.dilation[1])
        source, result = (g.h_in, g.w_in, g.c_in), (g.h_out, g.w_out, g.c_out)
    height, width, c = source

    inside_source = all(
        axis.low >= 0 and (axis.count - 1) * axis.step + axis.low + axis.span <= size
        for axis, size in ((h, height), (w, width))
    )
    in_place = plain and inside_source
    # Where the taps of an axis are one pixel wide, the window leaves out what lies between.
    pitch_h, pitch_w = (1 if in_place or a.span > 1 else a.step for a in (h, w))
    step_h, step_w = h.step // pitch_h, w.step // pitch_w
    columns = (w.count - 1) * step_w + w.span
    row_size = (width if in_place else columns) * c
    if columns == 1 and not in_place and row_size * itemsize % 1024 == 0:
        row_size += 64 // itemsize  # or the pixels of many rows fight for the same cache lines

    image_blocks, bands = _cut(g, role, h, w, step_h, row_size, in_place, itemsize)
    images, rows = -(-g.n // image_blocks), -(-h.count // bands)
    image_size = (height if in_place else (rows - 1) * step_h + h.span) * row_size
    joined = (row_size, pitch_h, pitch_w, w.low) == (width * c, 1, 1, 0) and not in_place

    sizes = np.zeros(STEP_W + 1, np.int64)
    phases: list[Any] = []
    tables: list[np.ndarray[Any, Any]] = []
    taps: list[int] = []
    grid = [(a, b) for a in h.phases for b in w.phases]
    tile = np.arange(ROWS) * TILE_ROW
    at = sizes.size + len(grid) * PHASE_SIZE + ROWS
    for a, b in grid:
        starts = _positions(
            images, min(rows, a.count), b.count, image_size, step_h * row_size, step_w * c
        )
        ends = _positions(
            images, min(rows, a.count), b.count, result[0] * result[1] * result[2],
            h.stride * result[1] * result[2], w.stride * result[2],
        ) + (a.start * result[1] + b.start) * result[2]  # fmt: skip
        offsets, run = _segments(a, b, h.low, w.low, row_size, c, g.groups)
        reach = np.concatenate([_reach(a, h.low, row_size), _reach(b, w.low, c)])
        places = np.cumsum([at, starts.size, ends.size, offsets.size])
        phases += [a.count, b.count, offsets.size, run, len(taps), *places[:3]]
        phases += [len(a.taps), len(b.taps), places[3]]
        tables += [starts, ends, offsets, reach]
        at = places[3] + reach.size
        taps += [u * g.k_w + v for u in a.taps for v in b.taps]

    taps += sorted(set(range(g.k_h * g.k_w)) - set(taps))  # a result smaller than the stride

    sizes[IMAGES], sizes[IMAGE_BLOCKS] = g.n, image_blocks
    sizes[ROW_COUNT], sizes[BANDS] = h.count, bands
    sizes[HEIGHT], sizes[WIDTH], sizes[CHANNELS] = source
    sizes[TOP], sizes[LEFT], sizes[STEP] = h.low, w.low, h.step
    sizes[PITCH_H], sizes[PITCH_W], sizes[COLUMNS] = pitch_h, pitch_w, columns
    sizes[WINDOW_STEP], sizes[SPAN], sizes[JOINED] = step_h, h.span, joined
    piece = row_size * ((rows - 1) * step_h + h.span) if plain else PIECE_SIZE
    sizes[PIECE] = 1 if pitch_w > 1 else max(1, piece // c)
    sizes[ROW_SIZE], sizes[IMAGE_SIZE] = row_size, image_size
    sizes[Y_IMAGE] = result[0] * result[1] * result[2]
    sizes[Y_ROW], sizes[Y_PIXEL] = h.stride * result[1] * result[2], result[2]
    sizes[GROUPS], sizes[GROUP], sizes[Y_GROUP] = g.groups, c // g.groups, result[2] // g.groups
    sizes[TAPS], sizes[TILE] = len(taps), sizes.size + len(phases)
    sizes[PHASES], sizes[FIRST_PHASE] = len(grid), sizes.size
    sizes[RIMMED], sizes[STEP_W] = not inside_source, w.step

    image_counts = np.diff(np.arange(image_blocks + 1) * g.n // image_blocks)
    row_counts = np.diff(np.arange(bands + 1) * h.count // bands)
    return Plan(
        np.concatenate([sizes, phases, tile, *tables]).astype(np.int64),
        image_blocks * bands,
        in_place,
        0 if in_place else _whole_lines(images * image_size, itemsize),
        np.array(taps, np.int64),
        np.multiply.outer(image_counts, row_counts).reshape(-1) * w.count,
    )


def _whole_lines(size: int, itemsize: int) -> int:
    """So many entries or a few more, so that what comes after them begins with a line of the cache
    (see :func:`~minires.kernels.numba.allocator.scratch`)."""
    line = LINE // itemsize
    return -(-size // line) * line


def _positions(images: int, rows: int, columns: int, *steps: int) -> np.ndarray[Any, Any]:
    """Where each position of a block lies; the last is repeated if they do not fill a tile."""
    image, row, column = (np.arange(n) * step for n, step in zip((images, rows, columns), steps))
    places = (image[:, None, None] + row[:, None] + column).reshape(-1)
    return np.pad(places, (0, max(ROWS - places.size, 0)), mode="edge")


def _segments(
    a: Phase, b: Phase, top: int, left: int, row_size: int, c: int, groups: int
) -> tuple[np.ndarray[Any, Any], int]:
    """Where the products of a position lie in the window, and how many are side by side."""
    rows = (np.array(a.offsets, np.int64) - top) * row_size
    columns = (np.array(b.offsets, np.int64) - left) * c
    if groups == 1 and columns.size and np.all(np.diff(columns) == c):
        return rows + columns[0], columns.size * c
    return np.add.outer(rows, columns).reshape(-1), c // groups


def _reach(phase: Phase, low: int, size: int) -> np.ndarray[Any, Any]:
    """How far the taps of an axis lie from a position, in the source; and in the window, whose
    neighbouring rows (or columns) are ``size`` entries apart."""
    offsets = np.array(phase.offsets, np.int64)
    return np.concatenate([offsets, (offsets - low) * size])


def _cut(
    g: Conv2dGeometry, role: str, h: Axis, w: Axis, step: int, row_size: int, in_place: bool,
    itemsize: int,
) -> tuple[int, int]:  # fmt: skip
    """Into how many blocks to cut the images, and into how many bands the rows of an image.

    Of the cuts whose blocks (window, result, a panel of weights) fit the cache it takes the one
    that a rough count of clock cycles likes best: multiplications (in whole tiles), filling
    windows, going through the weights once for each block; and all of it spread evenly over SHARES
    cores, unless they share out panels.
    """
    c, c_result = (g.c_out, g.c_in) if role == "input" else (g.c_in, g.c_out)
    lanes = 64 // itemsize
    depth = g.k_h * g.k_w * c // g.groups  # of a sum of products
    panels = -(-c_result // (2 * lanes)) if g.groups == 1 else 1
    columns = min(phase.count for phase in w.phases)
    spare = len({phase.count for phase in h.phases}) - 1  # some phases have a row less
    sparse = in_place and h.span == w.span == 1  # pixels between those read are not touched

    def window(images: int, rows: int) -> int:
        if sparse:
            return images * rows * w.count * c
        return images * ((rows - 1) * step + h.span) * row_size

    def fits(images: int, rows: int) -> bool:
        result = images * rows * len(h.phases) * w.count * len(w.phases) * c_result
        panel = depth * min(c_result, 2 * lanes)
        return (window(images, rows) + result + panel) * itemsize <= L2[role]

    def cost(option: tuple[int, int]) -> float:
        image_blocks, bands = option
        images, rows = -(-g.n // image_blocks), -(-h.count // bands)
        least = (g.n // image_blocks) * (h.count // bands - spare) * columns
        if option != (1, 1) and least < ROWS:
            return float("inf")
        tiles = -(-images * rows * w.count // ROWS) * ROWS
        cycles = tiles * depth * c_result / (2 * lanes)
        if not in_place:
            cycles += window(images, rows) * itemsize / 16
        weights = depth * c_result * itemsize
        cycles += weights / (64 if weights < L2[role] / 3 else 24) * (3 if role == "weight" else 1)
        blocks = image_blocks * bands
        return cycles * (blocks if panels >= SHARES else -(-blocks // SHARES) * SHARES)

    options = [(k, 1) for k in range(1, g.n + 1) if fits(-(-g.n // k), h.count)]
    if len(options) < 4 * SHARES:
        most = min(h.count, max(POSITIONS // w.count, 1))
        candidates = np.unique(np.linspace(1, most, 256).astype(int))
        rows = [int(k) for k in candidates if fits(1, k)] or [1]
        options += [(g.n, k) for k in {-(-h.count // k) for k in rows}]
    best = min(sorted(options), key=cost)
    choices = best, (g.n, 1), (1, 1)  # where nothing fits, single images are nearest to it
    return next(option for option in choices if cost(option) < float("inf"))


def depthwise(g: Conv2dGeometry) -> bool:
    return g.groups > 1 and g.groups == g.c_in == g.c_out


def panel_width(columns: int, dtype: Any) -> int:
    """How wide the panels for so many columns are."""
    return lanes(dtype) * (1 if columns <= lanes(dtype) else 2)


@device_function
def extent(t, block):
    """The first image of a block, how many it has, its first row of positions, how many."""
    image_block, band = block // t[BANDS], block % t[BANDS]
    image = image_block * t[IMAGES] // t[IMAGE_BLOCKS]
    row = band * t[ROW_COUNT] // t[BANDS]
    images = (image_block + 1) * t[IMAGES] // t[IMAGE_BLOCKS] - image
    return image, images, row, (band + 1) * t[ROW_COUNT] // t[BANDS] - row


@device_function
def window_begin(t, image, row):
    """Where the window of a block begins in the source, for windows inside it."""
    pixel = (image * t[HEIGHT] + row * t[STEP] + t[TOP]) * t[WIDTH] + t[LEFT]
    return pixel * t[CHANNELS]


@device_function
def source_pixel(t, p, i, positions, images, row):
    """Row and column of the source at which position ``i`` of a block's phase stands; with 0 in
    the place of its taps' offsets."""
    columns = t[p + P_COLUMNS]
    line = i // columns % (positions // (images * columns))
    return (row + line) * t[STEP], i % columns * t[STEP_W]


@device_function
def all_inside(t, p, h, w):
    """Whether all taps of a phase lie in the image, seen from row ``h`` and column ``w``."""
    rows, columns = t[p + TAP_ROWS], t[p + TAP_COLUMNS]
    reach = t[p + REACH]
    across = reach + 2 * rows
    if rows * columns == 0:
        return True
    high = h + t[reach] >= 0 and h + t[reach + rows - 1] < t[HEIGHT]
    return high and w + t[across] >= 0 and w + t[across + columns - 1] < t[WIDTH]


@device_function
def inside(t, p, h, w, a, b):
    """Whether the tap in row ``a`` and column ``b`` of a phase lies in the image."""
    down = h + t[t[p + REACH] + a]
    across = w + t[t[p + REACH] + 2 * t[p + TAP_ROWS] + b]
    return 0 <= down < t[HEIGHT] and 0 <= across < t[WIDTH]


@device_function
def place_of_tap(t, p, a, b):
    """How many entries after a position's first one in the window that tap is."""
    rows, columns, reach = t[p + TAP_ROWS], t[p + TAP_COLUMNS], t[p + REACH]
    return t[reach + rows + a] + t[reach + 2 * rows + columns + b]


@device_function
def finite(x, at, size):
    """Whether x[at : at + size] is free of NaN and infinity."""
    spoiled = 0
    for i in range(at, at + size):
        spoiled += x[i] - x[i] != 0
    return spoiled == 0


@device_function
def fill_window(x, x2, k, kind, t, image, images, row, rows, window):
    """Copy the window of a block, a piece of a row at a time."""
    height, width, c = t[HEIGHT], t[WIDTH], t[CHANNELS]
    first = row * t[STEP] + t[TOP]
    lines, columns, left = (rows - 1) * t[WINDOW_STEP] + t[SPAN], t[COLUMNS], t[LEFT]
    if t[JOINED]:  # a window as wide as the image is one long row
        lines, columns, left = 1, lines * width, first * width
        height, width, first = 1, height * width, 0
    # Pixels that lie apart are read in one go where none of them is outside the image. There is one
    # call of read_apart, which is long: each takes half a second to compile.
    apart = t[PITCH_W]
    whole = apart > 1 and left >= 0 and left + (columns - 1) * apart < width
    piece, step = (columns, apart) if whole else (t[PIECE], 1)
    for i in range(images):
        for line in range(lines):
            h = first + line * t[PITCH_H]
            for done in range(0, columns, piece):
                to = i * t[IMAGE_SIZE] + line * t[ROW_SIZE] + done * c
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
