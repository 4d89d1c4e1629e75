"""Groups, checks, state dicts: what every optimiser inherits."""

import numpy as np
import pytest

from minires.errors import ArgumentError, DTypeError, GraphError, ShapeError
from minires.optim import SGD, Adam, AdamW, RMSprop, no_decay_groups
from minires.tensor import from_numpy


def ids(tensors):
    return [id(t) for t in tensors]


def test_groups_take_the_defaults_they_do_not_give(param):
    a, b, c = param([1.0]), param([2.0]), param([3.0])
    optimizer = SGD([{"params": [a, b]}, {"params": [c], "lr": 5}], lr=0.5, momentum=0.9)
    first, second = optimizer.param_groups
    assert ids(first["params"]) == ids([a, b])
    assert (first["lr"], first["momentum"]) == (0.5, 0.9)
    assert (second["lr"], second["momentum"]) == (5.0, 0.9)
    assert type(second["lr"]) is float


def test_each_group_steps_with_its_own_options(param):
    a, b = param([1.0], [1.0]), param([1.0], [1.0])
    SGD([{"params": [a]}, {"params": [b], "lr": 0.5}], lr=0.1).step()
    assert a.data[0] == 0.9
    assert b.data[0] == 0.5


def test_add_param_group(param):
    optimizer = SGD([param([1.0])], lr=0.1)
    late = param([1.0], [1.0])
    optimizer.add_param_group({"params": [late], "lr": 1.0})
    optimizer.step()
    assert late.data[0] == 0.0


def test_parameters_without_gradient_are_left_alone(param):
    still, moving = param([1.0]), param([1.0], [1.0])
    optimizer = SGD([still, moving], lr=0.1, momentum=0.9, weight_decay=0.1)
    optimizer.step()
    assert still.data[0] == 1.0
    assert moving.data[0] < 1.0
    assert list(optimizer.state_dict()["state"]) == [1]


@pytest.mark.parametrize("kind", [SGD, Adam, AdamW, RMSprop])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_step_writes_in_place_and_keeps_dtype_and_gradient(param, kind, shape):
    p = param(np.ones(shape), np.full(shape, 0.5), dtype=np.float32)
    memory, gradient, version = p.data, p.grad.data.copy(), p._version.count
    more = {SGD: {"momentum": 0.9}, RMSprop: {"centered": True}}.get(kind, {"amsgrad": True})
    options = {"weight_decay": 0.1} | more
    optimizer = kind([p], lr=np.float64(0.1), **options)
    for _ in range(3):
        optimizer.step()
    assert p.data is memory
    assert p.dtype == np.float32
    assert np.all(memory < 0.9)
    assert np.array_equal(p.grad.data, gradient)
    assert p._version.count == version + 3
    arrays = [v for v in optimizer.state_dict()["state"][0].values() if not isinstance(v, int)]
    assert {(a.dtype, a.shape) for a in arrays} == {(np.dtype(np.float32), shape)}


def test_step_gives_a_stale_saved_tensor_away(param):
    """The version count is what lets backward notice that a weight changed under its feet."""
    p = param([1.0, 2.0])
    y = (p * p).sum()
    p.grad = from_numpy(np.ones(2))
    SGD([p], lr=0.1).step()
    with pytest.raises(RuntimeError, match="in place"):
        y.backward()


@pytest.mark.parametrize("kind", [SGD, Adam, AdamW, RMSprop])
def test_a_frozen_network_is_named(param, kind):
    frozen, other = param([1.0]).requires_grad_(False), param([2.0]).requires_grad_(False)
    optimizer = kind([frozen, other], lr=0.1)
    words = r"step: expected parameters that require a gradient, got 2 that are all frozen. Call"
    with pytest.raises(GraphError, match=kind.__name__ + r"\." + words):
        optimizer.step()
    other.requires_grad_(True)  # frozen for a while only: its gradient may come later
    optimizer.step()
    assert (frozen.item(), other.item()) == (1.0, 2.0)
    with pytest.raises(ArgumentError, match="parameters are all frozen has nothing to train"):
        kind([p for p in (frozen,) if p.requires_grad], lr=0.1)


def test_zero_grad(param):
    p, q = param([1.0], [2.0]), param([1.0])
    optimizer = SGD([p, q])
    gradient = p.grad
    optimizer.zero_grad(set_to_none=False)
    assert p.grad.data[0] == 0.0
    assert gradient.data[0] == 0.0
    assert q.grad is None
    optimizer.zero_grad()
    assert p.grad is None


def test_names_from_pairs_stand_in_errors(param):
    p = param([1.0], [1.0])
    optimizer = SGD([("conv1.weight", p)])
    assert optimizer.param_groups[0]["param_names"] == ["conv1.weight"]
    p.data = np.array([1.0], dtype=np.float32)
    with pytest.raises(DTypeError, match=r"dtype float32, got float64 \(conv1.weight of shape"):
        optimizer.step()


def test_nothing_is_changed_when_one_gradient_is_bad(param):
    good, bad = param([1.0], [1.0]), param([1.0], [1.0])
    optimizer = SGD([good, bad], lr=0.1)
    bad.data = np.array([1.0], dtype=np.float32)
    with pytest.raises(DTypeError, match="parameter 1 of shape"):
        optimizer.step()
    assert good.data[0] == 1.0


@pytest.mark.parametrize("kind", [SGD, Adam, AdamW, RMSprop])
def test_state_of_a_network_that_was_converted_is_named(param, kind):
    """Kernels would go through the old, shorter memory as if it had the new dtype."""
    good, bad = (param(np.ones(5), np.ones(5), dtype=np.float32) for _ in range(2))
    optimizer = kind([good, bad], lr=0.1, **({"momentum": 0.9} if kind is SGD else {}))
    optimizer.step()
    before, bad.data = good.data.copy(), np.ones(5)
    bad.grad = from_numpy(np.ones(5))
    name = {SGD: "momentum_buffer", RMSprop: "square_avg"}.get(kind, "exp_avg")
    words = rf"{kind.__name__}.step: expected {name} of dtype float64, got float32 \(parameter 1 of"
    with pytest.raises(DTypeError, match=words + ".*Convert or move a network before its optimiz"):
        optimizer.step()
    assert np.array_equal(good.data, before)
    optimizer.state.clear()
    optimizer.step()
    assert not np.array_equal(good.data, before)


def test_state_of_another_shape_is_named(param):
    p = param(np.ones(5), np.ones(5))
    optimizer = SGD([("w", p)], lr=0.1, momentum=0.9)
    optimizer.state[p]["momentum_buffer"] = np.zeros(1)
    with pytest.raises(ShapeError, match=r"of shape \(5,\), got \(1,\) \(w of shape \(5,\)\)"):
        optimizer.step()
    assert p.data.tolist() == [1] * 5


class _Model:
    def parameters(self):
        return iter(())


P = "a tensor, put in by the test"

BAD = [
    (SGD, [], {}, ArgumentError, "at least one parameter.*model.parameters"),
    (SGD, iter(()), {}, ArgumentError, "walked through only once"),
    (SGD, P, {}, ArgumentError, r"iterable of tensors, got a Tensor of shape \(2,\). Pass \[tens"),
    (SGD, _Model(), {}, ArgumentError, "got _Model. Pass model.parameters()"),
    (SGD, 3, {}, ArgumentError, "iterable of tensors or groups, got int"),
    (SGD, [3], {}, ArgumentError, r"tensors or \(name, tensor\) pairs, got int"),
    (SGD, [P, P], {}, ArgumentError, "each parameter once, got parameter 1 of shape"),
    (SGD, [{"params": [P]}, {"params": [P]}], {}, ArgumentError, "each parameter once"),
    (SGD, [{"params": [P], "learning_rate": 1}], {}, ArgumentError, "option 'learning_rate'"),
    (SGD, [{"param": [P]}], {}, ArgumentError, "got a dict with keys .'param'."),
    (SGD, [{"params": [P]}, P], {}, ArgumentError, "expected a group"),
    (SGD, [{"params": [P], "lr": -1}], {}, ArgumentError, "lr a finite number >= 0, got -1"),
    (SGD, [P], {"lr": -0.1}, ArgumentError, "SGD: expected lr a finite number >= 0, got -0.1"),
    (SGD, [P], {"lr": float("nan")}, ArgumentError, "lr a finite number >= 0, got nan"),
    (SGD, [P], {"lr": float("inf")}, ArgumentError, "lr a finite number >= 0, got inf"),
    (SGD, [P], {"lr": "0.1"}, ArgumentError, "lr a number >= 0, got '0.1'"),
    (SGD, [P], {"lr": True}, ArgumentError, "lr a number >= 0, got True"),
    (SGD, [P], {"momentum": 9}, ArgumentError, "momentum a finite number >= 0 and <= 1, got 9"),
    (SGD, [P], {"dampening": 2}, ArgumentError, "dampening a finite number >= 0 and <= 1, got 2"),
    (
        SGD,
        [P],
        {"weight_decay": -1e-4},
        ArgumentError,
        "weight_decay a finite number >= 0, got -0.0001",
    ),
    (SGD, [P], {"nesterov": True}, ArgumentError, "momentum > 0 and dampening == 0"),
    (
        SGD,
        [P],
        {"nesterov": True, "momentum": 0.9, "dampening": 0.1},
        ArgumentError,
        "got momentum 0.9 and dampening 0.1",
    ),
    (Adam, [P], {"betas": (0.9,)}, ArgumentError, "betas to be two numbers"),
    (Adam, [P], {"betas": 0.9}, ArgumentError, "betas to be two numbers, got 0.9"),
    (
        Adam,
        [P],
        {"betas": (0.9, 1.0)},
        ArgumentError,
        r"betas\[1\] a finite number >= 0 and < 1, got 1.0",
    ),
    (Adam, [P], {"eps": -1}, ArgumentError, "eps a finite number >= 0, got -1"),
    (RMSprop, [P], {"alpha": 1.5}, ArgumentError, "RMSprop: .*alpha a finite number >= 0 and <= 1"),
    (RMSprop, [P], {"momentum": -1}, ArgumentError, "momentum a finite number >= 0, got -1"),
    (RMSprop, [P], {"centered": 1}, ArgumentError, "centered True or False, got 1"),
    (RMSprop, [P], {"maximize": "up"}, ArgumentError, "maximize True or False, got 'up'"),
    (
        AdamW,
        [P],
        {"weight_decay": -1},
        ArgumentError,
        "AdamW: .*weight_decay a finite number >= 0, got -1",
    ),
]


@pytest.mark.parametrize(("kind", "params", "options", "error", "words"), BAD)
def test_bad_arguments(param, kind, params, options, error, words):
    p = param([1.0, 2.0])

    def put(entry):
        if entry is P:
            return p
        if isinstance(entry, dict):
            return {k: put(v) for k, v in entry.items()}
        return [put(e) for e in entry] if isinstance(entry, list) else entry

    with pytest.raises(error, match=words):
        kind(put(params), **options)


def test_integer_and_computed_tensors_are_refused(param):
    with pytest.raises(DTypeError, match="floating-point parameters, got int64 in parameter 0"):
        SGD([from_numpy(np.arange(3))])
    with pytest.raises(ArgumentError, match=r"leaf tensors, got h of shape .*result of an operat"):
        SGD([("h", param([1.0]) * 2)])


# -- state dicts


def trained(kind, param, **options):
    p, q = param([1.0, 2.0], [0.5, -0.5]), param([[3.0]], [[0.25]])
    optimizer = kind([{"params": [p]}, {"params": [q], "lr": 0.01}], **options)
    for _ in range(3):
        optimizer.step()
    return optimizer, p, q


CASES = [
    (SGD, {"lr": 0.1, "momentum": 0.9}),
    (SGD, {"lr": 0.1}),
    (Adam, {"lr": 0.1, "amsgrad": True}),
    (AdamW, {"lr": 0.1}),
    (RMSprop, {"lr": 0.1}),
    (RMSprop, {"lr": 0.1, "momentum": 0.5, "centered": True, "maximize": True}),
]


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_state_dict_carries_over_bit_for_bit(param, kind, options):
    old, p, q = trained(kind, param, **options)
    state = old.state_dict()
    assert [group["params"] for group in state["param_groups"]] == [[0], [1]]

    p2, q2 = param(p.data, p.grad.data), param(q.data, q.grad.data)
    new = kind([{"params": [p2]}, {"params": [q2]}], lr=9.0)
    new.load_state_dict(state)
    assert [group["lr"] for group in new.param_groups] == [0.1, 0.01]
    for _ in range(3):
        old.step()
        new.step()
    assert np.array_equal(p.data, p2.data)
    assert np.array_equal(q.data, q2.data)


def test_state_dict_is_a_copy_both_ways(param):
    old, _, _ = trained(SGD, param, lr=0.1, momentum=0.9)
    state = old.state_dict()
    before = state["state"][0]["momentum_buffer"].copy()
    old.step()
    assert np.array_equal(state["state"][0]["momentum_buffer"], before)
    old.load_state_dict(state)
    old.step()
    assert np.array_equal(state["state"][0]["momentum_buffer"], before)


def test_loading_an_empty_state_forgets_the_buffers(param):
    p = param([1.0], [1.0])
    optimizer = SGD([p], lr=1.0, momentum=0.5)
    empty = optimizer.state_dict()
    optimizer.step()
    optimizer.load_state_dict(empty)
    optimizer.step()
    assert p.data[0] == -1.0  # 1 - 1 - 1: the second step is a first step again


def test_state_that_does_not_fit_changes_nothing(param):
    optimizer, _, _ = trained(SGD, param, lr=0.1, momentum=0.9)
    kept = optimizer.state_dict()

    def changed(change):
        state = optimizer.state_dict()
        change(state)
        return state

    def buffer(value):
        return lambda s: s["state"][0].update(momentum_buffer=value)

    bad = [
        ({"state": {}}, ArgumentError, "'state' and 'param_groups', got a dict with keys"),
        (None, ArgumentError, "'state' and 'param_groups', got NoneType"),
        (changed(lambda s: s["param_groups"].pop()), ArgumentError, r"2 group\(s\) of \[1, 1\]"),
        (changed(lambda s: s["param_groups"][0]["params"].append(7)), ArgumentError, r"\[2, 1\]"),
        (changed(lambda s: s["param_groups"][1].pop("momentum")), ArgumentError, "without momen"),
        (
            changed(lambda s: s["param_groups"][1].update(lr=np.nan)),
            ArgumentError,
            "lr a finite number, got nan",
        ),
        (changed(lambda s: s["state"].update({5: {}})), ArgumentError, r"state of \['5'\] too"),
        (changed(buffer(np.ones(3))), ShapeError, r"momentum_buffer of shape \(2,\), got \(3,\)"),
        (changed(buffer(np.ones(2, np.float32))), DTypeError, "dtype float64, got float32"),
    ]
    for state, error, words in bad:
        with pytest.raises(error, match=words):
            optimizer.load_state_dict(state)
    now = optimizer.state_dict()
    assert now["param_groups"] == kept["param_groups"]
    assert np.array_equal(now["state"][0]["momentum_buffer"], kept["state"][0]["momentum_buffer"])


def test_adam_state_does_not_go_into_sgd(param):
    adam, _, _ = trained(Adam, param)
    sgd, _, _ = trained(SGD, param)
    with pytest.raises(ArgumentError, match="options of SGD, got a group without dampening"):
        sgd.load_state_dict(adam.state_dict())


def test_repr_shows_the_groups(param):
    text = repr(SGD([param([1.0])], lr=0.1, momentum=0.9))
    assert text == (
        "SGD(\n  1 parameters: lr=0.1, momentum=0.9, dampening=0.0, weight_decay=0.0, "
        "nesterov=False\n)"
    )


# -- no-decay groups


class _Net:
    def __init__(self, pairs):
        self.pairs = pairs

    def named_parameters(self):
        return iter(self.pairs)


def test_no_decay_groups_split_by_dimensions(param):
    pairs = [
        ("conv.weight", param(np.ones((2, 3, 1, 1)))),
        ("bn.weight", param(np.ones(2))),
        ("bn.bias", param(np.ones(2))),
        ("fc.weight", param(np.ones((4, 2)))),
        ("fc.bias", param(np.ones(4))),
    ]
    for source in (pairs, _Net(pairs)):
        decayed, spared = no_decay_groups(source, 1e-4)
        assert [name for name, _ in decayed["params"]] == ["conv.weight", "fc.weight"]
        assert [name for name, _ in spared["params"]] == ["bn.weight", "bn.bias", "fc.bias"]
        assert (decayed["weight_decay"], spared["weight_decay"]) == (1e-4, 0.0)
    optimizer = SGD(no_decay_groups(pairs, 0.5), lr=0.1, momentum=0.9)
    for _, p in pairs:
        p.grad = from_numpy(np.zeros(p.shape))
    optimizer.step()
    assert {name: float(p.data.flat[0]) for name, p in pairs} == {
        "conv.weight": 0.95,
        "bn.weight": 1.0,
        "bn.bias": 1.0,
        "fc.weight": 0.95,
        "fc.bias": 1.0,
    }


def test_no_decay_groups_refuses_bare_tensors(param):
    with pytest.raises(ArgumentError, match=r"pairs, got Tensor. Pass the model"):
        no_decay_groups([param([1.0])], 1e-4)
    with pytest.raises(ArgumentError, match="weight_decay a finite number >= 0, got -1"):
        no_decay_groups([], -1)
