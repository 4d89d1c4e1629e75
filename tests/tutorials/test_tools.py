"""What the tutorial scripts share: options, images with and without data, the clock."""

from __future__ import annotations

import numpy as np
import pytest

from minires.errors import DataError


@pytest.fixture
def tools(tutorial):
    return tutorial("tutorial_tools")


def test_options(tools):
    chosen = tools.options("about", 3, ["--limit", "100", "--seed", "5"])
    assert (chosen.epochs, chosen.limit, chosen.seed, chosen.quick) == (3, 100, 5, False)
    assert tools.options("about", 3, [], limit=7).limit == 7
    quick = tools.options("about", 3, ["--quick", "--epochs", "9"])
    assert (quick.epochs, quick.limit) == (1, tools.QUICK)


def test_without_data(tools, no_data, capsys):
    """Generated images only where --quick asks for no more than that it runs, and it is said."""
    with pytest.raises(DataError, match="minires data get fashion-mnist"):
        tools.images("fashion-mnist", tools.options("about", 1, []))
    train, test = tools.images("fashion-mnist", tools.options("about", 1, ["--quick"]))
    assert capsys.readouterr().out == "fashion-mnist is not there: generated images instead\n"
    assert (len(train), len(test)) == (tools.QUICK, tools.QUICK // 2)
    assert train.shape == (1, 28, 28)
    assert train.classes[9] == "Ankle boot"
    assert not np.array_equal(train.images[: len(test)], test.images)


def test_generated_images_can_be_learnt(tools):
    """The nearest class mean of the training images finds the class of the test images."""
    train, test = (tools.generated("cifar10", 300, seed) for seed in (0, 1))
    means = np.stack([train.images[train.labels == k].mean(axis=0) for k in range(10)])
    distances = ((test.images[:, None] - means) ** 2).sum(axis=(2, 3, 4))
    assert (distances.argmin(axis=1) == test.labels).mean() > 0.95


def test_part(tools):
    everything = tools.generated("mnist", 10, 0)
    some = tools.part(everything, slice(6, None))
    np.testing.assert_array_equal(some.labels, everything.labels[6:])
    np.testing.assert_array_equal(some.images, everything.images[6:])


def test_progress_hands_on_every_batch(tools, monkeypatch, capsys):
    assert list(tools.progress([1, 2, 3], "epoch 1 of 1")) == [1, 2, 3]
    assert capsys.readouterr().err == ""  # no bar in a log file
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert list(tools.progress(iter("ab"), "epoch 1 of 1", 2)) == ["a", "b"]
    assert "epoch 1 of 1" in capsys.readouterr().err


def test_clock(tools, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(tools.time, "perf_counter", lambda: now[0])
    clock = tools.Clock()
    now[0] = 112.34
    assert str(clock) == "12.3 s"
    now[0] = 345.0
    assert str(clock) == "4 min 05 s"
