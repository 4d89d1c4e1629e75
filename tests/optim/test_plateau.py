"""StepLR, ReduceLROnPlateau, and the names of ``optim.lr_scheduler``."""

import itertools
import json
import math

import numpy as np
import pytest

from minires import optim
from minires.errors import ArgumentError
from minires.optim import SGD, ReduceLROnPlateau, StepLR, lr_scheduler
from minires.tensor import Tensor


@pytest.fixture
def sgd(param):
    return lambda lr=1.0, **options: SGD([param([1.0])], lr=lr, **options)


def lr(optimizer):
    return optimizer.param_groups[0]["lr"]


@pytest.mark.slow
def test_names_are_pytorchs():
    for name in lr_scheduler.__all__:
        assert getattr(lr_scheduler, name) is getattr(optim, name)
    torch = pytest.importorskip("torch")
    assert set(lr_scheduler.__all__) <= set(torch.optim.lr_scheduler.__all__)


def test_step(sgd):
    schedule = StepLR(sgd(0.8), 2, gamma=0.5)
    seen = []
    for _ in range(5):
        seen.append(lr(schedule.optimizer))
        schedule.step()
    assert seen == [0.8, 0.8, 0.4, 0.4, 0.2]
    assert repr(schedule) == "StepLR(step_size=2, gamma=0.5) at step 5"
    for options, words in (
        ({"step_size": 0}, "step_size an integer >= 1"),
        ({"gamma": 0.0}, "gamma a finite number > 0"),
    ):
        with pytest.raises(ArgumentError, match=words):
            StepLR(sgd(), **{"step_size": 1, **options})


def run(schedule, values):
    seen = []
    for value in values:
        schedule.step(value)
        seen.append(lr(schedule.optimizer))
    return seen


def test_the_rate_falls_after_patience_is_over(sgd):
    schedule = ReduceLROnPlateau(sgd(), factor=0.5, patience=1)
    assert run(schedule, [3, 2, 2, 2, 2, 2, 1, 1]) == [1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.25]
    assert (schedule.best, schedule.num_bad_epochs, schedule.last_epoch) == (1, 1, 8)
    assert schedule.get_last_lr() == [0.25]


def test_an_accuracy_should_rise(sgd):
    schedule = ReduceLROnPlateau(sgd(), "max", 0.5, patience=0, threshold=0.5, threshold_mode="abs")
    assert run(schedule, [1.0, 2.0, 2.4, 3.0]) == [1, 1, 0.5, 0.5]


def test_cooldown_and_the_lowest_rate(sgd):
    schedule = ReduceLROnPlateau(sgd(), factor=0.1, patience=0, cooldown=2, min_lr=0.05)
    assert run(schedule, [1] * 8) == [1, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05]


def test_a_rate_for_each_group(param):
    groups = [{"params": [param([1.0])]}, {"params": [param([1.0])], "lr": 2.0}]
    optimizer = SGD(groups, lr=1.0)
    schedule = ReduceLROnPlateau(optimizer, factor=0.1, patience=0, min_lr=[0.5, 0.0])
    run(schedule, [1, 1])
    assert schedule.get_last_lr() == [0.5, 0.2]
    optimizer.add_param_group({"params": [param([1.0])]})
    with pytest.raises(ArgumentError, match=r"expected the 2 parameter group\(s\) it was built on"):
        schedule.step(1.0)


def test_a_tensor_is_a_value_and_nan_is_never_better(sgd):
    schedule = ReduceLROnPlateau(sgd(), factor=0.5, patience=0)
    assert run(schedule, [Tensor(np.array(2.0)), math.nan, 1.0]) == [1, 0.5, 0.5]


def test_a_resumed_schedule_goes_on(sgd):
    values = [3, 2, 2, 2, 1.5, 1.6, 1.7, 1.5, 1.5, 1.5]
    whole = run(ReduceLROnPlateau(sgd(), factor=0.5, patience=1, cooldown=1), values)
    first = ReduceLROnPlateau(sgd(), factor=0.5, patience=1, cooldown=1)
    part = run(first, values[:5])
    second = ReduceLROnPlateau(sgd(part[-1]), factor=0.5, patience=1, cooldown=1)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert part + run(second, values[5:]) == whole


def test_plateau_errors(sgd):
    bad = [
        ({"mode": "low"}, "unknown mode 'low'"),
        ({"threshold_mode": "relative"}, "unknown threshold_mode 'relative': did you mean rel"),
        ({"factor": 1.0}, "factor a finite number >= 0 and < 1, got 1.0"),
        ({"patience": -1}, "patience an integer >= 0, got -1"),
        ({"cooldown": 0.5}, "cooldown an integer >= 0, got 0.5"),
        ({"min_lr": [0, 0]}, r"min_lr for 1 group\(s\), got 2"),
        ({"eps": math.inf}, "eps a finite number >= 0, got inf"),
    ]
    for options, words in bad:
        with pytest.raises(ArgumentError, match=words):
            ReduceLROnPlateau(sgd(), **options)
    with pytest.raises(ArgumentError, match="expected an optimizer, got list"):
        ReduceLROnPlateau([])
    schedule = ReduceLROnPlateau(sgd())
    with pytest.raises(ArgumentError, match=r"a dict with last_epoch, best, num_bad.* got best"):
        schedule.load_state_dict({"best": 1.0})
    assert schedule.best == math.inf


@pytest.mark.slow
def test_parity_of_the_plateau(sgd):
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(0).standard_normal(60)
    values[20] = np.nan
    for mode, threshold_mode, cooldown in itertools.product(("min", "max"), ("rel", "abs"), (0, 2)):
        options = {
            "mode": mode,
            "factor": 0.5,
            "patience": 2,
            "threshold": 0.05,
            "threshold_mode": threshold_mode,
            "cooldown": cooldown,
            "min_lr": 0.01,
        }
        ours = ReduceLROnPlateau(sgd(), **options)
        their_sgd = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=1.0)
        theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(their_sgd, **options)
        for value in values:
            ours.step(value)
            theirs.step(value)
            assert lr(ours.optimizer) == lr(their_sgd)
        assert (ours.best, ours.num_bad_epochs) == (theirs.best, theirs.num_bad_epochs)


def test_parity_of_step(sgd):
    torch = pytest.importorskip("torch")
    ours = StepLR(sgd(0.3), 3, 0.7)
    their_sgd = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.3)
    theirs = torch.optim.lr_scheduler.StepLR(their_sgd, 3, 0.7)
    for _ in range(10):
        assert lr(ours.optimizer) == pytest.approx(lr(their_sgd), rel=1e-12)
        their_sgd.step()
        ours.step()
        theirs.step()
