"""Callbacks of a run: who hears what, who may stop it, and that a resumed run decides the same."""

import numpy as np
import pytest
from harness import raises

import minires as mr
from minires import nn, optim
from minires.data import DataLoader, TensorDataset
from minires.errors import ArgumentError, CheckpointError
from minires.optim.swa_utils import AveragedModel, get_ema_avg_fn
from minires.train import Callback, EarlyStopping, ModelCheckpoint, evaluate, fit
from minires.train.callbacks import Run, best_epoch


@pytest.fixture(autouse=True)
def _references():
    """Nothing here is about speed, and kernels would have to be compiled."""
    with mr.backend("numpy"):
        yield


def parts(lr=0.1):
    mr.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(18, 2))
    x, y = mr.randn(12, 1, 5, 4), mr.arange(12) % 2
    loader = DataLoader(TensorDataset(x, y), 5, shuffle=True, seed=3)
    held_out = DataLoader(TensorDataset(mr.randn(7, 1, 5, 4), mr.arange(7) % 2), 4)
    return net, loader, held_out, optim.SGD(net.parameters(), lr=lr, momentum=0.9)


def history(*losses, name="test_loss"):
    return [{"epoch": i + 1, name: loss} for i, loss in enumerate(losses)]


class Heard(Callback):
    def __init__(self):
        self.calls = []

    def on_fit_start(self, run):
        self.calls.append(("start", len(run.history)))

    def on_step(self, run, step, loss):
        self.calls.append(("step", step, loss))

    def on_epoch_end(self, run, row):
        assert row is run.history[-1]
        self.calls.append(("epoch", row["epoch"]))

    def on_fit_end(self, run):
        self.calls.append(("end", run.stopped))


def test_what_is_heard_and_when():
    heard, steps = Heard(), []
    rows = fit(*parts(), epochs=2, callbacks=[heard], on_step=lambda *call: steps.append(call))
    names = [call[0] for call in heard.calls]
    assert names == ["start", *(["step"] * 3 + ["epoch"]) * 2, "end"]
    assert [call[1:] for call in heard.calls if call[0] == "step"] == steps
    assert len(rows) == 2


def test_a_callback_may_stop_the_run():
    class Stop(Callback):
        def on_epoch_end(self, run, row):
            if row["epoch"] == 2:
                run.stop("enough")

    heard = Heard()
    assert len(fit(*parts(), epochs=9, callbacks=[Stop(), heard])) == 2
    assert heard.calls[-1] == ("end", "enough")


@pytest.mark.parametrize(
    ("losses", "patience", "stops"),
    [
        ((3, 2, 1), 1, False),
        ((1, 2), 1, True),
        ((1, 2), 2, False),
        ((1, 2, 2), 2, True),
        ((1, 2, 0.5), 2, False),
        ((1, 1), 1, True),  # no worse is no better
        ((float("nan"), float("nan")), 1, True),
        ((float("nan"), 1), 1, False),
    ],
)
def test_patience(losses, patience, stops):
    run = Run(None, None, None, 9, history(*losses))
    EarlyStopping(patience).on_epoch_end(run, run.history[-1])
    assert bool(run.stopped) is stops
    resumed = Run(None, None, None, 9, history(*losses))
    EarlyStopping(patience).on_fit_start(resumed)
    assert resumed.stopped == run.stopped


def test_the_best_of_a_maximum():
    rows = history(0.2, 0.9, 0.9, name="accuracy")
    assert best_epoch(rows, "accuracy", "max") == 1
    assert best_epoch(rows, "accuracy", "min") == 0


def test_a_resumed_run_stops_where_the_other_did(tmp_path):
    whole = fit(*parts(0.0), epochs=9, callbacks=[EarlyStopping(3, monitor="lr")], evaluated="val")
    path = tmp_path / "run.safetensors"
    fit(*parts(0.0), epochs=2, checkpoint=path, evaluated="val")
    resumed = fit(
        *parts(0.0),
        epochs=9,
        checkpoint=path,
        resume=True,
        callbacks=[EarlyStopping(3, monitor="lr")],
        evaluated="val",
    )
    measured = [[row[k] for k in row if k != "seconds"] for row in whole]
    assert [[row[k] for k in row if k != "seconds"] for row in resumed] == measured
    again = fit(
        *parts(0.0),
        epochs=9,
        checkpoint=path,
        resume=True,
        callbacks=[EarlyStopping(3, monitor="lr")],
        evaluated="val",
    )
    assert len(again) == len(whole) < 9
    assert {"val_loss", "val_error"} < set(whole[0])


def test_the_best_weights_are_kept(tmp_path):
    class Planned(Callback):
        """Overwrites what was measured, so that the second epoch is the best one."""

        def __init__(self, losses):
            self.losses, self.weights = losses, []

        def on_epoch_end(self, run, row):
            row["test_loss"] = self.losses[row["epoch"] - 1]
            self.weights.append(run.model.state_dict()["3.weight"].numpy().copy())

    planned = Planned([2.0, 1.0, 1.5])
    path = tmp_path / "new" / "best.safetensors"
    keep = ModelCheckpoint(path, metadata={"classes": ["cat", "dog"]})
    fit(*parts(), epochs=3, callbacks=[planned, keep])
    assert np.array_equal(mr.load(path)["3.weight"].numpy(), planned.weights[1])
    assert mr.load_metadata(path)["classes"] == ["cat", "dog"]


def test_a_folder_that_cannot_be_written_is_found_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    heard = Heard()
    keep = ModelCheckpoint(tmp_path / "file" / "best.safetensors")
    with raises(CheckpointError, "best.safetensors"):
        fit(*parts(), epochs=1, callbacks=[keep, heard])
    assert heard.calls == []


def test_an_average_is_what_is_evaluated_and_kept(tmp_path):
    net, loader, held_out, optimizer = parts()
    averaged = AveragedModel(net, get_ema_avg_fn(0.5), use_buffers=True)
    path = tmp_path / "best.safetensors"
    keep = ModelCheckpoint(path, monitor="epoch", mode="max")  # the last
    rows = fit(net, loader, held_out, optimizer, epochs=2, averaged=averaged, callbacks=[keep])
    assert averaged.n_averaged.item() == 6
    assert rows[-1]["test_loss"] == evaluate(averaged.module, held_out).loss
    assert rows[-1]["test_loss"] != evaluate(net, held_out).loss
    kept = mr.load(path)
    assert set(kept) == set(net.state_dict())
    state = averaged.module.state_dict()
    assert all(np.array_equal(kept[name].numpy(), state[name].numpy()) for name in kept)


@pytest.mark.parametrize("capture", [False, True])
def test_a_resumed_average_is_the_same_to_the_bit(capture, tmp_path):
    def run(epochs, **options):
        net, loader, held_out, optimizer = parts()
        averaged = AveragedModel(net, get_ema_avg_fn(0.9), use_buffers=True)
        plateau = optim.ReduceLROnPlateau(optimizer, patience=0)
        rows = fit(
            net,
            loader,
            held_out,
            optimizer,
            epochs=epochs,
            averaged=averaged,
            schedule=plateau,
            capture=capture,
            **options,
        )
        return averaged.state_dict(), [(r["lr"], r["test_loss"], r["train_loss"]) for r in rows]

    path = tmp_path / "run.safetensors"
    whole = run(4)
    run(2, checkpoint=path)
    resumed = run(4, checkpoint=path, resume=True)
    assert resumed[1] == whole[1]
    assert all(np.array_equal(resumed[0][name].numpy(), t.numpy()) for name, t in whole[0].items())
    with raises(CheckpointError, "expected a checkpoint with averaged state"):
        fit(*parts(), epochs=4, checkpoint=tmp_path / "other.safetensors")
        net, loader, held_out, optimizer = parts()
        fit(
            net,
            loader,
            held_out,
            optimizer,
            epochs=5,
            checkpoint=tmp_path / "other.safetensors",
            resume=True,
            averaged=AveragedModel(net),
        )


def test_what_is_refused():
    with raises(ArgumentError, "fit: expected callbacks a list, got"):
        fit(*parts(), epochs=1, callbacks=Heard())
    with raises(ArgumentError, "callbacks of class minires.train.Callback"):
        fit(*parts(), epochs=1, callbacks=[print])
    with raises(ArgumentError, "averaged an AveragedModel of a module"):
        fit(*parts(), epochs=1, averaged=parts()[0])
    with raises(ArgumentError, "evaluated"):
        fit(*parts(), epochs=1, evaluated="training")
    with raises(ArgumentError, "column of the history", "test_loss"):
        fit(*parts(), epochs=1, callbacks=[EarlyStopping(monitor="test_los")])
    with raises(ArgumentError, "patience"):
        EarlyStopping(0)
    with raises(ArgumentError, "mode"):
        ModelCheckpoint("x.safetensors", mode="best")
    with raises(ArgumentError, "monitor the name of a column"):
        EarlyStopping(monitor=3)
