"""Optimisers and learning-rate schedules, step by step over 50 steps of training."""

from functools import cache

import numpy as np
import pytest
from parity.sides import (
    BOTH,
    FLOAT64,
    Ours,
    both_refuse,
    close,
    each,
    evaluate,
    lines,
    no_advice,
    only_ours_refuses,
    refusals,
    run_in,
    theirs,
)

STEPS = 50
PARAMETERS = {"w": (4, 3), "b": (3,)}

OPTIMISERS = lines(
    """
    optim.SGD([w, b], lr=0.05)
    optim.SGD([w, b], 0.05, 0.9)
    optim.SGD([w, b])
    optim.SGD([w, b], lr=0.0)
    optim.SGD([w, b], lr=0.05, momentum=0.5)
    optim.SGD([w, b], lr=0.05, momentum=0.9, dampening=0.3)
    optim.SGD([w, b], lr=0.05, momentum=0.9, dampening=1.0)
    optim.SGD([w, b], lr=0.05, weight_decay=0.01)
    optim.SGD([w, b], lr=0.05, momentum=0.9, weight_decay=0.01)
    optim.SGD([w, b], lr=0.05, momentum=0.9, dampening=0.2, weight_decay=0.1)
    optim.SGD([w, b], lr=0.02, momentum=0.9, nesterov=True)
    optim.SGD([w, b], lr=0.02, momentum=0.9, weight_decay=0.01, nesterov=True)
    optim.SGD([w], lr=0.05, momentum=0.9)
    optim.SGD([{"params": [w], "lr": 0.01}, {"params": [b]}], lr=0.05, momentum=0.9)
    optim.SGD([{"params": [w], "weight_decay": 0.1}, {"params": [b], "momentum": 0.5}], lr=0.05)
    optim.SGD([{"params": [w]}, {"params": (b,), "lr": 0.0}], lr=0.05)
    optim.Adam([w, b])
    optim.Adam([w, b], lr=0.05)
    optim.Adam([w, b], 0.05, (0.8, 0.95), 1e-4)
    optim.Adam([w, b], lr=0.05, betas=(0.0, 0.9))
    optim.Adam([w, b], lr=0.05, betas=(0.9, 0.5))
    optim.Adam([w, b], lr=0.05, eps=0.1)
    optim.Adam([w, b], lr=0.05, weight_decay=0.01)
    optim.Adam([w, b], lr=0.05, amsgrad=True)
    optim.Adam([w, b], lr=0.05, weight_decay=0.1, amsgrad=True)
    optim.Adam([{"params": [w], "lr": 0.01}, {"params": [b], "betas": (0.5, 0.9)}], lr=0.05)
    optim.AdamW([w, b])
    optim.AdamW([w, b], lr=0.05)
    optim.AdamW([w, b], lr=0.05, weight_decay=0.0)
    optim.AdamW([w, b], lr=0.05, weight_decay=0.2)
    optim.AdamW([w, b], lr=0.05, betas=(0.8, 0.99), eps=1e-3)
    optim.AdamW([w, b], lr=0.05, weight_decay=0.2, amsgrad=True)
    optim.AdamW([{"params": [w]}, {"params": [b], "weight_decay": 0.0}], lr=0.05)
    optim.RMSprop([w, b])
    optim.RMSprop([w, b], 0.02, 0.9, 1e-4)
    optim.RMSprop([w, b], lr=0.02, alpha=0.5, eps=0.1)
    optim.RMSprop([w, b], lr=0.02, momentum=0.9)
    optim.RMSprop([w, b], lr=0.02, weight_decay=0.1, momentum=1.5)
    optim.RMSprop([w, b], lr=0.02, centered=True, eps=1e-2)
    optim.RMSprop([w, b], lr=0.02, weight_decay=0.1, momentum=0.5, centered=True, eps=1e-2)
    optim.RMSprop([w, b], lr=0.02, weight_decay=0.1, maximize=True)
    optim.RMSprop([{"params": [w], "alpha": 0.5}, {"params": [b], "momentum": 0.5}], lr=0.02)
    """,
    **PARAMETERS,
)

# each over an optimiser called o
SGD, ADAM = "o = optim.SGD([w, b], lr=0.1, momentum=0.9); ", "o = optim.Adam([w, b], lr=0.05); "
GROUPS = 'o = optim.SGD([{"params": [w], "lr": 0.2}, {"params": [b]}], lr=0.05); '


def schedules(optimiser, text):
    """Each line of text, with what makes the optimiser before it."""
    rows = [row.strip().partition("  #") for row in text.splitlines() if row.strip()]
    return "\n".join(
        f"{optimiser}[o, optim.lr_scheduler.{row}]{mark}{comment}" for row, mark, comment in rows
    )


SEQUENCE = """
    o = optim.SGD([w, b], lr=0.1); L = optim.lr_scheduler; warm = L.LinearLR(o, 0.1, total_iters=8);
    parts = [warm, L.CosineAnnealingLR(o, 22), L.MultiStepLR(o, [4]), L.ConstantLR(o, 0.1, 10)];
    [o, L.SequentialLR(o, parts, milestones=[8, 30, 40])]
""".replace("\n", " ")
CHAIN = """
    o = optim.SGD([w, b], lr=0.1); L = optim.lr_scheduler; warm = L.LinearLR(o, 0.1, total_iters=8);
    parts = [warm, L.MultiStepLR(o, [4, 30]), L.ExponentialLR(o, 0.95), L.CosineAnnealingLR(o, 40)];
    [o, L.ChainedScheduler(parts)]
""".replace("\n", " ")

SCHEDULES = [
    *lines(
        schedules(
            SGD,
            """
            StepLR(o, 7)
            StepLR(o, 1, gamma=0.97)
            StepLR(o, step_size=100)
            ExponentialLR(o, 0.9)
            LambdaLR(o, lambda n: 0.95**n)
            LambdaLR(o, [lambda n: min(1, (n + 1) / 5)])
            MultiStepLR(o, [5, 20, 30], gamma=0.3)
            MultiStepLR(o, milestones=[1])
            MultiStepLR(o, [60])
            CosineAnnealingLR(o, 50)
            CosineAnnealingLR(o, T_max=20, eta_min=0.01)  # up again after 20
            CosineAnnealingLR(o, 1)
            LinearLR(o)
            LinearLR(o, start_factor=0.1, total_iters=17)
            LinearLR(o, 1.0, 0.2, 30)
            LinearLR(o, 1.0, 0.0, 49)
            ConstantLR(o)
            ConstantLR(o, factor=0.25, total_iters=9)
            OneCycleLR(o, 0.3, 50)
            OneCycleLR(o, max_lr=0.3, total_steps=60)
            OneCycleLR(o, 0.3, epochs=5, steps_per_epoch=10)
            OneCycleLR(o, 0.3, 50, anneal_strategy="linear")
            OneCycleLR(o, 0.3, 50, three_phase=True, pct_start=0.37)
            OneCycleLR(o, 0.3, 50, pct_start=0.0)
            OneCycleLR(o, 0.3, 50, cycle_momentum=False)
            OneCycleLR(o, 0.3, 50, div_factor=5.0, final_div_factor=10.0, base_momentum=0.5)
            """,
        ),
        **PARAMETERS,
    ),
    *lines(
        schedules(
            ADAM,
            """
            StepLR(o, 10)
            CosineAnnealingLR(o, 50)
            OneCycleLR(o, 0.1, 50)
            OneCycleLR(o, 0.1, 50, base_momentum=0.8, max_momentum=0.9)
            """,
        ),
        **PARAMETERS,
    ),
    *lines(
        schedules(
            GROUPS,
            """
            StepLR(o, 10)
            MultiStepLR(o, [10, 20])
            CosineAnnealingLR(o, 50)
            LinearLR(o, 0.1, total_iters=10)
            """,
        ),
        **PARAMETERS,
    ),
    *lines(SEQUENCE, **PARAMETERS),
    *lines(CHAIN, **PARAMETERS),
]

# ReduceLROnPlateau is given the loss, which is noisy here: it falls, and rises again.
PLATEAU = lines(
    schedules(
        SGD,
        """
        ReduceLROnPlateau(o)
        ReduceLROnPlateau(o, patience=2)
        ReduceLROnPlateau(o, "min", 0.5, 1)
        ReduceLROnPlateau(o, mode="max", factor=0.3, patience=3)
        ReduceLROnPlateau(o, patience=0, threshold=0.1)
        ReduceLROnPlateau(o, patience=0, threshold=0.05, threshold_mode="abs")
        ReduceLROnPlateau(o, patience=1, cooldown=4)
        ReduceLROnPlateau(o, patience=0, min_lr=0.01)
        ReduceLROnPlateau(o, patience=0, factor=0.5, eps=0.02)
        """,
    ),
    **PARAMETERS,
)

WRONG = lines(
    """
    optim.SGD([w, b], lr=-0.1)
    optim.SGD([w, b], lr="fast")
    optim.SGD([w, b], lr=None)
    optim.SGD([w, b], lr=0.1, momentum=-0.9)
    optim.SGD([w, b], lr=0.1, weight_decay=-1e-4)
    optim.SGD([w, b], lr=0.1, nesterov=True)
    optim.SGD([w, b], lr=0.1, momentum=0.9, dampening=0.1, nesterov=True)
    optim.SGD([], lr=0.1)
    optim.SGD(w, lr=0.1)
    optim.SGD([1.0], lr=0.1)
    optim.SGD([w * 2], lr=0.1)  # no leaf
    optim.SGD([{"params": [w]}, {"params": [w]}], lr=0.1)
    optim.SGD([{"lr": 0.1}], lr=0.1)
    optim.SGD(None, lr=0.1)
    optim.SGD([w], lr=0.1, beta=0.9)
    optim.SGD()
    optim.Adam([w], lr=-1.0)
    optim.Adam([w], betas=(1.0, 0.9))
    optim.Adam([w], betas=(0.9, -0.1))
    optim.Adam([w], betas=(0.9, 1.0))
    optim.Adam([w], betas=0.9)
    optim.Adam([w], betas=(0.9,))
    optim.Adam([w], eps=-1e-8)
    optim.Adam([w], weight_decay=-1.0)
    optim.Adam([])
    optim.AdamW([w], lr=-1.0)
    optim.AdamW([w], betas=(0.9, 2.0))
    optim.AdamW([w], weight_decay=-0.01)
    optim.lr_scheduler.StepLR(w, 3)
    optim.lr_scheduler.StepLR(optim.SGD([w], lr=0.1))
    optim.lr_scheduler.MultiStepLR(optim.SGD([w], lr=0.1))
    optim.lr_scheduler.MultiStepLR(None, [2])
    optim.lr_scheduler.CosineAnnealingLR(optim.SGD([w], lr=0.1))
    optim.lr_scheduler.LinearLR(optim.SGD([w], lr=0.1), 0.0)
    optim.lr_scheduler.LinearLR(optim.SGD([w], lr=0.1), 1.5)
    optim.lr_scheduler.ChainedScheduler([])
    L = optim.lr_scheduler; L.ChainedScheduler([L.StepLR(optim.SGD([w], lr=1), 2) for _ in "ab"])
    optim.lr_scheduler.LinearLR(optim.SGD([w], lr=0.1), 0.5, -1.0)
    optim.lr_scheduler.ConstantLR(optim.SGD([w], lr=0.1), 1.5)
    optim.lr_scheduler.ConstantLR(optim.SGD([w], lr=0.1), -0.5)
    optim.lr_scheduler.OneCycleLR(optim.SGD([w], lr=0.1), 0.3)
    optim.lr_scheduler.OneCycleLR(optim.SGD([w], lr=0.1, momentum=0.9), 0.3, 0)
    optim.lr_scheduler.OneCycleLR(optim.SGD([w], lr=0.1, momentum=0.9), 0.3, -5)
    optim.lr_scheduler.OneCycleLR(optim.SGD([w], lr=0.1, momentum=0.9), 0.3, 9, pct_start=1.5)
    optim.lr_scheduler.OneCycleLR(optim.Adam([w]), 0.3, 9, anneal_strategy="cubic")
    optim.lr_scheduler.SequentialLR(optim.SGD([w], lr=0.1), [], [1])
    optim.lr_scheduler.ReduceLROnPlateau(optim.SGD([w], lr=0.1), mode="middle")
    optim.lr_scheduler.ReduceLROnPlateau(optim.SGD([w], lr=0.1), factor=1.5)
    optim.lr_scheduler.ReduceLROnPlateau(optim.SGD([w], lr=0.1), threshold_mode="loose")
    optim.lr_scheduler.ReduceLROnPlateau(w)
    """,
    **PARAMETERS,
)

# PyTorch checks these only later, or not at all.
DIFFERENT = refusals(
    {
        'optim.SGD([{"params": w}], lr=0.1)': "got a Tensor of shape (4, 3). Pass [tensor].",
        "optim.SGD([w, w], lr=0.1)": "SGD: expected each parameter once",
        "optim.SGD([w], lr=float('nan'))": "lr a finite number >= 0",
        "optim.SGD([w], lr=0.1, momentum=1.5)": "momentum a finite number >= 0 and <= 1",
        "optim.lr_scheduler.StepLR(optim.SGD([w], lr=0.1), 0)": "step_size an integer >= 1",
        "optim.lr_scheduler.MultiStepLR(optim.SGD([w], lr=0.1), [3, 2])": "increasing milestones",
        "optim.lr_scheduler.CosineAnnealingLR(optim.SGD([w], lr=0.1), 0)": "T_max an integer >= 1",
    },
    **PARAMETERS,
)


def history(side, case, line):
    """Parameters and options at each of 50 steps on one side, all with the same gradients."""
    leaves = {name: side.tensor(array) for name, array in case.inputs.items()}
    made = evaluate(line, {**side.names, **leaves})
    optimiser, schedule = made if isinstance(made, list) else (made, None)
    draws = np.random.default_rng(0)
    rows, options = [], []
    for step in range(STEPS):
        options.append([_options(group) for group in optimiser.param_groups])
        optimiser.zero_grad()
        for leaf in leaves.values():  # a gradient that pulls to 0, so that errors can be seen
            value = side.array(leaf)
            gradient = np.sin(value) + draws.standard_normal(value.shape)
            leaf.grad = side.constant(gradient.astype(value.dtype))
        optimiser.step()
        if case in PLATEAU:
            schedule.step(abs(step - 25) / 10 + step % 3)
        elif schedule is not None:
            schedule.step()
        rows.append(np.concatenate([side.array(leaf).ravel() for leaf in leaves.values()]))
    return np.array(rows), np.array(options, float)


def _options(group):
    return group["lr"], *group.get("betas", ()), group.get("momentum", 0.0)


@cache
def expected(case):
    with no_advice():
        return history(theirs(), case, case.theirs)


def compare(case, ways):
    values, settings = expected(case)
    for way in ways:
        with run_in(way):
            rows, options = history(Ours(way.dtype), case, case.line)
            np.testing.assert_allclose(options, settings, rtol=0, atol=1e-12)
            close(rows, values, way.dtype, "parameters")


@pytest.mark.slow
@each(OPTIMISERS, BOTH)
def test_optimisers(case, ways):
    compare(case, ways)


@each([*SCHEDULES, *PLATEAU], (FLOAT64,))
def test_schedules(case, ways):
    compare(case, ways)


@each(WRONG)
def test_both_refuse(case):
    both_refuse(case)


@each(DIFFERENT)
def test_only_minires_refuses(case):
    only_ours_refuses(case)


def test_states_have_one_structure():
    states = []
    for side in (Ours("float64"), theirs()):
        w = side.tensor(np.ones(2))
        optimiser = side.names["optim"].Adam([w], amsgrad=True)
        (w * w).sum().backward()
        optimiser.step()
        states.append(optimiser.state_dict())
    ours, reference = states
    assert set(ours) == set(reference)
    assert set(ours["state"][0]) == set(reference["state"][0])
    assert set(ours["param_groups"][0]) <= set(reference["param_groups"][0])


def test_freezing_between_forward_and_backward():
    """No new gradient for what is frozen; a step still goes by an old one."""
    rows = []
    for side in (Ours("float64"), theirs()):
        w, b, c = (side.tensor(np.array([value])) for value in (2.0, 3.0, 5.0))
        optimiser = side.names["optim"].SGD([w, b, c], lr=0.1, momentum=0.9)
        for step in range(4):
            loss = (w * b * c).sum()
            if step == 1:
                w.requires_grad_(False)
                c.grad = None
                c.requires_grad_(False)
            if step == 3:
                w.requires_grad_(True)
            loss.backward()
            optimiser.step()
            rows.append([side.array(leaf).item() for leaf in (w, b, c)])
            rows.append([float("nan") if t.grad is None else t.grad.item() for t in (w, b, c)])
    np.testing.assert_allclose(rows[: len(rows) // 2], rows[len(rows) // 2 :], rtol=1e-12)
