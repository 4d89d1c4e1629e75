"""``draw``: the graph of a forward pass as a picture, laid out by Graphviz, or by ourselves."""

from __future__ import annotations

import heapq
import os
import shutil
import subprocess
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from minires import arguments
from minires.errors import ArgumentError, ExportError, message
from minires.files import as_path, write_atomic
from minires.nn.graph_layout import Box, Colours, Edge, svg
from minires.nn.graph_layout import Node as Placed
from minires.nn.module import Module
from minires.nn.trace import Step, Trace, Value, check_module, initialized, tensors_or_zeros, trace
from minires.ops import convert, elementwise, layout
from minires.ops.avg_pool2d.op import AvgPool2d
from minires.ops.conv2d.op import Conv2d, Conv2dInput
from minires.ops.index import GetItem
from minires.ops.matmul import MatMul
from minires.ops.max_pool2d.op import MaxPool2d
from minires.report.figures import GREY, INK, KIND_COLOURS, RULE

UNSEEN = {layout.ChannelsLast, layout.Contiguous, convert.Clone, convert.Move}
WEIGHTED = {Conv2d, Conv2dInput, MatMul}
SUFFIXES = (".svg", ".dot", ".gv")
TINT = "#eef4f9"  # of operations with weights
FONT = "Helvetica,Arial,sans-serif"

Node = Any  # a Step, or a Value that is an input


@dataclass(frozen=True)
class Drawing:
    """A graph in Graphviz's language, and as SVG. Notebooks show it.

    Attributes:
        dot: the text that Graphviz reads.
        svg: the picture; None if only the text was asked for.
        layout: who laid it out, "graphviz" or "minires".
    """

    dot: str
    svg: str | None = None
    layout: str = ""

    def __repr__(self) -> str:
        name = self.dot.split('"')[1]
        if self.svg is None:
            return f"Drawing of {name}: .dot is what Graphviz reads"
        return f"Drawing of {name}: .svg is the picture, laid out by {self.layout}"

    def _repr_svg_(self) -> str | None:
        return self.svg


def draw(
    net: Module,
    x: Any,
    path: str | os.PathLike[str] | None = None,
    *,
    layout: str | None = None,
) -> Drawing:
    """The graph of one forward pass of ``net`` on ``x``, in evaluation mode.

    Operations are nodes, modules the boxes around them, and edges carry the shapes of the tensors
    that flow. What reaches an addition by the shorter way, from where the two ways parted, is the
    shortcut: it is drawn in bold blue. Parameters and changes of memory layout are left out. The
    network and the random state stay as they were.

    Args:
        net: any module.
        x: a tensor, a tuple of tensors, or a shape, which stands for zeros.
        path: a file ``.svg`` to write; or ``.dot`` (``.gv``) for the text that Graphviz reads,
            which needs no Graphviz.
        layout: ``"graphviz"`` or ``"minires"``. By default Graphviz's, if its program ``dot`` is
            on the PATH, else our own: it shows the same, nodes in rows and shortcuts as curves
            beside them.

    Raises:
        ExportError: Graphviz was asked for and is not installed, or it fails.
        ArgumentError: ``net`` is no module, ``x`` no input, ``path`` has another ending, or
            ``layout`` another name.
        CheckpointError: ``path`` cannot be written.
    """
    suffix = ".svg" if path is None else as_path("draw", path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ArgumentError(message("draw", "a path that ends in .svg or .dot", repr(str(path))))
    if layout is not None:
        arguments.choice("layout", layout, ("graphviz", "minires"))
    program = None
    if suffix == ".svg" and layout != "minires":
        program = _graphviz() if layout == "graphviz" else shutil.which("dot")
    check_module("draw", net)
    inputs = tensors_or_zeros("draw", net, x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that statistics or maps are odd is no matter here
        net = initialized(net, inputs)
        seen = trace("draw", net, inputs)
    graph = _Text(net, seen)
    text = graph.whole()
    if suffix != ".svg":
        drawing = Drawing(text)
    elif program is not None:
        drawing = Drawing(text, _run(program, text), "graphviz")
    else:
        drawing = Drawing(text, graph.svg(), "minires")
    if path is not None:
        write_atomic(path, drawing.dot if drawing.svg is None else drawing.svg)
    return drawing


def _graphviz() -> str:
    program = shutil.which("dot")
    if program is None:
        raise ExportError(
            message(
                "draw",
                "Graphviz, the program dot",
                "none on the PATH",
                fix="Install it (apt install graphviz, brew install graphviz, or "
                'https://graphviz.org/download), or leave it to us: layout="minires".',
            )
        )
    return program


def _run(program: str, text: str) -> str:
    done = subprocess.run(
        [program, "-Tsvg"], input=text, capture_output=True, encoding="utf-8", check=False
    )
    if done.returncode:
        reason = (done.stderr.strip() or "nothing").splitlines()[-1]
        raise ExportError(f"draw: {program} ended with {done.returncode} and said: {reason}")
    return done.stdout


class _Text:
    """The graph in the DOT language (https://graphviz.org/doc/info/lang.html)."""

    def __init__(self, net: Module, seen: Trace) -> None:
        self.net, self.seen = net, seen
        self.modules = dict(net.named_modules())
        self.origin: dict[Value, Node] = {value: value for value in seen.inputs}
        self.steps: list[Step] = []
        for step in seen.needed():
            before = [source for source, _ in self.sources(step)]
            if not before:  # of parameters only, as a transposed weight is
                continue
            if step.function in UNSEEN:
                self.origin[step.outputs[0]] = before[0]
                continue
            self.steps.append(step)
            self.origin |= dict.fromkeys(step.outputs, step)
        nodes: list[Node] = [*seen.inputs, *self.steps]
        self.ids = {node: f"n{i}" for i, node in enumerate(nodes)}
        self.depth: dict[Node, int] = {}
        for node in nodes:
            depths = [self.depth[source] for source, _ in self.sources(node)]
            self.depth[node] = max(depths, default=-1) + 1
        self.calls = Counter(path for path, _ in seen.calls)
        self.sizes = Counter(step.module for step in self.steps)

    def sources(self, node: Node) -> list[tuple[Node, Value]]:
        """(node it comes from, tensor) of each computed tensor that a node reads."""
        values = node.values if isinstance(node, Step) else []
        return [(self.origin[value], value) for value in values if value in self.origin]

    def whole(self) -> str:
        shortcuts = set(self.shortcuts())
        lines = [
            f"digraph {_quoted(type(self.net).__name__)} {{",
            f'  graph [fontname="{FONT}", fontsize=11, fontcolor="{GREY}", color="{RULE}", '
            "ranksep=0.35, nodesep=0.4];",
            f'  node [fontname="{FONT}", fontsize=11, fontcolor="{INK}", color="{GREY}", '
            'shape=box, style="rounded,filled", fillcolor=white];',
            f'  edge [fontname="{FONT}", fontsize=9, fontcolor="{GREY}", color="{GREY}"];',
        ]
        several = len(self.seen.inputs) > 1
        for i, value in enumerate(self.seen.inputs):
            name = f"input {i}" if several else "input"
            lines.append(f"  {self.ids[value]} [label={_quoted(name)}, shape=plaintext];")
        lines += self.cluster("", self.steps, "  ")
        for node in self.steps:
            for source, value in self.sources(node):
                look = f", {_SHORTCUT}" if (source, node) in shortcuts else ""
                label = _quoted(f" {value.shape}")  # clear of the line
                lines.append(f"  {self.ids[source]} -> {self.ids[node]} [label={label}{look}];")
        several = len(self.seen.outputs) > 1
        for i, value in enumerate(self.seen.outputs):
            name = f"output {i}" if several else "output"
            lines.append(f"  out{i} [label={_quoted(name)}, shape=plaintext];")
            if value in self.origin:
                label = _quoted(f" {value.shape}")  # clear of the line
                lines.append(f"  {self.ids[self.origin[value]]} -> out{i} [label={label}];")
        return "\n".join([*lines, "}", ""])

    def cluster(self, path: str, steps: Sequence[Step], indent: str) -> list[str]:
        """The nodes inside a module; the nodes of each child stand in a box."""
        lines = []
        children: dict[str, list[Step]] = {}
        for step in steps:
            child = self.child(path, step.module)
            if child is None:
                lines.append(f"{indent}{self.ids[step]} [{self.look(step)}];")
            else:
                children.setdefault(child, []).append(step)
        for child, inside in children.items():
            short = child.removeprefix(f"{path}.") if path else child
            label = _quoted(f"{short} ({type(self.modules[child]).__name__})")
            lines.append(f"{indent}subgraph {_quoted(f'cluster_{child}')} {{")
            lines.append(f"{indent}  label={label};")
            lines += self.cluster(child, inside, f"{indent}  ")
            lines.append(f"{indent}}}")
        return lines

    def child(self, path: str, module: str) -> str | None:
        """The box directly inside ``path`` that holds what runs in ``module``."""
        prefix = f"{path}." if path else ""
        first, _, below = module.removeprefix(prefix).partition(".")
        if module == path or (not below and self.is_one_node(module)):
            return None
        return prefix + first

    def is_one_node(self, module: str) -> bool:
        """Whether each call of a module is one operation, which then needs no box."""
        has_parts = bool(self.modules[module]._modules)
        return not has_parts and self.sizes[module] <= self.calls[module]

    def svg(self) -> str:
        """The picture, by our own layout."""
        inputs, outputs = self.seen.inputs, self.seen.outputs
        nodes = [
            Placed(self.ids[value], (f"input {i}" if len(inputs) > 1 else "input",), "text", 0)
            for i, value in enumerate(inputs)
        ]
        nodes += [Placed(self.ids[s], *self.shown(s), self.depth[s]) for s in self.steps]
        bold = set(self.shortcuts())
        edges = [
            Edge(self.ids[source], self.ids[node], str(value.shape), (source, node) in bold)
            for node in self.steps
            for source, value in self.sources(node)
        ]
        for i, value in enumerate(outputs):
            name = f"output {i}" if len(outputs) > 1 else "output"
            known = value in self.origin
            row = self.depth[self.origin[value]] + 1 if known else 0
            nodes.append(Placed(f"out{i}", (name,), "text", row))
            if known:
                edges.append(Edge(self.ids[self.origin[value]], f"out{i}", str(value.shape), False))
        look = Colours(INK, GREY, RULE, TINT, KIND_COLOURS["residual"])
        return svg(nodes, edges, self.boxes(), look, FONT)

    def boxes(self) -> list[Box]:
        """The modules that have more than one operation, from the outer to the inner ones."""
        inside: dict[str, set[str]] = {}
        for step in self.steps:
            path: str | None = self.child("", step.module)
            while path is not None:
                inside.setdefault(path, set()).add(self.ids[step])
                path = self.child(path, step.module)
        return [
            Box(
                f"{path.rpartition('.')[2]} ({type(self.modules[path]).__name__})",
                frozenset(names),
                path.count("."),
            )
            for path, names in inside.items()
        ]

    def shown(self, step: Step) -> tuple[tuple[str, ...], str]:
        """The lines that stand on a node, and its kind."""
        if step.function is elementwise.Add and len(self.sources(step)) > 1:
            return ("+",), "plus"
        name = step.function.__name__
        if step.module and self.is_one_node(step.module):
            name = f"{step.module.rpartition('.')[2]}: {name}"
        facts = FACTS.get(step.function, lambda _: "")(step)
        kind = "weighted" if step.function in WEIGHTED else "operation"
        return (name, facts) if facts else (name,), kind

    def look(self, step: Step) -> str:
        """The attributes of a node."""
        lines, kind = self.shown(step)
        if kind == "plus":
            return 'label="+", shape=circle, style=filled, fontsize=14, margin="0,0"'
        tint = f', fillcolor="{TINT}"' if kind == "weighted" else ""
        return f"label={_quoted(chr(10).join(lines))}{tint}"

    def shortcuts(self) -> Iterator[tuple[Node, Node]]:
        """The edges of every shortcut: of the shorter way to an addition, from the fork on."""
        for step in self.steps:
            ways = sorted((self.depth[s], self.ids[s], s) for s, _ in self.sources(step))
            if step.function is not elementwise.Add or len(ways) != 2:
                continue
            (short, _, end), (long, _, branch) = ways
            if short < long:
                yield (end, step)
                yield from self.back_to_fork(end, branch)

    def back_to_fork(self, end: Node, branch: Node) -> Iterator[tuple[Node, Node]]:
        """The edges from ``end`` back to the first node that ``branch`` comes from as well."""
        ahead = [(-self.depth[branch], self.ids[branch], branch)]
        while ahead and ahead[0][2] is not end:
            if self.depth[end] < -ahead[0][0]:  # the branch is longer still
                _, _, node = heapq.heappop(ahead)
                for source, _ in self.sources(node):
                    heapq.heappush(ahead, (-self.depth[source], self.ids[source], source))
                continue
            before = self.sources(end)
            if not before:
                return
            source = min((s for s, _ in before), key=self.depth.__getitem__)
            yield (source, end)
            end = source


_SHORTCUT = f'color="{KIND_COLOURS["residual"]}", penwidth=2.5'


def _times(pair: Sequence[int]) -> str:
    return f"{pair[0]}×{pair[1]}"


def _convolution(step: Step) -> str:
    (g,) = (a for a in step.inputs if hasattr(a, "multiply_adds"))
    ends = (g.c_in, g.c_out) if step.function is Conv2d else (g.c_out, g.c_in)
    facts = f"{g.k_h}×{g.k_w}, {ends[0]} → {ends[1]}"
    facts += f", stride {g.stride[0]}" if g.stride[0] == g.stride[1] != 1 else ""
    facts += f", stride {_times(g.stride)}" if g.stride[0] != g.stride[1] else ""
    return facts + (f", groups {g.groups}" if g.groups > 1 else "")


def _max_pool(step: Step) -> str:
    geometry = step.inputs[1]
    return f"{_times(geometry.kernel)}, stride {geometry.stride[0]}"


def _average(step: Step) -> str:
    return f"to {_times(step.outputs[0].shape[2:])}"


def _product(step: Step) -> str:
    return f"{step.values[0].shape[-1]} → {step.outputs[0].shape[-1]}"


def _index(step: Step) -> str:
    parts = step.inputs[1] if isinstance(step.inputs[1], tuple) else (step.inputs[1],)
    return f"[{', '.join(map(_part, parts))}]"


def _part(part: Any) -> str:
    if isinstance(part, slice):
        ends = ["" if end is None else str(end) for end in (part.start, part.stop, part.step)]
        return ":".join(ends if ends[2] else ends[:2])
    if part is Ellipsis:
        return "…"
    return str(part) if part is None or isinstance(part, int) else "array"


FACTS: dict[Any, Callable[[Step], str]] = {
    Conv2d: _convolution,
    Conv2dInput: _convolution,
    MaxPool2d: _max_pool,
    AvgPool2d: _average,
    MatMul: _product,
    GetItem: _index,
}


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
