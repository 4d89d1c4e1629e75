"""States that come from elsewhere: what is taken; what is refused, with nothing changed then."""

import copy

import numpy as np
import pytest

import minires as mr
from minires import nn
from minires.errors import ArgumentError, DTypeError, MiniresError, ShapeError
from minires.optim import SGD, Adam, AdamW, RMSprop
from minires.optim.lr_scheduler import ReduceLROnPlateau
from minires.optim.optimizer import Optimizer

KINDS = {
    "sgd": lambda p: SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: Adam(p, lr=0.1),
    "amsgrad": lambda p: Adam(p, lr=0.1, amsgrad=True),
    "adamw": lambda p: AdamW(p, lr=0.1),
    "rmsprop": lambda p: RMSprop(p, lr=0.1, momentum=0.5, centered=True),
}


def trained(param, kind, steps=3, names=False):
    params = [param(np.ones((2, 3)), np.ones((2, 3))), param([1.0, 2.0], [0.5, -0.5])]
    optimizer = KINDS[kind]([*zip(("weight", "bias"), params)] if names else params)
    for _ in range(steps):
        optimizer.step()
    return optimizer, params


def with_arrays(state, change):
    state = copy.deepcopy(state)
    for kept in state["state"].values():
        for name, value in kept.items():
            if isinstance(value, np.ndarray):
                kept[name] = change(value)
    return state


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "change",
    [
        mr.tensor,
        np.asfortranarray,
        lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
        lambda a: mr.tensor(a).requires_grad_(True),
    ],
    ids=["tensors", "column-major", "strided", "trained"],
)
def test_arrays_of_any_kind(param, kind, change):
    old, params = trained(param, kind)
    new, others = trained(param, kind, steps=0)
    for p, q in zip(params, others):
        q.data = p.data.copy()
    given = with_arrays(old.state_dict(), change)
    new.load_state_dict(given)
    for optimizer in (old, new):
        optimizer.step()
        optimizer.step()
    for p, q in zip(params, others):
        np.testing.assert_array_equal(p.data, q.data)
    name = {"sgd": "momentum_buffer", "rmsprop": "square_avg"}.get(kind, "exp_avg")
    now, before = old.state_dict()["state"][0][name], given["state"][0][name]
    before = before.detach().numpy() if hasattr(before, "detach") else before
    assert not np.array_equal(now, before), "what was loaded from is not written"


@pytest.mark.parametrize(
    "step",
    [3, 3.0, np.int64(3), np.float32(3), np.array(3), np.array([3.0]), mr.tensor(3.0),
     mr.tensor([3])],
    ids=repr,
)  # fmt: skip
def test_counts_of_steps_of_any_kind(param, step):
    optimizer, _ = trained(param, "adam")
    state = optimizer.state_dict()
    state["state"][0]["step"] = step
    optimizer.load_state_dict(state)
    kept = optimizer.state_dict()["state"][0]["step"]
    assert (type(kept), kept) == (int, 3)
    optimizer.step()


def bad_states(kind, good):
    """Pairs of a state that does not fit, and words of the error."""

    def put(index, **values):
        state = copy.deepcopy(good)
        state["state"][index].update(values)
        return state

    def group(**values):
        state = copy.deepcopy(good)
        state["param_groups"][0].update(values)
        return state

    name = {"sgd": "momentum_buffer", "rmsprop": "square_avg"}.get(kind, "exp_avg")
    yield put(0, **{name: np.ones(5)}), rf"{name} of shape \(2, 3\), got \(5,\) \(weight of shape"
    yield put(0, **{name: mr.ones(5, dtype="float64")}), r"of shape \(2, 3\), got \(5,\)"
    yield put(1, **{name: np.ones((2, 3))}), r"of shape \(2,\), got \(2, 3\) \(bias of shape"
    yield put(1, **{name: np.float64(3)}), r"of shape \(2,\), got \(\) \(bias of shape"
    yield put(0, **{name: np.ones((2, 3), np.float32)}), "dtype float64, got float32"
    yield put(0, **{name: mr.ones(2, 3)}), "dtype float64, got float32"
    yield put(0, **{name: np.ones((2, 3), int)}), "dtype float64, got int64"
    yield put(0, **{name: [[1.0] * 3] * 2}), f"{name} an array, got "
    yield put(0, **{name: "much"}), f"{name} an array, got 'much'"
    yield put(0, velocity=np.ones((2, 3))), r"as state, got state 'velocity' \(weight of shape"
    yield {**good, "state": [1]}, "the state a dict, got"
    yield {**good, "state": {0: None, 1: 3}}, "the state of a parameter a dict, got 3"
    yield {**good, "state": {7: {}}}, r"state of \['7'\] too"
    yield {**good, "param_groups": None}, "param_groups a list of dicts"
    yield {**good, "param_groups": [3]}, "param_groups a list of dicts"
    yield {**good, "param_groups": []}, r"1 group\(s\) of \[2\] parameters, got 0 group"
    yield group(params=[0]), r"of \[2\] parameters, got 1 group\(s\) of \[1\]"
    yield group(params=[0, 0]), "each parameter once"
    yield group(params=[0, "1"]), "the number of a parameter an integer"
    yield group(lr=np.inf), "lr a finite number, got inf"
    yield group(lr="fast"), "lr a number, got 'fast'"
    yield group(lr=True), "lr a number, got True"
    yield group(lr=mr.tensor([0.1, 0.2])), "lr a number, got a Tensor of shape"
    yield group(weight_decay=-1), "weight_decay a finite number >= 0, got -1"
    yield group(learning_rate=1), "option 'learning_rate'"
    if kind != "rmsprop":
        yield group(maximize=True), "maximize False, got True"
    yield group(initial_lr="a"), "initial_lr a number, got 'a'"
    if kind == "sgd":
        yield group(momentum=1.5), "momentum a finite number"
        yield group(nesterov=1), "nesterov True or False, got 1"
        return
    for step in (-1, 2.5, np.nan, np.inf, "3", True, np.ones(2), mr.tensor(-1.0), 10**400):
        yield put(0, step=step), r"step a whole number from 0 to 2\*\*53, got"
    if kind == "rmsprop":
        yield group(alpha=2), "alpha a finite number >= 0 and <= 1, got 2"
        yield group(maximize="up"), "maximize True or False, got 'up'"
    else:
        yield group(betas=(0.9,)), "betas to be two numbers"
        yield group(betas=mr.tensor([0.9, 0.99])), "betas to be two numbers, got a Tensor"
        yield group(amsgrad=1), "amsgrad True or False, got 1"
    yield group(decoupled_weight_decay=kind != "adamw"), "decoupled_weight_decay (True|False), got"
    for missing in good["state"][1]:
        state = copy.deepcopy(good)
        del state["state"][1][missing]
        yield state, rf"remembers, got a state without {missing} \(bias of shape"


@pytest.mark.parametrize("kind", KINDS)
def test_what_does_not_fit_is_refused_and_changes_nothing(param, kind):
    optimizer, params = trained(param, kind, names=True)
    good = optimizer.state_dict()
    kept = {id(p): {**optimizer.state[p]} for p in params}
    for state, words in bad_states(kind, good):
        for call in (optimizer.check_state_dict, optimizer.load_state_dict):
            with pytest.raises(MiniresError, match=words) as caught:
                call(state)
            assert caught.type in (ArgumentError, ShapeError, DTypeError)
        assert optimizer.state_dict()["param_groups"] == good["param_groups"]
        for p in params:
            assert kept[id(p)].keys() == optimizer.state[p].keys()
            assert all(kept[id(p)][k] is optimizer.state[p][k] for k in kept[id(p)])


def test_pytorchs_groups_carry_more_than_is_needed(param):
    optimizer, _ = trained(param, "sgd")
    state = optimizer.state_dict()
    extra = {"maximize": False, "foreach": None, "differentiable": False, "fused": None}
    state["param_groups"][0] |= extra | {"lr": np.array(0.25), "max_lr": 3, "initial_lr": 1}
    state["state"][1] = {"momentum_buffer": None}
    optimizer.load_state_dict(state)
    group = optimizer.param_groups[0]
    assert not (extra.keys() | {"max_lr"}) & group.keys()
    assert (group["lr"], group["initial_lr"]) == (0.25, 1.0)
    assert [len(kept) for kept in optimizer.state_dict()["state"].values()] == [1, 0]
    optimizer.step()


def test_an_optimizer_of_ones_own_keeps_what_it_likes(param):
    class Signs(Optimizer):
        def __init__(self, params):
            super().__init__(params, {"lr": 0.1})

        def _check_options(self, group):
            pass

        def _update(self, data, grad, state, group):
            state["last"] = np.sign(grad)
            state["note"] = "kept"
            data -= group["lr"] * state["last"]

    p = param([1.0, 2.0], [0.5, -0.5])
    optimizer = Signs([p])
    optimizer.step()
    state = optimizer.state_dict()
    optimizer.load_state_dict(with_arrays(state, mr.tensor))
    assert type(optimizer.state[p]["last"]) is np.ndarray
    assert optimizer.state[p]["note"] == "kept"
    state["state"][0]["last"] = np.ones(3)
    with pytest.raises(ShapeError, match=r"last of shape \(2,\), got \(3,\)"):
        optimizer.load_state_dict(state)


def test_options_changed_to_nonsense_are_named_before_anything_changes(param):
    optimizer, params = trained(param, "sgd")
    before = [p.data.copy() for p in params]
    for name, value, words in (
        ("lr", "fast", "SGD.step: expected lr a number, got 'fast'"),
        ("lr", np.nan, "lr a finite number"),
        ("momentum", None, "momentum a number"),
        ("nesterov", 1, "nesterov True or False"),
    ):
        kept = optimizer.param_groups[0][name]
        optimizer.param_groups[0][name] = value
        with pytest.raises(ArgumentError, match=words):
            optimizer.step()
        optimizer.param_groups[0][name] = kept
    assert all(np.array_equal(p.data, b) for p, b in zip(params, before))
    optimizer.param_groups[0].update(lr=np.float32(0.5), momentum=np.float64(0.5))
    optimizer.step()
    assert type(optimizer.param_groups[0]["lr"]) is float


@pytest.mark.parametrize("kind", KINDS)
def test_a_captured_step_goes_on_from_what_was_loaded(kind):
    """Loading gives the optimiser other memory: a recording is made anew."""

    def run(captured):
        mr.manual_seed(0)
        net = nn.Linear(4, 3)
        optimizer = KINDS[kind](net.parameters())

        def step(x):
            optimizer.zero_grad()
            (net(x) ** 2).mean().backward()
            optimizer.step()

        step = mr.capture(step, net, optimizer) if captured else step
        for k in range(10):
            step(mr.randn(5, 4))
            if k == 5:
                state = optimizer.state_dict()
        optimizer.load_state_dict(with_arrays(state, mr.tensor))
        for _ in range(4):
            step(mr.randn(5, 4))
        return [p.numpy().copy() for p in (net.weight.detach(), net.bias.detach())]

    for a, b in zip(run(False), run(True)):
        np.testing.assert_array_equal(a, b)


def test_states_of_a_plateau_are_checked(param):
    plateau = ReduceLROnPlateau(SGD([param([1.0])], lr=0.1))
    good = plateau.state_dict()
    for bad in (
        None,
        {},
        {**good, "best": "a"},
        {**good, "last_epoch": -1},
        {**good, "num_bad_epochs": 0.5},
        {**good, "cooldown_counter": None},
    ):
        with pytest.raises(ArgumentError, match=r"ReduceLROnPlateau.load_state_dict: expected "):
            plateau.load_state_dict(bad)
        assert plateau.state_dict() == good
