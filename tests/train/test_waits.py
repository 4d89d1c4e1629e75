"""How often the host waits for a GPU: once per step, and once for a loss."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
from cuda_stand_in import cuda_backend
from cupy_stand_in import streams

import minires as mr
from minires import data
from minires.device import fetched
from minires.errors import ArgumentError, NaNError
from minires.models import create
from minires.optim import SGD
from minires.train import evaluate, fit, train_epoch


@pytest.fixture
def waits(monkeypatch):
    """How often the host has waited for values so far, as a list of that length. Copies to the GPU
    do not count: CuPy takes them from pinned memory, and goes on."""
    found = []
    wait = streams.host_waits

    def host_waits(error=streams.TO_HOST):
        if error == streams.TO_HOST:
            found.append(error)
        wait(error)

    monkeypatch.setattr(streams, "host_waits", host_waits)
    with cuda_backend():
        yield found


def loader(images=12, size=4):
    digits = data.load("digits").limit(images)
    return data.DataLoader(digits, size, device="cuda")


def network():
    mr.manual_seed(0)
    net = create("cifar_resnet8", in_channels=1).to("cuda")
    return net, SGD(net.parameters(), 0.01, momentum=0.9)


def test_a_captured_step_waits_once(waits):
    net, optimizer = network()
    marks = []
    fit(
        net,
        loader(40),
        loader(16),
        optimizer,
        epochs=1,
        watch=lambda running: marks.append((running.training, len(waits))),
        capture=True,
    )
    steps = [b - a for (_, a), (_, b) in itertools.pairwise(marks)]
    assert len(steps) == 13
    assert steps[5:9] == [1] * 4, "when the step has been recorded"
    assert steps[-1] == 1, "an evaluation"


def test_an_eager_step_waits_once_more_for_its_loss(waits):
    net, optimizer = network()
    marks = []
    train_epoch(net, loader(), optimizer, on_step=lambda *_: marks.append(len(waits)))
    assert np.diff(marks).tolist() == [2, 2]


def test_an_error_is_of_its_own_step(waits, monkeypatch):
    """And nothing has been learned from it."""
    net = mr.nn.Sequential(mr.nn.Flatten(), mr.nn.Linear(64, 10)).to("cuda")
    optimizer = SGD(net.parameters(), 0.01)
    batches = [*loader()]
    batches[1] = (mr.tensor(np.full((4, 1, 8, 8), np.inf, np.float32)).to("cuda"), batches[1][1])
    done, updates = [], []
    step = optimizer.step
    monkeypatch.setattr(optimizer, "step", lambda: (updates.append(1), step())[1])
    text = r"train_epoch: expected finite inputs, got inf at index \(0, 0, 0, 0\) \(batch 1 of"
    with pytest.raises(NaNError, match=text):
        train_epoch(net, batches, optimizer, on_step=lambda *args: done.append(args))
    assert len(done) == len(updates) == 1
    with pytest.raises(NaNError, match=text.replace("train_epoch", "evaluate")):
        evaluate(net, batches)


def test_the_loss_waits_once(waits):
    x = mr.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]]).to("cuda")
    y, wrong = (mr.tensor(labels).to("cuda") for labels in ([2, 0], [2, 3]))
    of_none, likely = (mr.tensor(a).to("cuda") for a in ([-100, -100], [[0.5, 0.5], [1.0, 0.0]]))
    rows = mr.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]).to("cuda")
    for target, reduction in ((y, "mean"), (y, "sum"), (of_none, "none"), (rows, "mean")):
        del waits[:]
        mr.cross_entropy(x, target, reduction=reduction)
        assert len(waits) == 1
    with pytest.raises(ArgumentError, match=r"labels in 0\.\.2, got 3 at index 1 .* from 0"):
        mr.cross_entropy(x, wrong)
    with pytest.raises(ArgumentError, match="every label is ignore_index=-100"):
        mr.cross_entropy(x, of_none)
    with pytest.warns(UserWarning, match="looks like probabilities") as caught:
        mr.cross_entropy(likely, mr.tensor([0, 1]).to("cuda"))
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="looks like probabilities") as caught:
        mr.cross_entropy(likely, likely)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mr.cross_entropy(likely * 2 - 0.5, mr.tensor([0, 1]).to("cuda"))  # rows of sum 1, below 0


def test_numbers_are_fetched_together(waits):
    there = mr.tensor([0.1], dtype="float32").to("cuda")._array
    count = mr.tensor(7).to("cuda")._array
    del waits[:]
    found = fetched(there, True, np.float32(0.1), count, None, np.array([3]))
    assert found == [float(np.float32(0.1)), True, float(np.float32(0.1)), 7, None, 3]
    assert len(waits) == 1
    assert fetched(1, None) == [1, None]
