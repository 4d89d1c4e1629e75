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
a copy in the workspace with zeros where taps fall outside the image, or the source itself where
none does. The plan tells for every position of a block where its pixels begin in the window
(``starts``), how to get from there to the pixels under each kernel row or tap (``offsets``), and
where its result goes (``ends``): flat tables, in entries, the same for all blocks.

For a 3x3 kernel on 16 channels, windows of 34 columns::

    starts    position 0: 0     1: 16     2: 32   ...     the pixel under the kernel's first tap
    offsets   0, 34 * 16, 2 * 34 * 16                     from there to the kernel's three rows
    run       3 * 16                                      entries side by side under such a row

What a kernel gets is one array of words, ``Plan.table``: a :class:`PlanStruct`, a
:class:`PhaseStruct` for each phase, and all tables. Kernels read it by name
(:mod:`minires.kernels.numba.struct`).

Zeros in the window are multiplied like all other entries, for a loop without conditions is fast.
That adds nothing, unless the other factor is NaN or infinite. Then results are computed again from
the taps inside the image alone (``RIMMED``, ``REACH``, :func:`.numba_window.inside`).

Plans depend on sizes only, and are kept.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ...kernels.numba.allocator import LINE
from ...kernels.numba.compiler import device_function
from ...kernels.numba.cpu import lanes
from ...kernels.numba.struct import Table, struct
from ...kernels.numba.tile import ROWS
from .op import Conv2dGeometry

# Bytes that a block may take in a core's second-level cache, beside the sums of a weight gradient.
L2 = {"forward": 7 << 18, "input": 7 << 18, "weight": 3 << 18}
PIECE_SIZE = 2048  # entries that are read at a time where there is something to compute on the way
TILE_ROW = 32  # entries from one row of a tile outside of the result to the next
SHARES = 4  # blocks should come in multiples of that, to occupy the cores evenly
POSITIONS = 4096  # at most so many positions in a block: their tables must not crowd the cache


class PlanStruct(NamedTuple):
    """The sizes of a plan, as kernels read them (:mod:`minires.kernels.numba.struct`).

    Lengths are in entries of the arrays, unless pixels are named. "The window" is a block's.
    """

    images: int  # the cut: the images of the batch come in ...
    image_blocks: int
    rows: int  # ... and the rows of positions of an image in ...
    bands: int
    height: int  # the source: (images, height, width, channels)
    width: int
    channels: int
    top: int  # the source pixel where the window of position (0, 0) begins
    left: int
    step_h: int  # source pixels from one row of positions to the next, and from one column
    step_w: int
    pitch_h: int  # source pixels from one row of the window to the next, and from one column
    pitch_w: int
    window_columns: int  # pixels of a row of the window
    window_step: int  # rows of the window from one row of positions to the next, so that r rows ...
    span: int  # ... of positions need (r - 1) * window_step + span rows of the window
    piece: int  # pixels copied at a time
    joined: int  # whether the rows of the window follow each other as in the source
    window_row: int  # from one row of the window to the next, and from one image
    window_image: int
    y_image: int  # from one image of the result to the next, one row of positions, one pixel
    y_row: int
    y_pixel: int
    groups: int
    c_group: int  # channels of a group, in the source and in the result
    y_group: int
    taps: int  # of the kernel
    phases: int
    padded: int  # whether some taps fall outside the source
    tile: Table  # (ROWS,): where each row of a tile outside of the result ends


class PhaseStruct(NamedTuple):
    """The sizes and tables of a phase. P positions of a block, numbered image by image and row by
    row, meet A * B taps. A position is ``segments`` sums of ``run`` products side by side."""

    rows: int  # positions of an image
    columns: int
    segments: int
    run: int
    first_tap: int  # how many taps belong to the phases before
    starts: Table  # (P,): where the source pixels of each position begin in the window
    ends: Table  # (P,): where its result goes
    offsets: Table  # (segments,): from there to the entries of each segment
    tap_rows: int  # A
    tap_columns: int  # B
    down: Table  # (A,): source rows from a position to each row of taps
    down_at: Table  # (A,): the same in the window, in entries
    across: Table  # (B,): source columns from a position to each column of taps
    across_at: Table  # (B,): the same in the window, in entries


PLAN_SIZE, PHASE_SIZE = len(PlanStruct._fields), len(PhaseStruct._fields)  # words
plan_at = struct(PlanStruct)  # plan_at(table, 0): the plan, for a kernel
_phase_at = struct(PhaseStruct)


@device_function
def phase_of(plan, number):
    """Phase ``number`` of a plan: phases follow the plan's own sizes."""
    return _phase_at(plan, PLAN_SIZE + number * PHASE_SIZE)


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
        table: what kernels read: a PlanStruct, a PhaseStruct for each phase, all their tables.
        blocks: how many there are.
        in_place: whether the window is the source itself.
        window: entries of a window.
        taps: the kernel taps u * k_w + v in the order in which phases use them, then the others.
        pixels: positions of each block, for one phase, as the forward pass has.
        phases: the sizes of each phase, for Python.
    """

    table: np.ndarray[Any, Any]
    blocks: int
    in_place: bool
    window: int
    taps: np.ndarray[Any, Any]
    pixels: np.ndarray[Any, Any]
    phases: tuple[PhaseStruct, ...]


def flat(g: Conv2dGeometry) -> Conv2dGeometry:
    """A convolution of single pixels as one of a single column with all pixels of the batch."""
    if (g.k_h, g.k_w, g.stride, g.padding) != (1, 1, (1, 1), (0, 0)):
        return g
    pixels = g.n * g.h_in * g.w_in
    sizes = {"n": 1, "h_in": pixels, "w_in": 1, "h_out": pixels, "w_out": 1}
    return Conv2dGeometry(**{**g.__dict__, **sizes})


@functools.lru_cache(maxsize=512)
def make_plan(g: Conv2dGeometry, role: str, plain: bool, itemsize: int) -> Plan:
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

    # whether the first and the last position of each axis see pixels of the source alone
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
    images, rows = -(-g.n // image_blocks), -(-h.count // bands)  # of the largest block
    image_size = (height if in_place else (rows - 1) * step_h + h.span) * row_size
    joined = (row_size, pitch_h, pitch_w, w.low) == (width * c, 1, 1, 0) and not in_place

    phases: list[PhaseStruct] = []
    tables: list[np.ndarray[Any, Any]] = []
    taps: list[int] = []
    grid = [(a, b) for a in h.phases for b in w.phases]
    tile = np.arange(ROWS) * TILE_ROW
    tile_at = PLAN_SIZE + len(grid) * PHASE_SIZE  # words before the tables
    at = tile_at + ROWS
    for a, b in grid:
        starts = _positions(
            images, min(rows, a.count), b.count, image_size, step_h * row_size, step_w * c
        )
        ends = _positions(
            images, min(rows, a.count), b.count, result[0] * result[1] * result[2],
            h.stride * result[1] * result[2], w.stride * result[2],
        ) + (a.start * result[1] + b.start) * result[2]  # fmt: skip
        offsets, run = _segments(a, b, h.low, w.low, row_size, c, g.groups)
        down, across = np.array(a.offsets, np.int64), np.array(b.offsets, np.int64)
        own = [starts, ends, offsets]
        own += [down, (down - h.low) * row_size, across, (across - w.low) * c]
        begin = PLAN_SIZE + len(phases) * PHASE_SIZE  # of this phase's words
        places = [int(place) for place in np.cumsum([at - begin, *(t.size for t in own)])]
        phase = PhaseStruct(
            rows=a.count, columns=b.count, segments=offsets.size, run=run, first_tap=len(taps),
            starts=Table(places[0]), ends=Table(places[1]), offsets=Table(places[2]),
            tap_rows=len(a.taps), tap_columns=len(b.taps), down=Table(places[3]),
            down_at=Table(places[4]), across=Table(places[5]), across_at=Table(places[6]),
        )  # fmt: skip
        phases.append(phase)
        tables += own
        at = begin + places[7]
        taps += [u * g.k_w + v for u in a.taps for v in b.taps]

    taps += sorted(set(range(g.k_h * g.k_w)) - set(taps))  # a result smaller than the stride

    piece = row_size * ((rows - 1) * step_h + h.span) if plain else PIECE_SIZE
    sizes = PlanStruct(
        images=g.n, image_blocks=image_blocks, rows=h.count, bands=bands,
        height=height, width=width, channels=c,
        top=h.low, left=w.low, step_h=h.step, step_w=w.step, pitch_h=pitch_h, pitch_w=pitch_w,
        window_columns=columns, window_step=step_h, span=h.span,
        piece=1 if pitch_w > 1 else max(1, piece // c), joined=int(joined),
        window_row=row_size, window_image=image_size,
        y_image=result[0] * result[1] * result[2], y_row=h.stride * result[1] * result[2],
        y_pixel=result[2],
        groups=g.groups, c_group=c // g.groups, y_group=result[2] // g.groups,
        taps=len(taps), phases=len(grid), padded=int(not inside_source), tile=Table(tile_at),
    )  # fmt: skip

    image_counts = np.diff(np.arange(image_blocks + 1) * g.n // image_blocks)
    row_counts = np.diff(np.arange(bands + 1) * h.count // bands)
    return Plan(
        np.concatenate([sizes, *phases, tile, *tables]).astype(np.int64),
        image_blocks * bands,
        in_place,
        0 if in_place else _whole_lines(images * image_size, itemsize),
        np.array(taps, np.int64),
        np.multiply.outer(image_counts, row_counts).reshape(-1) * w.count,
        tuple(phases),
    )


def _whole_lines(size: int, itemsize: int) -> int:
    """So many entries or a few more, so that what comes after them begins with a line of the cache
    (see :func:`~minires.kernels.numba.allocator.workspace`)."""
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


def operations(table: Any, **_: Any) -> int:
    """Additions and multiplications of a launch with this plan, those with padding among them."""
    words = table.tolist()
    plan, count = PlanStruct(*words[:PLAN_SIZE]), 0
    for at in range(PLAN_SIZE, PLAN_SIZE + plan.phases * PHASE_SIZE, PHASE_SIZE):
        phase = PhaseStruct(*words[at : at + PHASE_SIZE])
        count += phase.rows * phase.columns * phase.segments * phase.run
    return 2 * plan.images * count * plan.y_pixel


def depthwise(g: Conv2dGeometry) -> bool:
    return g.groups > 1 and g.groups == g.c_in == g.c_out


def panel_width(columns: int, dtype: Any) -> int:
    """How wide the panels for so many columns are."""
    return lanes(dtype) * (1 if columns <= lanes(dtype) else 2)
