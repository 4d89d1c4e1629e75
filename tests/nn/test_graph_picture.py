"""Drawings: the text that Graphviz reads, and how Graphviz is run (a stand-in here)."""

from __future__ import annotations

import itertools
import os
import re
import sys
from xml.etree import ElementTree

import pytest

import minires as mr
from minires import nn
from minires.errors import ArgumentError, CheckpointError, ExportError
from minires.models import BasicBlock, PreActBlock, cifar_plain, cifar_resnet
from minires.nn import functional as F

BLUE = 'color="#0072b2", penwidth=2.5'


class Apply(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


class Graph:
    """A DOT text taken apart: labels of nodes, edges with shapes, boxes and what is in them."""

    def __init__(self, text):
        self.labels, self.edges, self.bold, self.boxes = {}, [], [], {}
        stack, lines = [], text.splitlines()
        assert re.fullmatch(r'digraph ".*" \{', lines[0])
        assert lines[-1] == "}"
        for line in map(str.strip, lines[1:-1]):
            if edge := re.fullmatch(r'(\w+) -> (\w+) \[label=" (.*?)"(.*)\];', line):
                start, end, shape, look = edge.groups()
                self.edges.append((start, end, shape))
                self.bold += [(start, end)] if BLUE in look else []
            elif node := re.fullmatch(r'((?:n|out)\d+) \[label="(.*?)".*\];', line):
                self.labels[node[1]] = node[2]
                for box in stack:
                    self.boxes[box].append(node[2])
            elif box := re.fullmatch(r'subgraph "cluster_(.*)" \{', line):
                stack.append(box[1])
                self.boxes[box[1]] = []
            elif line == "}":
                stack.pop()
            else:
                assert re.match(r"(graph|node|edge) \[|label=", line), line
        assert not stack

    def named(self, edges):
        return [tuple(self.labels[node] for node in edge[:2]) for edge in edges]


def graph(net, x, tmp_path):
    path = tmp_path / "net.dot"
    drawing = mr.draw(net, x, path=path)
    assert drawing.svg is None
    assert path.read_text(encoding="utf-8") == drawing.dot
    return Graph(drawing.dot)


def test_a_block_and_its_identity_shortcut(tmp_path):
    g = graph(BasicBlock(3, 3), (2, 3, 8, 6), tmp_path)
    chain = ["input", r"conv1: Conv2d\n3×3, 3 → 3", "bn1: BatchNorm", "relu: ReLU"]
    chain += [r"conv2: Conv2d\n3×3, 3 → 3", "bn2: BatchNorm", "+", "relu: ReLU", "output"]
    assert [*g.labels.values()] == chain
    assert g.named(g.edges) == [
        *itertools.pairwise(chain[:6]),
        ("bn2: BatchNorm", "+"),
        ("input", "+"),
        ("+", "relu: ReLU"),
        ("relu: ReLU", "output"),
    ]
    assert {shape for _, _, shape in g.edges} == {"(2, 3, 8, 6)"}
    assert g.named(g.bold) == [("input", "+")]
    assert g.boxes == {}  # layers of one operation need no box


def test_a_projection_is_the_shortcut_from_the_fork_on(tmp_path):
    g = graph(nn.Sequential(nn.ReLU(), BasicBlock(3, 6, 2)), (2, 3, 8, 8), tmp_path)
    assert g.named(g.bold) == [
        ("0: ReLU", r"0: Conv2d\n1×1, 3 → 6, stride 2"),
        (r"0: Conv2d\n1×1, 3 → 6, stride 2", "1: BatchNorm"),
        ("1: BatchNorm", "+"),
    ]
    assert [shape for start, end, shape in g.edges if (start, end) in g.bold] == [
        "(2, 3, 8, 8)",
        "(2, 6, 4, 4)",
        "(2, 6, 4, 4)",
    ]
    assert [*g.boxes] == ["1", "1.downsample"]
    assert g.boxes["1.downsample"] == [r"0: Conv2d\n1×1, 3 → 6, stride 2", "1: BatchNorm"]
    assert len(g.boxes["1"]) == 9


def test_shortcut_a_and_preactivation(tmp_path):
    g = graph(PreActBlock(3, 6, 2, shortcut="A"), (2, 3, 8, 8), tmp_path)
    assert g.named(g.bold) == [
        ("input", r"GetItem\n[:, :, ::2, ::2]"),
        (r"GetItem\n[:, :, ::2, ::2]", "Pad"),
        ("Pad", "+"),
    ]


@pytest.mark.parametrize(("make", "additions"), [(cifar_resnet, 3), (cifar_plain, 0)])
def test_networks(make, additions, tmp_path):
    g = graph(make(8), (1, 3, 16, 16), tmp_path)
    assert [*g.labels.values()].count("+") == additions
    assert len({end for _, end in g.bold if g.labels[end] == "+"}) == additions
    assert g.boxes["fc"] == [r"MatMul\n64 → 10", "Add"]  # of the layer's bias: no shortcut
    assert {"layer1", "layer2.0", "layer3.0"} <= set(g.boxes)


def test_sums_that_are_no_shortcuts(tmp_path):
    g = graph(Apply(lambda x: x.exp() + x.tanh()), (2, 3), tmp_path)
    assert g.bold == []  # two ways of one length
    g = graph(Apply(lambda x: x.exp() + 1), (2, 3), tmp_path)
    assert [*g.labels.values()] == ["input", "Exp", "Add", "output"]


def test_sums_of_sums(tmp_path):
    def forward(x):
        y = x.exp().tanh() + x
        return y.exp() + y

    g = graph(Apply(forward), (2, 3), tmp_path)
    first, second = (name for name, label in g.labels.items() if label == "+")
    assert g.bold == [("n0", first), (first, second)]


def test_deep_networks(tmp_path):
    def forward(x):
        for _ in range(2000):
            x = x.tanh() + x
        return x

    assert len(graph(Apply(forward), (1, 2), tmp_path).bold) == 2000


def test_inputs_outputs_and_what_stands_on_nodes(tmp_path):
    def forward(x, y):
        y = F.conv_transpose2d(y, mr.ones(4, 2, 2, 2), stride=(2, 1), groups=2)
        return F.max_pool2d(x, 2), x[:, :, [1, 2], None], y, mr.ones(3)

    g = graph(Apply(forward), (mr.ones(1, 3, 4, 4), mr.ones(1, 4, 4, 4)), tmp_path)
    assert [*g.labels.values()] == [
        "input 0",
        "input 1",
        r"Conv2dInput\n2×2, 4 → 4, stride 2×1, groups 2",
        r"MaxPool2d\n2×2, stride 2",
        r"GetItem\n[:, :, array, None]",
        *(f"output {i}" for i in range(4)),
    ]
    assert len(g.edges) == 6  # the constant comes from nowhere


def test_names_with_quotes(tmp_path):
    net = nn.Sequential()
    net.add_module('a "b" \\', nn.Sequential(nn.Linear(3, 3)))
    text = mr.draw(net, (1, 3), tmp_path / "net.gv").dot
    assert r'subgraph "cluster_a \"b\" \\" {' in text


def test_the_network_is_as_before(tmp_path):
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout())
    state = mr.random.get_state()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    mr.draw(net, mr.randn(2, 3, 4, 4), tmp_path / "net.dot")
    mr.random.set_state(state)
    assert all(module.training for module in net.modules())
    assert all((value == before[key]).all() for key, value in net.state_dict().items())


# -- Graphviz ----------------------------------------------------------------------------------


@pytest.fixture
def graphviz(tmp_path, monkeypatch):
    """Puts a program called dot on the PATH that does what it is told here."""

    def install(body):
        folder = tmp_path / "bin"
        folder.mkdir()
        program = folder / "dot"
        program.write_text(f"#!{sys.executable}\nimport sys\n{body}", encoding="utf-8")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))
        return program

    return install


GOOD = """
text = sys.stdin.buffer.read().decode()
assert sys.argv[1:] == ["-Tsvg"], sys.argv
assert text.startswith('digraph "ReLU" {') and "→" not in text, text
sys.stdout.buffer.write("<svg>×</svg>".encode())
"""


def test_svg(tmp_path, graphviz):
    graphviz(GOOD)
    drawing = mr.draw(nn.ReLU(), (1, 3))
    assert drawing.svg == drawing._repr_svg_() == "<svg>×</svg>"
    assert drawing.dot.startswith('digraph "ReLU" {')
    path = tmp_path / "folder" / "net.SVG"
    mr.draw(nn.ReLU(), mr.ones(1, 3), path)
    assert path.read_text(encoding="utf-8") == "<svg>×</svg>"


def test_graphviz_fails(tmp_path, graphviz):
    program = graphviz('print("first\\nsyntax error", file=sys.stderr)\nsys.exit(3)')
    words = re.escape(f"draw: {program} ended with 3 and said: syntax error")
    with pytest.raises(ExportError, match=words):
        mr.draw(nn.ReLU(), (1, 3), tmp_path / "net.svg")
    assert not (tmp_path / "net.svg").exists()


def test_without_graphviz(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    drawing = mr.draw(nn.ReLU(), (1, 3), tmp_path / "net.svg")
    assert drawing.layout == "minires"
    assert drawing.svg == (tmp_path / "net.svg").read_text(encoding="utf-8")
    assert repr(drawing) == "Drawing of ReLU: .svg is the picture, laid out by minires"
    dot = mr.draw(nn.ReLU(), (1, 3), tmp_path / "net.dot")
    assert dot.svg is None
    assert repr(dot) == "Drawing of ReLU: .dot is what Graphviz reads"
    with pytest.raises(ExportError) as caught:
        mr.draw(nn.ReLU(), (1, 3), layout="graphviz")
    text = str(caught.value)
    for word in ("expected Graphviz", "none on the PATH", "apt install graphviz", "minires"):
        assert word in text
    with pytest.raises(ArgumentError, match="unknown layout 'dot'"):
        mr.draw(nn.ReLU(), (1, 3), layout="dot")


# -- our own layout ----------------------------------------------------------------------------


def laid_out(net, x):
    """The picture as XML, and the texts in it."""
    svg = mr.draw(net, x, layout="minires").svg
    root = ElementTree.fromstring(svg)
    return root, [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]


def found(root, name):
    return root.findall(f"{{http://www.w3.org/2000/svg}}{name}")


def test_the_shortcut_is_a_curve_beside_the_path():
    root, texts = laid_out(BasicBlock(3, 3), (2, 3, 8, 6))
    for label in ("input", "conv1: Conv2d", "3×3, 3 → 3", "bn2: BatchNorm", "+", "output"):
        assert label in texts
    assert texts.count("(2, 3, 8, 6)") == 9
    (plus,) = found(root, "circle")
    (curve,) = [p for p in found(root, "path") if p.get("stroke") == "#0072b2"]
    points = [tuple(map(float, p)) for p in re.findall(r"([\d.]+) ([\d.]+)", curve.get("d"))]
    ends = [float(r.get("x")) + float(r.get("width")) for r in found(root, "rect")[1:]]
    assert max(x for x, _ in points) > max(ends)  # it passes all nodes on their right
    assert points[-1] == (float(plus.get("cx")) + 12, float(plus.get("cy")))


def test_nodes_do_not_overlap_and_edges_go_down():
    root, _ = laid_out(BasicBlock(3, 6, 2), (2, 3, 8, 8))
    tinted = [r for r in found(root, "rect")[1:] if r.get("fill") != "none"]
    assert len(tinted) == 8  # of the path, and two of the projection
    frames = [tuple(float(r.get(k)) for k in ("x", "y", "width", "height")) for r in tinted]
    for (x, y, w, h), (u, v, s, t) in itertools.combinations(frames, 2):
        assert x + w <= u or u + s <= x or y + h <= v or v + t <= y
    assert len({x + w / 2 for x, _, w, _ in frames}) == 2  # the straight column, and a lane


def test_boxes_and_names_in_xml():
    net = nn.Sequential()
    net.add_module("a<b>", nn.Sequential(nn.Linear(3, 3)))
    _, texts = laid_out(net, (1, 3))
    assert "a<b> (Sequential)" in texts
    root, texts = laid_out(cifar_resnet(20), (1, 3, 32, 32))
    assert texts.count("+") == 9
    assert {"layer1 (Sequential)", "0 (BasicBlock)", "fc (Linear)"} <= set(texts)
    short = [p for p in found(root, "path") if p.get("stroke-width") == "2.5"]
    assert len(short) == 9 + 2 * 2  # option A has two operations in it, twice
    width, height = (float(root.get(key)) for key in ("width", "height"))
    assert width < 700 < 2000 < height


def test_deep_and_wide_graphs_are_laid_out():
    def dense(x):
        parts = [x]
        for _ in range(6):
            parts.append(mr.cat(parts, 1).tanh())
        return mr.cat(parts, 1), parts[2]

    root, texts = laid_out(Apply(dense), (1, 2))
    assert {"output 0", "output 1"} <= set(texts)

    def deep(x):
        for _ in range(500):
            x = x.tanh() + x
        return x

    root, texts = laid_out(Apply(deep), (1, 2))
    assert texts.count("+") == 500
    assert float(root.get("width")) < 500


@pytest.mark.parametrize("name", ["net.png", "net", "net.dot.txt"])
def test_other_endings(name, tmp_path):
    with pytest.raises(
        ArgumentError, match=r"draw: expected a path that ends in .svg or .dot, got"
    ):
        mr.draw(nn.ReLU(), (1, 3), tmp_path / name)


def test_a_folder_in_the_way(tmp_path):
    (tmp_path / "net.dot").mkdir()
    with pytest.raises(
        CheckpointError, match=r"expected to be able to write net.dot, got Is a dir"
    ):
        mr.draw(nn.ReLU(), (1, 3), tmp_path / "net.dot")
    assert os.listdir(tmp_path) == ["net.dot"]


def test_bad_networks_and_inputs(tmp_path):
    with pytest.raises(ArgumentError, match="draw: expected a Module as network, got str"):
        mr.draw("resnet18", (1, 3), tmp_path / "net.dot")
    with pytest.raises(ArgumentError, match="draw: expected a tensor, or a shape of integers >= 1"):
        mr.draw(nn.ReLU(), (3,), tmp_path / "net.dot")
    with pytest.raises(ArgumentError, match="draw: expected a tensor, or a tuple of tensors"):
        mr.draw(nn.ReLU(), (mr.ones(1), 3), tmp_path / "net.dot")
