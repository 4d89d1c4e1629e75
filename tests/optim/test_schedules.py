"""Schedules: values by hand, composition, resume, bad arguments; see also tests/parity."""

import json
import math

import pytest

from minires.errors import ArgumentError
from minires.optim import (
    SGD,
    Adam,
    ConstantLR,
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    Optimizer,
    SequentialLR,
    lr_scheduler,
)


@pytest.fixture
def sgd(param):
    return lambda lr=1.0, **options: SGD([param([1.0])], lr=lr, **options)


def rates(schedule, steps):
    """The rate of the first group before each of ``steps`` steps."""
    found = []
    for _ in range(steps):
        found.append(schedule.optimizer.param_groups[0]["lr"])
        assert schedule.get_last_lr()[0] == found[-1]
        schedule.step()
    return found


def test_multistep(sgd):
    schedule = MultiStepLR(sgd(0.5), [2, 3], gamma=0.5)
    assert rates(schedule, 5) == [0.5, 0.5, 0.25, 0.125, 0.125]


def test_exponential(sgd):
    assert rates(ExponentialLR(sgd(0.5), 0.5), 4) == [0.5, 0.25, 0.125, 0.0625]


def test_lambda(sgd, param):
    assert rates(LambdaLR(sgd(0.5), lambda step: 2.0**-step), 3) == [0.5, 0.25, 0.125]
    optimizer = SGD([{"params": [param([1.0])]}, {"params": [param([2.0])], "lr": 0.4}], lr=0.2)
    schedule = LambdaLR(optimizer, lambda step: 1 + step)
    schedule.step()
    assert schedule.get_last_lr() == [0.4, 0.8]
    schedule = LambdaLR(optimizer, [lambda step: 1, lambda step: 0 if step else 0.5])
    assert schedule.get_last_lr() == [0.2, 0.2]
    schedule.step()
    assert schedule.get_last_lr() == [0.2, 0.0]


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("ExponentialLR", 0.9),
        ("LambdaLR", lambda epoch: 0.95**epoch),
        ("LambdaLR", lambda epoch: min(1, (epoch + 1) / 5)),
    ],
)
def test_parity_with_torch(sgd, name, argument):
    torch = pytest.importorskip("torch")
    theirs = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.3)
    schedule = getattr(torch.optim.lr_scheduler, name)(theirs, argument)
    expected = []
    for _ in range(20):
        expected += schedule.get_last_lr()
        theirs.step()
        schedule.step()
    ours = getattr(lr_scheduler, name)(sgd(0.3), argument)
    assert rates(ours, 20) == pytest.approx(expected, rel=1e-12)


def test_cosine(sgd):
    schedule = CosineAnnealingLR(sgd(), 4, eta_min=0.2)
    half = math.sqrt(0.5)
    expected = [1.0, 0.6 + 0.4 * half, 0.6, 0.6 - 0.4 * half, 0.2, 0.6 - 0.4 * half]
    assert rates(schedule, 6) == pytest.approx(expected, abs=1e-15)


def test_linear_warm_up(sgd):
    schedule = LinearLR(sgd(2.0), 0.25, total_iters=3)
    assert rates(schedule, 5) == [0.5, 1.0, 1.5, 2.0, 2.0]


def test_constant(sgd):
    assert rates(ConstantLR(sgd(), 0.5, 2), 4) == [0.5, 0.5, 1.0, 1.0]


def test_warm_up_then_cosine_starts_from_the_optimizers_rate(sgd):
    optimizer = sgd(1.0)
    schedule = SequentialLR(
        optimizer,
        [LinearLR(optimizer, 0.5, total_iters=2), CosineAnnealingLR(optimizer, 2)],
        milestones=[2],
    )
    assert rates(schedule, 5) == pytest.approx([0.5, 0.75, 1.0, 0.5, 0.0], abs=1e-15)


def test_one_cycle_corner_values(sgd):
    optimizer = sgd(123.0, momentum=0.9)
    schedule = OneCycleLR(optimizer, 1.0, 11, pct_start=4 / 11, div_factor=10, final_div_factor=5)
    group = optimizer.param_groups[0]
    seen = []
    for _ in range(11):
        seen.append((group["lr"], group["momentum"]))
        schedule.step()
    assert seen[0] == pytest.approx((0.1, 0.95))
    assert seen[3] == pytest.approx((1.0, 0.85))
    assert seen[10] == pytest.approx((0.02, 0.95))
    assert (group["lr"], group["momentum"]) == pytest.approx((0.02, 0.95))


def test_one_cycle_turns_the_first_beta(param):
    optimizer = Adam([param([1.0])], betas=(0.5, 0.99))
    schedule = OneCycleLR(optimizer, 1.0, 10, anneal_strategy="linear")
    assert optimizer.param_groups[0]["betas"] == pytest.approx((0.95, 0.99))
    schedule.step()
    assert optimizer.param_groups[0]["betas"] == pytest.approx((0.90, 0.99))


def test_one_cycle_leaves_momentum_alone_when_asked(sgd):
    optimizer = sgd(momentum=0.7)
    OneCycleLR(optimizer, 1.0, 10, cycle_momentum=False).step()
    assert optimizer.param_groups[0]["momentum"] == 0.7


@pytest.mark.parametrize("pct_start", [0.0, 0.1, 1.0])
def test_one_cycle_is_finite_with_phases_of_no_length(sgd, pct_start):
    schedule = OneCycleLR(sgd(), 1.0, 10, pct_start=pct_start)
    assert all(0 < lr <= 1 for lr in rates(schedule, 10))


def test_every_group_keeps_its_ratio(param):
    optimizer = SGD([{"params": [param([1.0])]}, {"params": [param([1.0])], "lr": 0.1}], lr=1.0)
    schedule = MultiStepLR(optimizer, [1])
    schedule.step()
    assert schedule.get_last_lr() == pytest.approx([0.1, 0.01])
    assert [group["lr"] for group in optimizer.param_groups] == schedule.get_last_lr()


def sequence(optimizer):
    parts = [LinearLR(optimizer, 0.1, total_iters=4), CosineAnnealingLR(optimizer, 9)]
    return SequentialLR(optimizer, parts, [4])


EVERY = [
    lambda o: MultiStepLR(o, [3, 7]),
    lambda o: CosineAnnealingLR(o, 13),
    lambda o: ExponentialLR(o, 0.7),
    lambda o: LambdaLR(o, lambda step: 1 / (1 + step)),
    lambda o: LinearLR(o),
    lambda o: ConstantLR(o),
    lambda o: OneCycleLR(o, 0.5, 20),
    lambda o: OneCycleLR(o, 0.5, epochs=4, steps_per_epoch=5),
    sequence,
]


@pytest.mark.parametrize("make", EVERY)
@pytest.mark.parametrize("stop", [0, 3, 4, 11])
def test_resumed_rates_are_the_same_bits(sgd, make, stop):
    whole = rates(make(sgd(0.3)), 18)
    first = make(sgd(0.3))
    rates(first, stop)
    saved = json.loads(json.dumps(first.state_dict()))  # as a checkpoint keeps it
    second = make(sgd(0.3))
    second.load_state_dict(saved)
    assert second.last_epoch == stop
    assert rates(second, 18 - stop) == whole[stop:]


def test_state_of_other_arguments_is_refused(sgd):
    schedule = sequence(sgd())
    rates(schedule, 5)
    optimizer = sgd()
    parts = [LinearLR(optimizer, 0.1, total_iters=4), CosineAnnealingLR(optimizer, 10)]
    other = SequentialLR(optimizer, parts, [4])
    with pytest.raises(ArgumentError, match=r"T_max 10, as in this schedule, got 9. Build the sch"):
        other.load_state_dict(schedule.state_dict())
    assert other.last_epoch == 0
    with pytest.raises(ArgumentError, match="state of LinearLR, got CosineAnnealingLR"):
        parts[0].load_state_dict(parts[1].state_dict())
    with pytest.raises(ArgumentError, match="expected a dict with schedule, last_epoch"):
        parts[0].load_state_dict({"last_epoch": 3})
    with pytest.raises(ArgumentError, match=r"1 base rate\(s\), got 2"):
        parts[0].load_state_dict(parts[0].state_dict() | {"base_lrs": [1.0, 2.0]})


def test_a_group_added_too_late_is_named(sgd, param):
    optimizer = sgd()
    schedule = MultiStepLR(optimizer, [1])
    optimizer.add_param_group({"params": [param([1.0])]})
    with pytest.raises(ArgumentError, match=r"Add all groups .* before building the schedule"):
        schedule.step()


BAD = [
    (lambda o: MultiStepLR(o, [5, 3]), r"increasing milestones, got \[5, 3\]"),
    (lambda o: MultiStepLR(o, [0]), "milestone >= 1, got 0"),
    (lambda o: MultiStepLR(o, [2.5]), "whole number milestone >= 1, got 2.5"),
    (lambda o: MultiStepLR(o, [1], gamma=0), "gamma > 0, got 0"),
    (lambda o: CosineAnnealingLR(o, 0), "T_max >= 1, got 0"),
    (lambda o: CosineAnnealingLR(o, 5, -1), "eta_min >= 0, got -1"),
    (lambda o: ExponentialLR(o, 0), "ExponentialLR: expected a finite number gamma > 0, got 0"),
    (lambda o: LambdaLR(o, 0.5), "LambdaLR: expected lr_lambda a function, or a list of them, got"),
    (lambda o: LambdaLR(o, [len, 3]), "expected lr_lambda a function, or a list of them, got 3"),
    (lambda o: LambdaLR(o, [abs] * 2), r"one function for each of 1 parameter group\(s\), got 2"),
    (lambda o: LambdaLR(o, lambda n: -1), r"finite number lr_lambda\(0\) >= 0, got -1"),
    (lambda o: LambdaLR(o, str), r"finite number lr_lambda\(0\) >= 0, got '0'"),
    (lambda o: LambdaLR([0.1], abs), "LambdaLR: expected an optimizer, got list"),
    (lambda o: LinearLR(o, 0.0), "0 < start_factor <= 1, got 0.0"),
    (lambda o: LinearLR(o, end_factor=2), "0 <= end_factor <= 1, got 2"),
    (lambda o: LinearLR(o, total_iters=0), "total_iters >= 1, got 0"),
    (lambda o: ConstantLR(o, 1.5), "0 <= factor <= 1, got 1.5"),
    (lambda o: OneCycleLR(o, 0, 10), "max_lr > 0, got 0"),
    (
        lambda o: OneCycleLR(o, 1),
        "expected total_steps, or epochs and steps_per_epoch, got neither",
    ),
    (lambda o: OneCycleLR(o, 1, epochs=3), "or epochs and steps_per_epoch, got neither"),
    (lambda o: OneCycleLR(o, 1, 1), "total_steps >= 2, got 1"),
    (lambda o: OneCycleLR(o, 1, 10, pct_start=1.5), "0 <= pct_start <= 1, got 1.5"),
    (lambda o: OneCycleLR(o, 1, 10, pct_start=0.6, three_phase=True), "<= 0.5, got 0.6. With th"),
    (lambda o: OneCycleLR(o, 1, 10, anneal_strategy="cosine"), "'cosine': did you mean cos"),
    (lambda o: OneCycleLR(o, 1, 10, max_momentum=1), "0 <= max_momentum < 1, got 1"),
    (lambda o: SequentialLR(o, [], [1]), "one milestone less than schedules, got 1 mil"),
    (lambda o: SequentialLR(o, [o], []), "built on this optimizer, got SGD .at index 0"),
    (lambda o: MultiStepLR([0.1], [1]), "expected an optimizer, got list"),
    (lambda o: OneCycleLR([0.1], 1, 10), "expected an optimizer, got list"),
]


@pytest.mark.parametrize(("make", "words"), BAD)
def test_bad_arguments(sgd, make, words):
    with pytest.raises(ArgumentError, match=words):
        make(sgd())


def test_schedules_of_another_optimizer_are_refused(sgd):
    with pytest.raises(ArgumentError, match="this optimizer, got one built on another"):
        SequentialLR(sgd(), [LinearLR(sgd())], [])


def test_one_cycle_ends_and_needs_a_momentum(sgd, param):
    schedule = OneCycleLR(sgd(), 1.0, 2)
    schedule.step()
    schedule.step()
    with pytest.raises(ArgumentError, match=r"at most total_steps = 2 steps, got 3. Give total_s"):
        schedule.step()

    class Plain(Optimizer):
        def _check_options(self, group):
            pass

    with pytest.raises(ArgumentError, match=r"with momentum or betas, got Plain. Pass cycle_mom"):
        OneCycleLR(Plain([param([1.0])], {"lr": 0.1}), 1.0, 10)


def test_repr(sgd):
    assert repr(MultiStepLR(sgd(), [2])) == "MultiStepLR(milestones=[2], gamma=0.1) at step 0"
    assert isinstance(MultiStepLR(sgd(), [2]), LRScheduler)
