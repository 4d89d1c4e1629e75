"""Schedules that share an optimiser, and rates changed by hand: PyTorch's rates, step by step."""

import itertools

import numpy as np
import pytest

from minires import optim
from minires.tensor import from_numpy

torch = pytest.importorskip("torch")

STEPS = 40
RULES = {
    "linear": lambda L, o: L.LinearLR(o, 0.25, total_iters=7),
    "linear to 0.2": lambda L, o: L.LinearLR(o, 1.0, 0.2, 30),
    "constant": lambda L, o: L.ConstantLR(o, 0.5, 5),
    "step": lambda L, o: L.StepLR(o, 6, 0.7),
    "multistep": lambda L, o: L.MultiStepLR(o, [3, 11, 11, 23], 0.1),
    "exponential": lambda L, o: L.ExponentialLR(o, 0.93),
    "lambda": lambda L, o: L.LambdaLR(o, lambda n: 1 / (1 + n)),
    "cosine": lambda L, o: L.CosineAnnealingLR(o, 50, 0.01),
    "cosine, up again": lambda L, o: L.CosineAnnealingLR(o, 9, 0.02),
    "cosine of 1": lambda L, o: L.CosineAnnealingLR(o, 1),
    "one cycle": lambda L, o: L.OneCycleLR(o, 0.7, STEPS + 5),
    "plateau": lambda L, o: L.ReduceLROnPlateau(o, factor=0.5, patience=2),
    "sequence": lambda L, o: L.SequentialLR(
        o,
        [L.LinearLR(o, 0.1, total_iters=5), L.CosineAnnealingLR(o, 20), L.StepLR(o, 3)],
        [5, 25],
    ),
    "chain": lambda L, o: L.ChainedScheduler([L.ConstantLR(o, 0.1, 4), L.ExponentialLR(o, 0.9)]),
}
# a step and what is done to the rates by hand before it
BY_HAND = {8: lambda lr: 0.3, 9: lambda lr: lr * 2, 21: lambda lr: 0.05}


def ours():
    groups = [from_numpy(np.ones(1)).requires_grad_(True) for _ in range(2)]
    made = [{"params": [groups[0]]}, {"params": [groups[1]], "lr": 0.25}]
    return optim.lr_scheduler, optim.SGD(made, lr=1.0, momentum=0.9)


def theirs():
    groups = [torch.ones(1, requires_grad=True) for _ in range(2)]
    made = [{"params": [groups[0]]}, {"params": [groups[1]], "lr": 0.25}]
    return torch.optim.lr_scheduler, torch.optim.SGD(made, lr=1.0, momentum=0.9)


def history(side, names, by_hand=False):
    library, optimizer = side
    schedules = [RULES[name](library, optimizer) for name in names]
    rows = []
    for step in range(STEPS):
        rows.append([[group["lr"], group["momentum"]] for group in optimizer.param_groups])
        if by_hand and step in BY_HAND:
            for group in optimizer.param_groups:
                group["lr"] = BY_HAND[step](group["lr"])
        optimizer.step()
        for schedule in schedules:
            if type(schedule).__name__ == "ReduceLROnPlateau":
                schedule.step(abs(step - 25) / 10 + step % 3)
            else:
                schedule.step()
            rows.append([[lr, 0] for lr in schedule.get_last_lr()])
    return np.array(rows)


@pytest.mark.parametrize("by_hand", [False, True], ids=["", "by hand"])
@pytest.mark.parametrize("name", RULES)
def test_alone(name, by_hand):
    expected = history(theirs(), [name], by_hand)
    np.testing.assert_allclose(history(ours(), [name], by_hand), expected, rtol=1e-13, atol=1e-17)


@pytest.mark.slow
@pytest.mark.parametrize("names", [*itertools.permutations(RULES, 2)], ids=" and ".join)
def test_in_turn(names):
    expected = history(theirs(), names, by_hand=True)
    np.testing.assert_allclose(history(ours(), names, True), expected, rtol=1e-13, atol=1e-17)


@pytest.mark.parametrize(
    "names", [("linear", "multistep", "plateau"), ("cosine", "constant", "step", "exponential")]
)
def test_three_and_more(names):
    expected = history(theirs(), names, by_hand=True)
    np.testing.assert_allclose(history(ours(), names, True), expected, rtol=1e-13, atol=1e-17)
