"""The loop: what it measures, what it refuses, and that a resumed run is the same run."""

import math

import numpy as np
import pytest

from minires import random
from minires.errors import ArgumentError, CheckpointError, DataError, NaNError, ShapeError
from minires.nn import BatchNorm2d, Conv2d, Linear, Module
from minires.optim import SGD
from minires.tensor import Tensor, from_numpy
from minires.train import (
    EpochResult,
    evaluate,
    fit,
    load_checkpoint,
    read_progress,
    save_checkpoint,
    train_epoch,
)


class Fixed:
    """A model that answers with its input: the test decides every logit."""

    training = True

    def __init__(self):
        self.seen_modes = []
        self.scale = Tensor(np.ones(()), requires_grad=True)

    def __call__(self, x):
        self.seen_modes.append(self.training)
        return x * self.scale

    def state_dict(self):
        return {"scale": self.scale.detach()}

    def load_state_dict(self, state):
        self.scale.data[...] = state["scale"].data

    def train(self, mode=True):
        self.training = mode

    def eval(self):
        self.train(False)


X = np.array([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
Y = np.array([0, 0, 0])
LOSSES = [math.log1p(math.exp(-2)), math.log1p(math.exp(1)), math.log1p(math.exp(-3))]
BATCHES = [(X[:2], Y[:2]), (X[2:], Y[2:])]


def test_evaluate_weighs_batches_by_their_size():
    result = evaluate(Fixed(), BATCHES)
    assert result.loss == pytest.approx(sum(LOSSES) / 3, rel=1e-12)
    assert result.error == pytest.approx(1 / 3)
    assert result.examples == 3
    assert result.seconds > 0
    assert isinstance(result, EpochResult)


def test_labels_may_be_probabilities():
    soft = [(X, np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]]))]
    assert evaluate(Fixed(), soft).error == pytest.approx(2 / 3)


def test_train_epoch_measures_before_each_step():
    net = Fixed()
    calls = []
    result = train_epoch(
        net, BATCHES, SGD([net.scale], lr=0.5), on_step=lambda *call: calls.append(call)
    )
    # d(loss)/d(scale) of the first batch at scale 1, by hand: mean of -2 s(-2) and 1 s(1).
    sigmoid = lambda t: 1 / (1 + math.exp(-t))  # noqa: E731
    scale = 1 - 0.5 * (-2 * sigmoid(-2) + sigmoid(1)) / 2
    last = math.log1p(math.exp(-3 * scale))
    assert calls[0] == (0, pytest.approx(sum(LOSSES[:2]) / 2, rel=1e-12))
    assert calls[1] == (1, pytest.approx(last, rel=1e-12))
    assert result.loss == pytest.approx((sum(LOSSES[:2]) + last) / 3, rel=1e-12)
    assert net.seen_modes == [True, True]


@pytest.mark.parametrize("mode", [True, False])
def test_evaluate_builds_no_graph_and_restores_the_mode(mode):
    net = Fixed()
    net.train(mode)
    losses = []

    def loss_fn(logits, labels):
        losses.append(logits)
        return (logits * logits).mean()

    evaluate(net, BATCHES, loss_fn=loss_fn)
    assert net.seen_modes == [False, False]
    assert net.training is mode
    assert not losses[0].requires_grad
    with pytest.raises(ZeroDivisionError):
        evaluate(net, BATCHES, loss_fn=lambda a, b: 1 / 0)
    assert net.training is mode


def test_schedule_steps_once_per_optimizer_step(make_run, make_loader):
    net, optimizer, schedule = make_run()
    train_epoch(net, make_loader(), optimizer, schedule=schedule)
    assert schedule.last_epoch == 4
    assert net.modes == [True] * 4


def test_old_gradients_do_not_leak_into_the_first_step(make_run, make_loader):
    weights = []
    for stale in (False, True):
        net, optimizer, _ = make_run()
        if stale:
            for p in net.parameters():
                p.grad = from_numpy(np.full_like(p.data, 1e3))
        train_epoch(net, make_loader(), optimizer)
        weights.append(net.params["fc1.weight"].data)
    assert np.array_equal(*weights)


# -- trouble


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_bad_inputs_are_the_datas_fault(value):
    x = X.copy()
    x[1, 0] = value
    net = Fixed()
    words = rf"finite inputs, got {value} at index \(1, 0\) \(batch 1 of shape \(3, 2\)\)\. The da"
    with pytest.raises(NaNError, match="train_epoch: expected " + words):
        train_epoch(net, [BATCHES[0], (x, Y)], SGD([net.scale]))
    with pytest.raises(NaNError, match="evaluate: expected " + words):
        evaluate(net, [BATCHES[0], (x, Y)])
    assert net.training


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_loss_that_is_not_finite_stops_before_the_step():
    net = Fixed()

    def blow_up(logits, labels):
        return (logits * float("inf")).sum() if logits.shape[0] == 1 else logits.mean()

    with pytest.raises(NaNError) as caught:
        train_epoch(net, BATCHES, SGD([net.scale], lr=0.25), loss_fn=blow_up)
    text = str(caught.value)
    assert "train_epoch: expected a finite loss, got nan (step 1 of the epoch, lr 0.25)" in text
    assert "Lower the learning rate" in text
    assert "warm-up (optim.LinearLR)" in text
    assert "detect_anomaly" in text
    assert np.isfinite(net.scale.item())

    with pytest.raises(NaNError, match=r"got nan \(batch 1\)\. Training has diverged"):
        evaluate(net, BATCHES, loss_fn=blow_up)


def test_fit_names_the_epoch_of_a_divergence(make_run, make_loader):
    net, optimizer, _ = make_run()
    count = iter(range(100))

    def loss_fn(logits, labels):
        # An epoch is 4 training batches and 1 test batch.
        return (logits * logits).mean() * (float("nan") if next(count) == 7 else 1.0)

    history = []
    test = make_loader(n=10)
    with pytest.raises(NaNError, match=r"^epoch 2: train_epoch: .* \(step 2 of the epoch"):
        fit(net, make_loader(), test, optimizer, epochs=3, loss_fn=loss_fn, history=history)
    assert [row["epoch"] for row in history] == [1]


def test_no_batches():
    net = Fixed()
    with pytest.raises(DataError, match=r"train_epoch: .*one batch, got none. .*drop_last"):
        train_epoch(net, [], SGD([net.scale]))
    with pytest.raises(DataError, match="evaluate: expected at least one batch"):
        evaluate(net, iter(()))


def test_output_that_is_no_table_of_logits():
    with pytest.raises(ShapeError, match=r"logits of shape \(n, classes\), got \(2, 2, 1\)"):
        evaluate(Fixed(), [(X[:2, :, None], Y[:2])], loss_fn=lambda a, b: a.mean())


def test_evaluating_untrained_statistics_warns(make_run, make_loader):
    net, optimizer, _ = make_run()
    with pytest.warns(UserWarning, match=r"never been updated \(bn.num_batches_tracked = 0, 1 in"):
        evaluate(net, make_loader())
    net.buffers["bn.running_mean"].data[...] = 1  # converted weights, without the count
    evaluate(net, make_loader())
    net.buffers["bn.running_mean"].data[...] = 0
    train_epoch(net, make_loader(), optimizer)
    evaluate(net, make_loader())


# -- fit


def strip(history):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


def test_fit_learns_and_reports(make_run, make_loader):
    net, optimizer, schedule = make_run()
    train, test = make_loader(), make_loader(n=40, seed=1, shuffle=False)
    rows, steps = [], []
    history = fit(
        net,
        train,
        test,
        optimizer,
        epochs=6,
        schedule=schedule,
        on_epoch=rows.append,
        on_step=lambda *call: steps.append(call),
    )
    assert history == rows
    assert list(history[0]) == [
        "epoch",
        "lr",
        "train_loss",
        "train_error",
        "test_loss",
        "test_error",
        "seconds",
    ]
    assert [row["epoch"] for row in history] == [1, 2, 3, 4, 5, 6]
    assert train.epochs_seen == [0, 1, 2, 3, 4, 5]
    assert test.epochs_seen == [0, 1, 2, 3, 4, 5]
    assert history[0]["lr"] == pytest.approx(0.02)  # the warm-up's first rate
    assert history[0]["train_error"] > 0.3
    assert history[-1]["train_error"] < 0.15
    assert history[-1]["test_loss"] < history[0]["test_loss"]
    assert len(steps) == 6 * 4
    expected = evaluate(net, test)
    assert (history[-1]["test_loss"], history[-1]["test_error"]) == (expected.loss, expected.error)


def test_fit_takes_plain_lists():
    net = Fixed()
    history = fit(net, BATCHES, BATCHES, SGD([net.scale], lr=0.1), epochs=2)
    assert len(history) == 2


class Stop(Exception):
    """Stands for a kill: nothing in the loop may handle it."""


@pytest.mark.parametrize("stop_after", [(0, 2), (1, 0), (2, 3), (4, 1), (5, 3)])
def test_a_resumed_run_is_the_same_run(make_run, make_loader, tmp_path, stop_after):
    def run(net, optimizer, schedule, **options):
        return fit(
            net,
            make_loader(),
            make_loader(n=40, seed=1),
            optimizer,
            epochs=6,
            schedule=schedule,
            config={"lr": 0.2, "shape": (8, 3)},
            **options,
        )

    whole_run = make_run()
    whole = run(*whole_run, checkpoint=tmp_path / "whole")
    draws = random.generator().random(4)

    seen = []

    def killer(step, loss):
        seen.append(step)
        if seen.count(0) - 1 == stop_after[0] and step == stop_after[1]:
            raise Stop

    path = tmp_path / "run"
    with pytest.raises(Stop):
        run(*make_run(), checkpoint=path, on_step=killer)
    # A new process: another seed for everything that the checkpoint must restore. Only where no
    # epoch was finished does the seed of the start count.
    parts = make_run(seed=0 if stop_after[0] == 0 else 99)
    history = run(*parts, checkpoint=path, resume=True)

    assert strip(history) == strip(whole)
    a, b = whole_run[0].state_dict(), parts[0].state_dict()
    assert all(np.array_equal(a[k].data, b[k].data) for k in a)
    one, two = whole_run[1].state_dict()["state"], parts[1].state_dict()["state"]
    assert all(np.array_equal(one[i][k], two[i][k]) for i in one for k in one[i])
    assert np.array_equal(random.generator().random(4), draws)
    assert strip(read_progress(path)["history"]) == strip(whole)


@pytest.mark.parametrize("during", ["training", "evaluation", "saving"])
def test_ctrl_c_leaves_the_last_checkpoint(make_run, make_loader, tmp_path, monkeypatch, during):
    path = tmp_path / "run"
    net, optimizer, _ = make_run()
    history = []
    calls = iter(range(100))

    def loss_fn(logits, labels):
        # Batches 0-4 are the first epoch, 5-8 train the second, 9 is its evaluation.
        if next(calls) == {"training": 6, "evaluation": 9}.get(during):
            raise KeyboardInterrupt
        return (logits * logits).mean()

    if during == "saving":
        import os

        real, saves = os.replace, iter(range(100))

        def interrupted(*args):
            if next(saves) == 1:
                raise KeyboardInterrupt
            real(*args)

        monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(
            net,
            make_loader(),
            make_loader(n=10),
            optimizer,
            epochs=3,
            checkpoint=path,
            history=history,
            loss_fn=loss_fn,
        )
    assert [row["epoch"] for row in read_progress(path)["history"]] == [1]
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    assert history[0]["epoch"] == 1


def test_a_finished_run_is_not_trained_again(make_run, make_loader, tmp_path):
    path = tmp_path / "run"
    net, optimizer, _ = make_run()
    first = fit(net, make_loader(), make_loader(), optimizer, epochs=2, checkpoint=path)
    net2, optimizer2, _ = make_run(seed=5)
    calls = []
    second = fit(
        net2,
        make_loader(),
        make_loader(),
        optimizer2,
        epochs=2,
        checkpoint=path,
        resume=True,
        on_step=lambda *call: calls.append(call),
    )
    assert second == first
    assert calls == []
    assert np.array_equal(net.params["fc1.bias"].data, net2.params["fc1.bias"].data)


def test_more_epochs_after_a_finished_run(make_run, make_loader, tmp_path):
    net, optimizer, _ = make_run()
    whole = fit(net, make_loader(), make_loader(), optimizer, epochs=4)
    path = tmp_path / "run"
    net, optimizer, _ = make_run()
    fit(net, make_loader(), make_loader(), optimizer, epochs=2, checkpoint=path)
    longer = fit(
        net, make_loader(), make_loader(), optimizer, epochs=4, checkpoint=path, resume=True
    )
    assert strip(longer) == strip(whole)


def test_history_of_the_caller_goes_on(make_run, make_loader):
    net, optimizer, _ = make_run()
    history = fit(net, make_loader(), make_loader(), optimizer, epochs=1)
    train = make_loader()
    again = fit(net, train, make_loader(), optimizer, epochs=3, history=history)
    assert again is history
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert train.epochs_seen == [1, 2]


def test_without_resume_training_starts_anew(make_run, make_loader, tmp_path):
    path = tmp_path / "run"
    for _ in range(2):
        net, optimizer, _ = make_run()
        rows = fit(net, make_loader(), make_loader(), optimizer, epochs=1, checkpoint=path)
        assert len(rows) == 1


def test_another_runs_checkpoint_is_refused(make_run, make_loader, tmp_path):
    path = tmp_path / "run"
    loaders = (make_loader(), make_loader())
    net, optimizer, _ = make_run()
    config = {"kind": "plain", "lr": 0.2}
    fit(net, *loaders, optimizer, epochs=1, checkpoint=path, config=config)
    net, optimizer, _ = make_run(seed=3)
    before = net.params["fc1.bias"].data.copy()
    options = {"epochs": 2, "checkpoint": path, "resume": True}
    with pytest.raises(
        CheckpointError, match=r"kind 'plain' there and 'residual' here \(1 setting"
    ):
        fit(net, *loaders, optimizer, config={"kind": "residual", "lr": 0.2}, **options)
    with pytest.raises(CheckpointError, match=r"got kind 'plain' there and None here \(2 setting"):
        fit(net, *loaders, optimizer, **options)
    assert np.array_equal(net.params["fc1.bias"].data, before)

    other, optimizer, _ = make_run(hidden=5)
    with pytest.raises(CheckpointError, match=r"4 of other shape or dtype: fc1.weight"):
        fit(other, *loaders, optimizer, config=config, **options)

    save_checkpoint(path, model=net, progress={"epoch": 1})
    with pytest.raises(CheckpointError, match=r"fit .*the fields history, config, got none called"):
        fit(net, *loaders, optimizer, **options)


def test_a_damaged_checkpoint_is_refused_and_kept(make_run, make_loader, tmp_path):
    path = tmp_path / "run"
    path.write_bytes(b"nonsense")
    net, optimizer, _ = make_run()
    with pytest.raises(CheckpointError, match="damaged file of 8 bytes"):
        fit(net, [], [], optimizer, epochs=1, checkpoint=path, resume=True)
    assert path.read_bytes() == b"nonsense"


def test_an_unwritable_checkpoint_is_found_before_training(make_run, make_loader, tmp_path):
    (tmp_path / "file").write_text("")
    net, optimizer, _ = make_run()
    with pytest.raises(CheckpointError, match="folder"):
        fit(
            net,
            make_loader(),
            make_loader(),
            optimizer,
            epochs=1,
            checkpoint=tmp_path / "file" / "run",
        )
    assert net.modes == []


def test_bad_arguments(make_run, tmp_path):
    net, optimizer, _ = make_run()
    for epochs in (0, -1, 2.0, True, "3"):
        with pytest.raises(ArgumentError, match="expected epochs an integer >= 1, got"):
            fit(net, [], [], optimizer, epochs=epochs)
    with pytest.raises(ArgumentError, match=r"checkpoint to resume from, got None. Pass checkpoi"):
        fit(net, [], [], optimizer, epochs=1, resume=True)
    with pytest.raises(ArgumentError, match="config of plain JSON values"):
        fit(net, [], [], optimizer, epochs=1, config={"net": net})


def test_weights_of_a_run_load_alone(make_run, make_loader, tmp_path):
    net, optimizer, schedule = make_run()
    test = make_loader(seed=1, shuffle=False)
    path = tmp_path / "run"
    options = {"schedule": schedule, "checkpoint": path}
    history = fit(net, make_loader(), test, optimizer, epochs=2, **options)
    other, _, _ = make_run(seed=4)
    load_checkpoint(path, model=other)
    assert evaluate(other, test).loss == history[-1]["test_loss"]


class Small(Module):
    """A network that counts how often its Python runs: on the class, for a network whose own
    attributes change is another one."""

    calls = 0

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.fc = Conv2d(1, 4, 3), BatchNorm2d(4), Linear(4, 3)

    def forward(self, x):
        Small.calls += 1
        return self.fc(self.bn(self.conv(x)).relu().mean((2, 3)))


def test_a_captured_run_is_the_same_run():
    rng = np.random.default_rng(0)
    sizes = [6] * 5 + [4]  # the last batch is smaller
    batches = [
        (rng.standard_normal((n, 1, 7, 6)).astype(np.float32), rng.integers(0, 3, n)) for n in sizes
    ]

    def run(capture):
        random.manual_seed(0)
        Small.calls = 0
        net = Small()
        optimizer = SGD(net.parameters(), lr=0.1, momentum=0.9)
        history = fit(net, batches, batches[:3], optimizer, epochs=4, capture=capture)
        state = [t.numpy().copy() for t in net.state_dict().values()]
        return [{**row, "seconds": 0} for row in history], state, Small.calls

    plain, captured = run(False), run(True)
    assert captured[0] == plain[0]
    for ours, theirs in zip(captured[1], plain[1]):
        np.testing.assert_array_equal(ours, theirs)
    assert plain[2] == 4 * (6 + 3)
    assert captured[2] == 9  # of three kinds of batches: as it is, recorded, and to compare with


def test_capture_wants_a_module():
    net = Fixed()
    with pytest.raises(ArgumentError, match="expected a module to capture, got Fixed"):
        train_epoch(net, BATCHES, SGD([net.scale], lr=0.1), capture=True)
