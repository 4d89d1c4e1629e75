"""The search for a learning rate: what it finds, and that it leaves everything as it was."""

from __future__ import annotations

import math

import numpy as np
import pytest
from harness import raises

import minires as mr
from minires import nn, optim, random
from minires.data import DataLoader, TensorDataset
from minires.errors import ArgumentError, DataError, NaNError
from minires.train import LRSearch, find_lr
from minires.train.finder import _smoothed, _steepest


@pytest.fixture(autouse=True)
def _references():
    """Nothing here is about speed, and kernels would have to be compiled."""
    with mr.backend("numpy"):
        yield


def parts(n=60, make=lambda p: optim.SGD(p, lr=0.3, momentum=0.9)):
    mr.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Dropout(0.2), nn.Flatten(), nn.Linear(18, 2)
    )
    x = mr.randn(n, 1, 5, 4)
    y = mr.tensor((x.numpy()[:, 0, 0, 0] > 0).astype(np.int64))
    return net, DataLoader(TensorDataset(x, y), 7, shuffle=True, seed=3), make(net.parameters())


def step(net, loader, optimizer):
    """One step of a training, after which nothing is as it was at the start."""
    x, y = next(iter(loader))
    optimizer.zero_grad()
    mr.cross_entropy(net(x), y).backward()
    optimizer.step()


def everything(net, loader, optimizer):
    """All that a search may touch, as bytes and plain values."""
    tensors = {name: value.numpy().tobytes() for name, value in net.state_dict().items()}
    gradients = {
        name: None if p.grad is None else p.grad.numpy().tobytes()
        for name, p in net.named_parameters()
    }
    state = optimizer.state_dict()
    kept = {
        (index, name): value.tobytes() if isinstance(value, np.ndarray) else value
        for index, values in state["state"].items()
        for name, value in values.items()
    }
    modes = [module.training for module in net.modules()]
    return tensors, gradients, kept, state["param_groups"], modes, random.get_state(), loader.epoch


OPTIMIZERS = [
    lambda p: optim.SGD(p, lr=0.3, momentum=0.9),
    lambda p: optim.Adam(p, lr=0.3),
    lambda p: optim.RMSprop(p, lr=0.3),
]


@pytest.mark.parametrize("make", OPTIMIZERS)
@pytest.mark.parametrize("begun", [False, True])
def test_everything_is_as_it_was(make, begun):
    net, loader, optimizer = parts(make=make)
    if begun:
        step(net, loader, optimizer)
    net[1].eval()  # a frozen batch norm
    before = everything(net, loader, optimizer)
    gradients = [p.grad for p in net.parameters()]
    found = find_lr(net, loader, optimizer, steps=20)
    assert len(found.lrs) > 10
    assert everything(net, loader, optimizer) == before
    assert all(p.grad is g for p, g in zip(net.parameters(), gradients))
    assert find_lr(net, loader, optimizer, steps=20) == found  # the same draws again


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_after_an_error_too(error):
    net, loader, optimizer = parts()
    step(net, loader, optimizer)
    before, calls = everything(net, loader, optimizer), []

    def loss(logits, y):
        calls.append(1)
        if len(calls) == 4:
            raise error
        return mr.cross_entropy(logits, y)

    with pytest.raises(error):
        find_lr(net, loader, optimizer, loss_fn=loss)
    assert everything(net, loader, optimizer) == before


def test_weights_that_cannot_be_written_stay_out_of_it():
    net, loader, _ = parts()
    values = np.ones(net[0].weight.shape, np.float32)
    values.flags.writeable = False
    net[0].weight = nn.Parameter(mr.from_numpy(values), requires_grad=False)
    optimizer = optim.SGD(net[4].parameters(), lr=0.1)
    assert find_lr(net, loader, optimizer, steps=10).losses


def test_parameters_outside_of_the_optimizer():
    net, loader, _ = parts()
    optimizer = optim.SGD(net[4].parameters(), lr=0.1)
    step(net, loader, optimizer)
    before = everything(net, loader, optimizer)
    find_lr(net, loader, optimizer, steps=10)  # adds to gradients that nobody sets to zero
    assert everything(net, loader, optimizer) == before


def test_what_it_finds():
    net, loader, optimizer = parts()
    found = find_lr(net, loader, optimizer, start_lr=1e-5, end_lr=100, steps=50)
    assert found.lrs[0] == 1e-5
    ratios = np.diff(np.log(found.lrs))
    assert np.allclose(ratios, math.log(1e7) / 49)
    assert len(found.losses) == len(found.smoothed) == len(found.lrs)
    assert 1e-3 < found.suggestion < 10
    assert found.suggestion in found.lrs


def test_where_it_diverges_it_ends():
    net, loader, optimizer = parts()
    found = find_lr(net, loader, optimizer, start_lr=1e-3, end_lr=1e9, steps=60)
    assert 10 < len(found.lrs) < 60
    assert all(map(math.isfinite, found.losses))


def test_a_loss_that_is_no_number_ends_it():
    net, loader, optimizer = parts()
    calls = []

    def loss(logits, y):
        calls.append(1)
        return mr.cross_entropy(logits, y) * (math.nan if len(calls) == 5 else 1.0)

    assert len(find_lr(net, loader, optimizer, loss_fn=loss).losses) == 4

    with raises(NaNError, "find_lr: expected a finite loss at the first rate, got nan"):
        find_lr(net, loader, optimizer, loss_fn=lambda z, y: mr.cross_entropy(z, y) * math.nan)


def test_the_smoothed_loss_and_the_steepest_fall():
    assert np.allclose(_smoothed([2.0, 2.0, 2.0]), 2)
    assert np.allclose(_smoothed([1.0, 2.0]), [1, (0.09 + 0.2) / 0.19])
    lrs = [10.0**i for i in range(6)]
    assert _steepest(lrs, [5, 4.9, 4, 2, 1.9, 8]) == 100  # where the mean of both slopes is
    assert _steepest(lrs, [1, 2, 3, 4, 5, 6]) is None
    assert _steepest(lrs[:2], [2, 1]) is None


def test_captured_it_finds_the_same():
    net, loader, optimizer = parts(n=63)  # whole batches
    plain = find_lr(net, loader, optimizer, steps=12)
    before = everything(net, loader, optimizer)
    with mr.backend("auto"):
        captured = find_lr(net, loader, optimizer, steps=12, capture=True)
    assert np.allclose(captured.losses, plain.losses, rtol=1e-4)
    assert everything(net, loader, optimizer) == before


def test_the_figure_and_what_a_notebook_shows():
    found = find_lr(*parts(), steps=30)
    axis = found.figure().axes[0]
    assert axis.get_xscale() == "log"
    assert list(axis.lines[1].get_ydata()) == found.smoothed
    assert axis.lines[2].get_xdata()[0] == found.suggestion
    png, size = found._repr_png_()
    assert png.startswith(b"\x89PNG")
    assert size == {"width": 640}
    assert repr(found) == f"LRSearch(suggestion={found.suggestion!r})"
    rising = LRSearch([1.0, 2.0], [1.0, 2.0], [1.0, 1.5], None)
    assert len(rising.figure().axes[0].lines) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"start_lr": 0}, "find_lr: expected start_lr a finite number > 0, got 0"),
        ({"start_lr": 1.0, "end_lr": 1.0}, "find_lr: expected start_lr < end_lr, got 1 and 1"),
        ({"end_lr": math.inf}, "end_lr"),
        ({"steps": 9}, "find_lr: expected steps"),
    ],
)
def test_bad_arguments(options, words):
    with raises(ArgumentError, words):
        find_lr(*parts(), **options)


def test_a_generator_that_ends():
    net, loader, optimizer = parts()
    with raises(DataError, "find_lr: expected a batch for each step", "fewer steps"):
        find_lr(net, iter(list(loader)), optimizer)
