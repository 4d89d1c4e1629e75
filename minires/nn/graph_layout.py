"""A layered layout of a graph, and its picture as SVG, where Graphviz is not installed.

Nodes stand in rows, by the longest way from an input. The longest way through the graph is one
straight column; every other way stands in a lane to its right, and an edge that skips rows is a
curve in a lane of its own, so that it passes beside the nodes, not through them. Short ways get the
inner lanes: the shortcut of a residual block is the curve next to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

LINE, PAD, GAP = 14, 6, 30  # pixels: of a line of text; around text; between rows
LETTER, SMALL_LETTER = 6.4, 5.3  # widths, of text of 11 and of 9 pixels
LANE = 34  # between lanes
MARGIN = 12


@dataclass(frozen=True)
class Node:
    """Attributes:
    kind: "operation", "weighted", "plus", or "text" without a frame.
    row: how far from the inputs it stands.
    """

    name: str
    lines: tuple[str, ...]
    kind: str
    row: int

    @property
    def size(self) -> tuple[float, float]:
        if self.kind == "plus":
            return 24, 24
        longest = max(map(len, self.lines))
        return longest * LETTER + 4 * PAD, len(self.lines) * LINE + 2 * PAD


@dataclass(frozen=True)
class Edge:
    start: str
    end: str
    label: str
    shortcut: bool


@dataclass(frozen=True)
class Box:
    """A module, around the nodes that ran in it."""

    label: str
    names: frozenset[str]
    level: int


@dataclass(frozen=True)
class Colours:
    ink: str
    grey: str
    rule: str
    tint: str
    shortcut: str


def lanes_of(
    nodes: Sequence[Node], edges: Sequence[Edge]
) -> tuple[dict[str, int], dict[Edge, int]]:
    """The lane of each node and of each edge that skips rows; 0 is the straight column."""
    row = {node.name: node.row for node in nodes}
    before: dict[str, list[str]] = {node.name: [] for node in nodes}
    for edge in edges:
        before[edge.end].append(edge.start)
    lanes: dict[str, int] = {}
    spans: list[tuple[int, int, list[str], Edge | None]] = []
    for node in sorted(nodes, key=lambda node: -node.row):
        chain, at = [], node.name
        while at not in lanes and at not in chain:  # back by the longest way
            chain.append(at)
            if not before[at]:
                break
            at = max(before[at], key=row.__getitem__)
        if not chain:
            continue
        main = not lanes
        lanes |= dict.fromkeys(chain, 0)
        if not main:
            after = [row[e.end] for e in edges if e.start == chain[0]]
            fork = [row[name] for name in before[chain[-1]]]
            begin = max(fork, default=row[chain[-1]])
            spans.append((begin, max(after, default=row[chain[0]]), chain, None))
    side = {name for _, _, chain, _ in spans for name in chain}
    for edge in edges:
        straight = row[edge.end] - row[edge.start] == 1
        if not straight and edge.start not in side and edge.end not in side:
            spans.append((row[edge.start], row[edge.end], [], edge))
    curves: dict[Edge, int] = {}
    taken: list[list[tuple[int, int]]] = []
    for begin, end, chain, skipping in sorted(spans, key=lambda s: (s[1] - s[0], s[0])):
        lane = next(
            (i for i, of in enumerate(taken) if all(end <= a or b <= begin for a, b in of)),
            len(taken),
        )
        if lane == len(taken):
            taken.append([])
        taken[lane].append((begin, end))
        lanes |= dict.fromkeys(chain, lane + 1)
        if skipping is not None:
            curves[skipping] = lane + 1
    return lanes, curves


def svg(
    nodes: Sequence[Node], edges: Sequence[Edge], boxes: Sequence[Box], look: Colours, font: str
) -> str:
    """The whole picture."""
    lanes, curves = lanes_of(nodes, edges)
    labels = max((len(edge.label) for edge in edges), default=0) * SMALL_LETTER + 10
    count = max([*lanes.values(), *curves.values()], default=0) + 1
    half = [0.0] * count  # of the width of each lane
    for node in nodes:
        half[lanes[node.name]] = max(half[lanes[node.name]], node.size[0] / 2)
    half[0] = max(half[0], labels)
    centre = [MARGIN + 10 * (1 + max((b.level for b in boxes), default=0)) + half[0]]
    for lane in range(1, count):
        beside = labels if half[lane - 1] == 0 and lane > 1 else 0  # a curve's label
        centre.append(centre[-1] + half[lane - 1] + beside + LANE + half[lane])
    tops, height = _rows(nodes, boxes)
    place = {}
    for node in nodes:
        w, h = node.size
        top, tall = tops[node.row]
        place[node.name] = (centre[lanes[node.name]], top + tall / 2, w, h)
    row = {node.name: node.row for node in nodes}
    body = [
        _box(box, place, [_within(box, boxes, row, end) for end in (0, 1)], look)
        for box in sorted(boxes, key=lambda box: box.level)
    ]
    for edge in sorted(edges, key=lambda edge: edge.shortcut):
        body.append(_edge(edge, place, lanes, curves, centre, look))
    body += [_node(node, place[node.name], look) for node in nodes]
    width = centre[-1] + half[-1] + labels + 2 * MARGIN
    marker = "".join(
        f'<marker id="{name}" viewBox="0 0 8 8" refX="7.5" refY="4" markerWidth="{size}" '
        f'markerHeight="{size}" markerUnits="userSpaceOnUse" orient="auto">'
        f'<path d="M0 0.5L8 4L0 7.5z" fill="{colour}"/></marker>'
        for name, colour, size in (("tip", look.grey, 8), ("short", look.shortcut, 12))
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="{font}" font-size="11">\n'
        f"<defs>{marker}</defs>\n"
        f'<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(body) + "\n</svg>\n"
    )


def _rows(
    nodes: Sequence[Node], boxes: Sequence[Box]
) -> tuple[dict[int, tuple[float, float]], float]:
    """(top, height) of each row, with room above for the labels of boxes that begin there."""
    heights: dict[int, float] = {}
    row = {node.name: node.row for node in nodes}
    for node in nodes:
        heights[node.row] = max(heights.get(node.row, 0), node.size[1])
    begin, end = dict.fromkeys(heights, 0), dict.fromkeys(heights, 0)
    for box in boxes:
        first, last = _ends(box, row)
        begin[first] = max(begin[first], 1 + _within(box, boxes, row, 0))
        end[last] = max(end[last], 1 + _within(box, boxes, row, 1))
    tops, y = {}, float(MARGIN)
    for r in sorted(heights):
        y += begin[r] * 20
        tops[r] = (y, heights[r])
        y += heights[r] + end[r] * 8 + GAP
    return tops, y - GAP + MARGIN


def _ends(box: Box, row: dict[str, int]) -> tuple[int, int]:
    rows = [row[name] for name in box.names]
    return min(rows), max(rows)


def _within(box: Box, boxes: Sequence[Box], row: dict[str, int], end: int) -> int:
    """How many boxes stand in one another inside of this one, and end in the same row."""
    at = _ends(box, row)[end]
    return len(
        {
            other.level
            for other in boxes
            if other.level > box.level and other.names <= box.names and _ends(other, row)[end] == at
        }
    )


def _text(x: float, y: float, text: str, fill: str, size: int = 11, anchor: str = "middle") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{fill}" font-size="{size}" text-anchor="{anchor}">'
        f"{escape(text)}</text>"
    )


def _node(node: Node, at: tuple[float, float, float, float], look: Colours) -> str:
    x, y, w, h = at
    if node.kind == "plus":
        return (
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="12" fill="white" stroke="{look.grey}"/>'
            + _text(x, y + 5, "+", look.ink, 15)
        )
    parts = []
    if node.kind != "text":
        fill = look.tint if node.kind == "weighted" else "white"
        parts.append(
            f'<rect x="{x - w / 2:.1f}" y="{y - h / 2:.1f}" width="{w:.1f}" height="{h:.1f}" '
            f'rx="5" fill="{fill}" stroke="{look.grey}"/>'
        )
    for i, line in enumerate(node.lines):
        parts.append(_text(x, y - h / 2 + PAD + LINE * i + 10.5, line, look.ink))
    return "".join(parts)


def _box(
    box: Box,
    place: dict[str, tuple[float, float, float, float]],
    within: Sequence[int],
    look: Colours,
) -> str:
    inside = [place[name] for name in box.names]
    around = 8 + 6 * max(0, 4 - box.level)
    left = min(x - w / 2 for x, _, w, _ in inside) - around
    right = max(x + w / 2 for x, _, w, _ in inside) + around
    right = max(right, left + len(box.label) * LETTER + 12)
    top = min(y - h / 2 for _, y, _, h in inside) - 20 * (1 + within[0])
    bottom = max(y + h / 2 for _, y, _, h in inside) + 7 * (1 + within[1])
    return (
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" '
        f'height="{bottom - top:.1f}" fill="none" stroke="{look.rule}"/>'
        + _text(left + 5, top + 12, box.label, look.grey, 10, "start")
    )


def _edge(
    edge: Edge,
    place: dict[str, tuple[float, float, float, float]],
    lanes: dict[str, int],
    curves: dict[Edge, int],
    centre: Sequence[float],
    look: Colours,
) -> str:
    """Straight down in a lane; out of the right side into a lane further out, and into the right
    side of what stands further in."""
    (x0, y0, w0, h0), (x1, y1, w1, h1) = place[edge.start], place[edge.end]
    a, b = lanes[edge.start], lanes[edge.end]
    lane = curves.get(edge)
    bottom, top = y0 + h0 / 2, y1 - h1 / 2
    if lane is not None:
        x = centre[lane]
        bend = min(40.0, (y1 - y0) / 2)
        path = (
            f"M{x0 + w0 / 2:.1f} {y0:.1f}C{x:.1f} {y0:.1f} {x:.1f} {y0:.1f} {x:.1f} {y0 + bend:.1f}"
            f"L{x:.1f} {y1 - bend:.1f}C{x:.1f} {y1:.1f} {x:.1f} {y1:.1f} {x1 + w1 / 2:.1f} {y1:.1f}"
        )
        at = (x + 6, (y0 + y1) / 2 + 3)
    elif a == b:
        path = f"M{x0:.1f} {bottom:.1f}L{x1:.1f} {top:.1f}"
        at = (x0 + 6, (bottom + top) / 2 + 3)
    elif a < b:
        path = f"M{x0 + w0 / 2:.1f} {y0:.1f}C{x1:.1f} {y0:.1f} {x1:.1f} {y0:.1f} {x1:.1f} {top:.1f}"
        at = (x0 + w0 / 2 + 10, y0 - 5)
    else:
        path = (
            f"M{x0:.1f} {bottom:.1f}L{x0:.1f} {y1 - 20:.1f}"
            f"C{x0:.1f} {y1:.1f} {x0:.1f} {y1:.1f} {x1 + w1 / 2:.1f} {y1:.1f}"
        )
        at = (x0 + 6, bottom + 16)
    colour, width, tip = (look.shortcut, 2.5, "short") if edge.shortcut else (look.grey, 1, "tip")
    return (
        f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{width}" '
        f'marker-end="url(#{tip})"/>' + _text(*at, edge.label, look.grey, 9, "start")
    )
