"""Bad values for each argument of optimisers and schedules: errors of minires, none from within."""

import inspect
import math

import numpy as np
import pytest

import minires as mr
from minires import nn, optim
from minires.errors import MiniresError
from minires.optim import lr_scheduler

BAD = [
    None, True, False, np.True_, 0, 1, -1, 2, 2**31, 10**400, -(10**400), 0.5, -0.5, math.nan,
    math.inf, -math.inf, 1j, "", "a", "min", b"a", [], [1], [0.1, 0.2], ["a"], [None], (), (1, 2),
    (0.9, 0.99), (0.9, math.nan), {}, {"params": []}, {1: 2}, set(), range(3), object(), int,
    abs, lambda *_: 1, lambda *_: "a", np.float32(0.5), np.int64(3), np.uint8(3), np.array(3),
    np.array([1, 2]), np.array(0.5), np.array("a"), np.array([]), np.array(None), np.complex64(1),
    slice(None), Ellipsis, NotImplemented, iter([1]), "x" * 5000,
]  # fmt: skip
BAD_TENSORS = [
    lambda: mr.tensor(0.5), lambda: mr.tensor([1.0, 2.0]), lambda: mr.tensor(3),
    lambda: mr.ones(2, requires_grad=True), lambda: mr.zeros(0), lambda: nn.Linear(2, 2),
]  # fmt: skip


def optimizer(kind=optim.SGD):
    p = mr.ones(3, requires_grad=True)
    p.grad = mr.ones(3)
    return kind([p], **({"lr": 0.1, "momentum": 0.9} if kind is optim.SGD else {"lr": 0.1}))


def schedule():
    return optim.LinearLR(optimizer())


GOOD = {
    "params": lambda: [mr.ones(3, requires_grad=True)],
    "optimizer": optimizer,
    "milestones": lambda: [2],
    "gamma": lambda: 0.5,
    "step_size": lambda: 2,
    "lr_lambda": lambda: lambda n: 1.0,
    "T_max": lambda: 5,
    "max_lr": lambda: 0.5,
    "total_steps": lambda: 9,
    "state_dict": lambda: {},
    "group": lambda: {"params": [mr.ones(3, requires_grad=True)]},
    "metrics": lambda: 1.0,
    "weight_decay": lambda: 0.1,
    "model_or_named_params": lambda: nn.Linear(2, 2),
}


def composed(kind):
    def make(**options):
        given = optimizer()
        parts = [optim.StepLR(given, 2), optim.ExponentialLR(given, 0.5)]
        return kind(**{"optimizer": given, "schedulers": parts, **options})

    make.__signature__ = inspect.signature(kind)
    return make


CALLS = {
    **{name: getattr(optim, name) for name in ("SGD", "Adam", "AdamW", "RMSprop")},
    "no_decay_groups": optim.no_decay_groups,
    **{
        name: getattr(lr_scheduler, name)
        for name in lr_scheduler.__all__
        if name not in ("LRScheduler", "SequentialLR", "ChainedScheduler")
    },
    "SequentialLR": composed(optim.SequentialLR),
    "ChainedScheduler": composed(optim.ChainedScheduler),
    "load_state_dict": optimizer().load_state_dict,
    "Adam.load_state_dict": optimizer(optim.Adam).load_state_dict,
    "check_state_dict": optimizer().check_state_dict,
    "add_param_group": optimizer().add_param_group,
    "zero_grad": optimizer().zero_grad,
    "schedule.load_state_dict": schedule().load_state_dict,
    "plateau.load_state_dict": optim.ReduceLROnPlateau(optimizer()).load_state_dict,
    "plateau.step": optim.ReduceLROnPlateau(optimizer()).step,
}


@pytest.mark.parametrize("name", CALLS)
def test_only_errors_of_minires(name):
    call = CALLS[name]
    parameters = inspect.signature(call).parameters
    for argument in parameters:
        for bad in [*BAD, *BAD_TENSORS]:
            value = bad() if any(bad is make for make in BAD_TENSORS) else bad
            options = {
                p: GOOD[p]()
                for p, kind in parameters.items()
                if kind.default is inspect.Parameter.empty and p in GOOD and p != argument
            }
            if name == "SequentialLR":
                options = {"milestones": [3]}
            if name == "ChainedScheduler":
                options = {}
            if name in ("OneCycleLR",) and argument != "total_steps":
                options["total_steps"] = 9
            options[argument] = value
            told = raw_error(use, call, options)
            assert not told, f"{name}({argument}={value!r:.80}): {told}"


def use(call, options):
    """Make something, and go some steps with it: some odd values are allowed."""
    result = call(**options)
    if hasattr(result, "get_last_lr"):
        for _ in range(3):
            result.step(*([1.0] if isinstance(result, optim.ReduceLROnPlateau) else []))


def load_and_step(optimizer, state):
    optimizer.load_state_dict(state)
    optimizer.step()


def raw_error(call, *args):
    """What is wrong with the error that a call raises, if anything."""
    try:
        call(*args)
    except MiniresError as error:
        return "" if len(str(error)) < 1000 else f"a message of {len(str(error))} characters"
    except Exception as error:
        return repr(error)
    return ""


@pytest.mark.parametrize("kind", [optim.SGD, optim.Adam, optim.AdamW, optim.RMSprop])
def test_states_of_nonsense(kind):
    """Each entry of a state, at every depth, in turn."""
    made = optimizer(kind)
    made.step()
    good = made.state_dict()
    group, state = good["param_groups"][0], good["state"][0]
    for value in [*BAD, *[bad() for bad in BAD_TENSORS]]:
        states = [{**good, key: value} for key in (*good, "more")]
        states += [{**good, "state": {0: value}}, {**good, "param_groups": [value]}]
        for key in (*group, "maximize", "decoupled_weight_decay", "initial_lr"):
            states.append({**good, "param_groups": [{**group, key: value}]})
        states += [{**good, "state": {0: {**state, key: value}}} for key in (*state, "more")]
        for bad in states:
            told = raw_error(load_and_step, made, bad)
            assert not told, f"{bad}: {told}"
            made.load_state_dict(good)
