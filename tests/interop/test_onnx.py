"""What cannot be exported: each case with its message, and nothing left on the disk."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

import minires as mr
from minires import nn
from minires.errors import ArgumentError, CheckpointError, DTypeError, ExportError, ShapeError
from minires.interop import onnx as onnx_module
from minires.models import list_models


class Apply(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Cube(mr.Function):
    @staticmethod
    def forward(ctx, x):
        return x**3


def written(x):
    y = x * 1.0
    y[0] = 0.0
    return y + 1


def written_last(x):
    y = x * 1.0
    y[0] = 0.0
    return y


def view_written(x):
    y = x * 1.0
    y[:, 0].add_(1.0)
    return y + 1


def by_value(x):
    return x * 2.0 if x.sum().item() > BORDER else x.exp()


def by_batch(x):
    return x.exp() if len(x) % 2 else x * 2.0


BORDER = 25.0  # between the sum over 24 ones, and over 36 of them times 0.75
X = np.ones((2, 3, 4), "f4")
BAD = {
    "unsupported": (Cube.apply, ["Cube at", "test_onnx.py:", "has no counterpart in ONNX"]),
    "data in a number": (
        lambda x: x * x.amax().item(),
        ["Mul at", "an argument that follows the input: 1.0 for one batch, 0.75 for another"],
    ),
    "batch in a number": (lambda x: x * len(x), ["2 for one batch, 3 for another"]),
    "data in a constant": (
        lambda x: x * mr.tensor(x.numpy()[0]),
        ["Mul at", "the values for one batch, other values for another"],
    ),
    "batch in a constant": (
        lambda x: mr.cat([x, mr.zeros(len(x), 2, 4)], 1),
        ["Concatenate at", "(2, 2, 4) for one batch, (3, 2, 4) for another"],
    ),
    "by the batch's size": (by_batch, ["other operations for another batch", "Mul at", "Exp at"]),
    "by values": (by_value, ["other operations for another batch: Exp at", "against Mul at"]),
    "one more": (
        lambda x: x.exp() if len(x) == 2 else x.exp().exp(),
        ["other operations for another batch", "against Exp at"],
    ),
    "written": (written, ["Add at", "reads a tensor that was written in place at", "where, pad"]),
    "written and returned": (
        written_last,
        ["returns a tensor that was written in place at", "test_onnx.py:", "Use where, pad"],
    ),
    "view written": (view_written, ["reads a tensor that was written in place at"]),
    "batch twice": (
        lambda x: x.reshape(len(x), 12 // 2, 2).transpose(0, 1).reshape(len(x) * 6, 1, 2)
        .expand(-1, len(x), 2).reshape(6, len(x), len(x), 2),
        ["Expand at", "repeats entries as often as the batch says"],
    ),
    "batch in two sizes": (
        lambda x: (x.flatten(1) @ x.flatten(1).T).reshape(len(x), len(x), 1),
        ["Reshape at", "more than one size that follows the batch: (2, 2, 1) and (3, 3, 1)"],
    ),
    "mask": (lambda x: x[:, np.array([True, False, True])], ["GetItem at", "by a mask"]),
    "own mask": (lambda x: x[:, x.sum((0, 2)) > 0], ["takes entries by a mask"]),
    "two arrays": (lambda x: x[:, [0, 1], [0, 1]], ["GetItem at", "Use slices, or one index"]),
    "integers and a fraction": (
        lambda x: mr.where(mr.tensor([1, 2, 3, 4]) > 1.5, x, 0.0),
        ["compares integers with a fraction. Compare x.float()."],
    ),
    "argmax": (lambda x: x.argmax(-1), ["no operation with a derivative made", "argmax"]),
    "other outputs": (
        lambda x: (x, x.exp()) if len(x) == 2 else (x.exp(), x),
        ["the network returned other tensors for another batch"],
    ),
}  # fmt: skip


@pytest.fixture
def path(tmp_path):
    pytest.importorskip("onnx")
    yield tmp_path / "net.onnx"
    assert [p.name for p in tmp_path.iterdir()] == [], "an error left something behind"


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_exported(name, path):
    function, words = BAD[name]
    with pytest.raises(ExportError) as caught:
        mr.export_onnx(Apply(function), mr.from_numpy(X.copy()), path)
    text = str(caught.value)
    assert text.startswith("export_onnx: ")
    for word in words:
        assert word in text, text


def test_the_module_and_the_line_are_named(path):
    net = nn.Sequential(nn.ReLU(), nn.Sequential(Apply(lambda x: Cube.apply(x))))
    line = sys._getframe().f_lineno - 1
    where = re.escape(f"Cube in module '1.0' at tests/interop/test_onnx.py:{line} has no")
    with pytest.raises(ExportError, match=where):
        mr.export_onnx(net, mr.ones(2, 3), path)


def test_batch_norm_without_statistics(path):
    net = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False))
    with pytest.raises(ExportError, match=r"BatchNorm in module '0' at .* uses the statistics of"):
        mr.export_onnx(net, mr.randn(2, 3, 4, 4), path)


def test_wrong_layout_is_the_errors_of_convolution(path):
    with pytest.raises(ShapeError, match=r"looks like \(n, h, w, c\) with 3 channels"):
        mr.export_onnx(nn.Conv2d(3, 4, 3), mr.randn(2, 8, 8, 3), path)


def test_wrong_dtype(path):
    with pytest.raises(DTypeError, match="one dtype"):
        mr.export_onnx(nn.Conv2d(3, 4, 3), np.zeros((2, 3, 8, 8)), path)


@pytest.mark.parametrize("net", [lambda x: x, "resnet18", nn.Linear])
def test_not_a_module(net, path):
    kind = type(net).__name__
    with pytest.raises(
        ArgumentError, match=f"export_onnx: expected a Module as network, .* {kind}"
    ):
        mr.export_onnx(net, mr.randn(2, 3), path)


def test_a_module_without_forward(path):
    net = nn.ModuleList([nn.ReLU()])
    words = r"export_onnx: expected a network with a forward\(\), got ModuleList, .*nn\.Sequential"
    with pytest.raises(ArgumentError, match=words):
        mr.export_onnx(net, mr.ones(2, 3), path)


@pytest.mark.parametrize("x", [None, (1, 3, 8, 8), [], "x"])
def test_not_a_tensor(x, path):
    with pytest.raises(ArgumentError, match="expected a tensor, or a tuple of tensors, as x, got"):
        mr.export_onnx(nn.ReLU(), x, path)


@pytest.mark.parametrize("shapes", [[()], [(0, 3)], [(2, 3), (3, 3)]])
def test_no_batch(shapes, path):
    x = tuple(mr.zeros(*shape) if shape else mr.tensor(1.0) for shape in shapes)
    with pytest.raises(ShapeError, match="expected inputs with one batch size, at least 1, got"):
        mr.export_onnx(nn.ReLU(), x, path)


def test_a_network_that_returns_something_else(path):
    with pytest.raises(ArgumentError, match="to return a tensor, or a tuple of tensors, got dict"):
        mr.export_onnx(Apply(lambda x: {"y": x}), mr.randn(2, 3), path)


def test_a_folder_in_the_way(tmp_path):
    pytest.importorskip("onnx")
    with pytest.raises(CheckpointError, match="expected to be able to write"):
        mr.export_onnx(nn.ReLU(), mr.randn(2, 3), tmp_path)
    file = tmp_path / "file"
    file.write_text("here")
    with pytest.raises(CheckpointError, match=r"write net.onnx, got (File exists|Not a directory)"):
        mr.export_onnx(nn.ReLU(), mr.randn(2, 3), file / "net.onnx")
    assert file.read_text() == "here"
    assert [*tmp_path.iterdir()] == [file]


def test_a_file_that_was_there_survives_an_error(tmp_path):
    pytest.importorskip("onnx")
    old = tmp_path / "net.onnx"
    old.write_text("old")
    with pytest.raises(ExportError):
        mr.export_onnx(Apply(Cube.apply), mr.randn(2, 3), old)
    assert old.read_text() == "old"


def test_too_large_for_one_file(path, monkeypatch):
    monkeypatch.setattr(onnx_module, "MOST_BYTES", 100)
    with pytest.raises(ExportError, match="expected at most 2 GB of parameters, got 360 bytes"):
        mr.export_onnx(nn.Linear(9, 9), mr.randn(2, 9), path)


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ExportError, match=r"the package onnx, got none .*pip install 'minires\[on"):
        mr.export_onnx(nn.ReLU(), mr.randn(2, 3), tmp_path / "net.onnx")
    assert [*tmp_path.iterdir()] == []


def test_modes_are_restored_after_an_error(path):
    net = nn.Sequential(nn.Dropout(), Apply(Cube.apply))
    with pytest.raises(ExportError):
        mr.export_onnx(net, mr.randn(2, 3), path)
    assert all(module.training for module in net.modules())
    assert not any(module._forward_pre_hooks for module in net.modules())


def test_the_table_in_the_documentation():
    """A row for each model, and none off by more than is promised."""
    page = (Path(__file__).parents[2] / "docs/export.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| [\dx]+ \| .* \| (\S+) \|$", page, re.MULTILINE)
    assert [name for name, _ in rows] == list_models()
    assert max(float(error) for _, error in rows) < 1e-4
