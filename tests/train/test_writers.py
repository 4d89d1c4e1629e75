"""What a run writes down: a table of its epochs, and files for TensorBoard."""

from __future__ import annotations

import csv
import gc
import sys

import numpy as np
import pytest
from harness import raises

import minires as mr
from minires import nn, optim
from minires.data import DataLoader, TensorDataset
from minires.errors import ArgumentError, CheckpointError, ExportError
from minires.train import Callback, CSVLogger, TensorBoard, fit
from minires.utils.tensorboard import SummaryWriter


@pytest.fixture(autouse=True)
def _references():
    """Nothing here is about speed, and kernels would have to be compiled."""
    with mr.backend("numpy"):
        yield


def parts():
    mr.manual_seed(1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(20, 2))
    loader = DataLoader(TensorDataset(mr.randn(12, 1, 5, 4), mr.arange(12) % 2), 5)
    return net, loader, loader, optim.SGD(net.parameters(), lr=0.1)


class Interrupted(Callback):
    """Ctrl-C in the second epoch, after one step."""

    def on_step(self, run, step, loss):
        if len(run.history) == 1:
            raise KeyboardInterrupt


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_line_for_each_epoch(tmp_path):
    path = tmp_path / "new" / "history.csv"

    class More(Callback):
        def on_epoch_end(self, run, row):
            if row["epoch"] == 2:
                row["norm"] = 1.5

    rows = fit(*parts(), epochs=3, callbacks=[More(), CSVLogger(path)])
    written = table(path)
    assert [list(line) for line in written] == [[*rows[0], "norm"]] * 3
    assert [line["norm"] for line in written] == ["", "1.5", ""]
    assert [float(line["train_loss"]) for line in written] == [r["train_loss"] for r in rows]


def test_a_resumed_run_has_all_its_lines(tmp_path):
    path, checkpoint = tmp_path / "history.csv", tmp_path / "run.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fit(
            *parts(),
            epochs=3,
            checkpoint=checkpoint,
            callbacks=[Interrupted(), CSVLogger(path)],
        )
    assert [line["epoch"] for line in table(path)] == ["1"]
    path.write_text("of another run\n")
    logger = CSVLogger(path)
    fit(*parts(), epochs=3, checkpoint=checkpoint, resume=True, callbacks=[logger])
    assert [line["epoch"] for line in table(path)] == ["1", "2", "3"]
    path.unlink()
    fit(*parts(), epochs=3, checkpoint=checkpoint, resume=True, callbacks=[logger])
    assert len(table(path)) == 3  # of a run that is done


def test_a_folder_that_cannot_be_written_is_found_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    with raises(CheckpointError, "history.csv"):
        fit(*parts(), epochs=1, callbacks=[CSVLogger(tmp_path / "file" / "history.csv")])


# **** TensorBoard ****


def events(folder):
    """{tag: [(step, value)]} of all files in a folder, as they stand on the disk."""
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for path in sorted(folder.rglob("events.*")):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            for value in event.summary.value:
                kind = value.WhichOneof("value")
                found.setdefault(value.tag, []).append((event.step, getattr(value, kind)))
            if event.graph_def:
                found.setdefault("graph", []).append((event.step, event.graph_def))
            if event.HasField("session_log"):
                found.setdefault("purged", []).append((event.step, event.session_log.status))
    return found


@pytest.fixture
def _installed():
    pytest.importorskip("tensorboardX")


@pytest.mark.usefixtures("_installed")
def test_curves_of_a_run(tmp_path):
    rows = fit(*parts(), epochs=2, callbacks=[TensorBoard(tmp_path, histograms=True)])
    found = events(tmp_path)
    for tag, expected in {
        "loss/train": [row["train_loss"] for row in rows],
        "accuracy/test": [1 - row["test_error"] for row in rows],
        "lr": [0.1, 0.1],
    }.items():
        assert [step for step, _ in found[tag]] == [1, 2]
        assert np.allclose([value for _, value in found[tag]], expected, rtol=1e-6)
    assert {"loss/test", "accuracy/train"} < set(found)
    assert found["weights/1.weight"][1][1].num == 40
    assert found["gradients/1.bias"][0][1].num == 2


@pytest.mark.usefixtures("_installed")
def test_an_interrupt_leaves_whole_epochs_and_a_resume_goes_on(tmp_path):
    folder, checkpoint = tmp_path / "board", tmp_path / "run.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fit(
            *parts(),
            epochs=3,
            checkpoint=checkpoint,
            callbacks=[TensorBoard(folder), Interrupted()],
        )
    gc.collect()  # what the end of the process does, too
    assert [step for step, _ in events(folder)["lr"]] == [1]
    resumed = [TensorBoard(folder)]
    fit(*parts(), epochs=3, checkpoint=checkpoint, resume=True, callbacks=resumed)
    found = events(folder)
    assert sorted(step for step, _ in found["lr"]) == [1, 2, 3]
    assert [step for step, _ in found["purged"]] == [2]


@pytest.mark.usefixtures("_installed")
def test_every_method(tmp_path):
    from matplotlib.figure import Figure

    with SummaryWriter(tmp_path) as writer:
        writer.add_scalar("a", mr.tensor([0.5], requires_grad=True), 3)
        writer.add_scalars("b", {"x": 1, "y": mr.tensor(2.0)}, 3)
        writer.add_histogram("c", mr.randn(3, 5, requires_grad=True), 1)
        writer.add_image("d", mr.rand(3, 5, 7), 1)
        writer.add_image("e", np.zeros((5, 7), np.uint8), 1, dataformats="HW")
        writer.add_images("f", mr.rand(2, 1, 5, 7).transpose(2, 3), 1)
        figure = Figure(figsize=(2, 1))
        figure.subplots().plot([1, 2])
        writer.add_figure("g", figure, 1)
        writer.add_text("h", "**text**", 1)
        writer.add_pr_curve("i", mr.tensor([0, 1, 1]), mr.tensor([0.2, 0.7, 0.9]), 1)
        assert writer.get_logdir() == str(tmp_path)
        writer.flush()
    found = events(tmp_path)
    assert found["c"][0][1].num == 15
    assert (found["d"][0][1].height, found["d"][0][1].width) == (5, 7)
    assert (found["e"][0][1].height, found["e"][0][1].width) == (5, 7)
    assert found["a"] == [(3, 0.5)]
    assert sorted(found["b"]) == [(3, 1.0), (3, 2.0)]
    assert found["f"][0][1].height == 7
    assert {"g", "h/text_summary", "i"} < set(found)


@pytest.mark.usefixtures("_installed")
def test_the_graph_of_a_network(tmp_path):
    pytest.importorskip("onnx")
    net = parts()[0].eval()
    with SummaryWriter(tmp_path) as writer:
        writer.add_graph(net, mr.ones(2, 1, 5, 4))
    assert b"Gemm" in events(tmp_path)["graph"][0][1]


@pytest.mark.usefixtures("_installed")
def test_bad_arguments(tmp_path):
    with SummaryWriter(tmp_path) as writer:
        with raises(ArgumentError, "SummaryWriter.add_scalar: expected one number, got 'x'"):
            writer.add_scalar("a", "x")
        with raises(ArgumentError, "add_scalar: expected one number"):
            writer.add_scalar("a", mr.ones(2))
        with raises(ArgumentError, "add_text: expected a tag"):
            writer.add_text("", "x")
        with raises(ArgumentError, "add_histogram: expected global_step an integer"):
            writer.add_histogram("a", mr.ones(2), "1")
        with raises(ArgumentError, "add_scalars: expected a dict"):
            writer.add_scalars("a", 1)
        with raises(ExportError, "add_image: expected what tensorboardX can write"):
            writer.add_image("a", mr.ones(2))
        with raises(ArgumentError, "add_graph: expected an input", "Pass a batch"):
            writer.add_graph(parts()[0])


def test_without_tensorboardx_one_line_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    for call in (SummaryWriter, lambda: TensorBoard(tmp_path)):
        with raises(ExportError, "expected the package tensorboardX", "minires[tensorboard]"):
            call()
