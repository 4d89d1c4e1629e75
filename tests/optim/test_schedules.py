"""Schedules: values by hand, composition, resume, bad arguments; see also tests/parity."""

import itertools
import json
import math

import numpy as np
import pytest

from minires.errors import ArgumentError
from minires.optim import (
    SGD,
    Adam,
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    Optimizer,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
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
    (lambda o: MultiStepLR(o, [0]), "milestone an integer >= 1, got 0"),
    (lambda o: MultiStepLR(o, [2.5]), "milestone an integer >= 1, got 2.5"),
    (lambda o: MultiStepLR(o, [1], gamma=0), "gamma a finite number > 0, got 0"),
    (lambda o: CosineAnnealingLR(o, 0), "T_max an integer >= 1, got 0"),
    (lambda o: CosineAnnealingLR(o, 5, -1), "eta_min a finite number >= 0, got -1"),
    (lambda o: ExponentialLR(o, 0), "ExponentialLR: expected gamma a finite number > 0, got 0"),
    (lambda o: LambdaLR(o, 0.5), "LambdaLR: expected lr_lambda a function, or a list of them, got"),
    (lambda o: LambdaLR(o, [len, 3]), "expected lr_lambda a function, or a list of them, got 3"),
    (lambda o: LambdaLR(o, [abs] * 2), r"one function for each of 1 parameter group\(s\), got 2"),
    (lambda o: LambdaLR(o, lambda n: -1), r"lr_lambda\(0\) a finite number >= 0, got -1"),
    (lambda o: LambdaLR(o, str), r"lr_lambda\(0\) a number >= 0, got '0'"),
    (lambda o: LambdaLR(o, lambda: 1), r"lr_lambda\(step\) a function of 1 arguments, got <funct"),
    (lambda o: MultiStepLR(o, [5]).next_lr("1", 0.1, 0.1), "step an integer >= 0, got '1'"),
    (lambda o: ExponentialLR(o, 1).next_lr(1, None, 0.1), "ExponentialLR: .* lr a number, got N"),
    (lambda o: OneCycleLR(o, 1, 9).next_options(-1), "OneCycleLR: .* step an integer >= 0, got"),
    (lambda o: LambdaLR([0.1], abs), "LambdaLR: expected an optimizer, got list"),
    (lambda o: LinearLR(o, 0.0), "start_factor a finite number > 0 and <= 1, got 0.0"),
    (lambda o: LinearLR(o, end_factor=2), "end_factor a finite number >= 0 and <= 1, got 2"),
    (lambda o: LinearLR(o, total_iters=0), "total_iters an integer >= 1, got 0"),
    (lambda o: ConstantLR(o, 1.5), "factor a finite number >= 0 and <= 1, got 1.5"),
    (lambda o: OneCycleLR(o, 0, 10), "max_lr a finite number > 0, got 0"),
    (
        lambda o: OneCycleLR(o, 1),
        "expected total_steps, or epochs and steps_per_epoch, got neither",
    ),
    (lambda o: OneCycleLR(o, 1, epochs=3), "or epochs and steps_per_epoch, got neither"),
    (lambda o: OneCycleLR(o, 1, 1), "total_steps an integer >= 2, got 1"),
    (
        lambda o: OneCycleLR(o, 1, 10, pct_start=1.5),
        "pct_start a finite number >= 0 and <= 1, got 1.5",
    ),
    (lambda o: OneCycleLR(o, 1, 10, pct_start=0.6, three_phase=True), "<= 0.5, got 0.6. With th"),
    (lambda o: OneCycleLR(o, 1, 10, anneal_strategy="cosine"), "'cosine': did you mean cos"),
    (
        lambda o: OneCycleLR(o, 1, 10, max_momentum=1),
        "max_momentum a finite number >= 0 and < 1, got 1",
    ),
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


# -- several on one optimiser


def test_two_in_turn_by_hand(sgd):
    """LinearLR from a quarter in 4 steps, and a tenth from step 3 on."""
    optimizer = sgd()
    rise, drop = LinearLR(optimizer, 0.25, total_iters=4), MultiStepLR(optimizer, [3])
    seen = []
    for _ in range(4):
        rise.step()
        drop.step()
        seen.append(optimizer.param_groups[0]["lr"])
    assert seen == pytest.approx([0.4375, 0.625, 0.08125, 0.1], rel=1e-14)
    assert rise.get_last_lr() == pytest.approx([0.1])


def test_a_rate_set_by_hand_is_kept(sgd):
    optimizer = sgd()
    schedule = MultiStepLR(optimizer, [3], 0.5)
    schedule.step()
    optimizer.param_groups[0]["lr"] = np.float32(0.25)
    schedule.step()
    assert optimizer.param_groups[0]["lr"] == 0.25
    schedule.step()
    assert optimizer.param_groups[0]["lr"] == 0.125
    optimizer.param_groups[0]["lr"] = "fast"
    with pytest.raises(ArgumentError, match="MultiStepLR: expected lr a number, got 'fast'"):
        schedule.step()
    assert schedule.last_epoch == 3


def test_what_a_plateau_reduced_stays_reduced(sgd):
    optimizer = sgd()
    schedule, plateau = MultiStepLR(optimizer, [4]), ReduceLROnPlateau(optimizer, patience=0)
    seen = []
    for _ in range(4):
        schedule.step()
        plateau.step(1.0)
        seen.append(optimizer.param_groups[0]["lr"])
    assert seen == pytest.approx([1, 0.1, 0.01, 1e-4])


def test_a_chain_steps_all(sgd):
    optimizer = sgd()
    parts = [ConstantLR(optimizer, 0.5, 2), ExponentialLR(optimizer, 0.5)]
    chain = ChainedScheduler(parts)
    assert rates(chain, 4) == [0.5, 0.25, 0.25, 0.125]
    late = SequentialLR(optimizer, [ConstantLR(optimizer, 1.0, 1), chain], [1])
    assert rates(late, 4) == [1.0, 0.5, 0.25, 0.25]
    for bad in ([], None, [1]):
        with pytest.raises(ArgumentError, match="ChainedScheduler: expected "):
            ChainedScheduler(bad)
    with pytest.raises(ArgumentError, match="this optimizer, got one built on another"):
        ChainedScheduler([parts[0], StepLR(sgd(), 3)])


TOGETHER = {
    "multistep": lambda o: MultiStepLR(o, [3, 7]),
    "cosine": lambda o: CosineAnnealingLR(o, 6, 0.01),
    "exponential": lambda o: ExponentialLR(o, 0.7),
    "lambda": lambda o: LambdaLR(o, lambda step: 1 / (1 + step)),
    "linear": lambda o: LinearLR(o, total_iters=9),
    "constant": lambda o: ConstantLR(o, 0.3, 6),
    "one cycle": lambda o: OneCycleLR(o, 0.5, 30),
    "sequence": sequence,
    "chain": lambda o: ChainedScheduler([StepLR(o, 2), LinearLR(o, 0.3)]),
    "plateau": lambda o: ReduceLROnPlateau(o, factor=0.5, patience=1),
}


def run_together(optimizer, schedules, steps):
    seen = []
    for step in steps:
        group = optimizer.param_groups[0]
        if step == 5:
            group["lr"] *= 1.7
        for schedule in schedules:
            schedule.step(*([step % 3] if isinstance(schedule, ReduceLROnPlateau) else []))
        seen.append((group["lr"], group["momentum"]))
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("order", ["optimiser first", "schedules first", "backwards"])
@pytest.mark.parametrize("stop", [0, 4, 6, 11])
@pytest.mark.parametrize("names", [*itertools.permutations(TOGETHER, 2)], ids=" and ".join)
def test_several_resume_to_the_same_bits(sgd, names, stop, order):
    def make():
        optimizer = sgd(0.3, momentum=0.9)
        return optimizer, [TOGETHER[name](optimizer) for name in names]

    expected = run_together(*make(), range(18))
    first, parts = make()
    assert run_together(first, parts, range(stop)) == expected[:stop]
    saved = json.loads(json.dumps([first.state_dict()["param_groups"], *map(save, parts)]))
    second, others = make()
    steps = [(part.load_state_dict, state) for part, state in zip(others, saved[1:])]
    steps.insert(0, (second.load_state_dict, {"param_groups": saved[0], "state": {}}))
    if order != "optimiser first":
        steps = steps[::-1] if order == "backwards" else [*steps[1:], steps[0]]
    for load, state in steps:
        load(state)
    assert run_together(second, others, range(stop, 18)) == expected[stop:]


def save(schedule):
    return schedule.state_dict()


def test_bad_states_change_nothing(sgd):
    optimizer = sgd(momentum=0.9)
    schedule = sequence(optimizer)
    rates(schedule, 3)
    good = schedule.state_dict()
    before, lr = json.dumps(good), optimizer.param_groups[0]["lr"]
    part = good["schedulers"][0]
    bad = [
        None,
        3,
        [],
        {**good, "last_epoch": -1},
        {**good, "last_epoch": 2.5},
        {**good, "last_epoch": True},
        {**good, "base_lrs": [math.nan]},
        {**good, "base_lrs": 3},
        {**good, "base_lrs": ["a"]},
        {**good, "options": None},
        {**good, "options": [{}]},
        {**good, "options": [{"lr": math.inf}]},
        {**good, "options": [{"lr": "a"}]},
        {**good, "options": [{"lr": 0.1, "momentum": 0.3}]},
        {**good, "settings": None},
        {**good, "settings": {}},
        {**good, "schedule": 3},
        {**good, "schedulers": None},
        {**good, "schedulers": [part]},
        {**good, "schedulers": [part, part]},
        {**good, "more": 1},
    ]
    for state in bad:
        with pytest.raises(ArgumentError, match=r"\.load_state_dict: expected "):
            schedule.load_state_dict(state)
        assert json.dumps(schedule.state_dict()) == before
        assert optimizer.param_groups[0]["lr"] == lr
