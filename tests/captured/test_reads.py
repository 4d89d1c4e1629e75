"""Variables that a captured function reads: what changes between calls is seen, or refused."""

from __future__ import annotations

import functools
import sys
import types

import numpy as np
import pytest

import minires as mr
from minires import nn, optim
from minires.captured import MOST
from minires.captured.reads import LARGEST, Reads
from minires.errors import CaptureError

SCALE = 2.0
TABLE = {"scale": 2.0, "other": [1]}
FACTORS = [2.0]


def doubled(x):
    return x * SCALE


class Config:
    scale = 2.0

    def __init__(self):
        self.mine = 2.0

    def apply(self, x):
        return x * self.mine


class Slots:
    __slots__ = ()


def by_global():
    return lambda x: x * SCALE, lambda v: globals().update(SCALE=v)


def by_a_called_function():
    return lambda x: doubled(x) + 0, lambda v: globals().update(SCALE=v)


def by_a_nested_function():
    def function(x):
        def inner():
            return sum(SCALE for _ in range(1))

        return x * inner()

    return function, lambda v: globals().update(SCALE=v)


def by_closure():
    scale = 2.0

    def change(v):
        nonlocal scale
        scale = v

    return lambda x: x * scale, change


def by_dict_entry():
    return lambda x: x * TABLE["scale"], lambda v: TABLE.update(scale=v)


def by_closed_over_dict():
    table = {"scale": 2.0}
    return lambda x: x * table["scale"], lambda v: table.update(scale=v)


def by_list_entry():
    return lambda x: x * FACTORS[0], lambda v: FACTORS.__setitem__(0, v)


def by_set():
    chosen = {2.0}
    return lambda x: x * max(chosen), lambda v: (chosen.clear(), chosen.add(v))


def by_object_attribute():
    config = Config()
    return lambda x: x * config.mine, lambda v: setattr(config, "mine", v)


def by_bound_method():
    config = Config()
    return config.apply, lambda v: setattr(config, "mine", v)


def by_method_of_an_object():
    config = Config()
    return lambda x: config.apply(x), lambda v: setattr(config, "mine", v)


def by_class_attribute():
    return lambda x: x * Config.scale, lambda v: setattr(Config, "scale", v)


def by_attribute_in_an_attribute():
    outer = types.SimpleNamespace(table={"scale": 2.0})

    class Holder:
        def __init__(self):
            self.table = outer.table

        def __call__(self, x):
            return x * self.table["scale"]

    return Holder(), lambda v: outer.table.update(scale=v)


def by_partial():
    table = {"scale": 2.0}

    def function(table, x):
        return x * table["scale"]

    return functools.partial(function, table), lambda v: table.update(scale=v)


def by_default():
    def function(x, table={"scale": 2.0}):  # noqa: B006
        return x * table["scale"]

    table = function.__defaults__[0]
    return function, lambda v: table.update(scale=v)


def by_python_module():
    module = types.ModuleType("settings_of_a_user")
    module.SCALE = 2.0
    sys.modules[module.__name__] = module
    return lambda x: x * module.SCALE, lambda v: setattr(module, "SCALE", v)


def by_network():
    class Net(nn.Module):
        def forward(self, x):
            return self.scaled(x)

        def scaled(self, x):
            return x * SCALE

    return Net(), lambda v: globals().update(SCALE=v)


def by_part_of_a_network():
    class Part(nn.Module):
        def forward(self, x):
            return x * TABLE["scale"]

    return nn.Sequential(nn.Identity(), Part()), lambda v: TABLE.update(scale=v)


def by_branch():
    flag = [True]
    return (
        lambda x: x * 3 if flag[0] else x - 1,
        lambda v: flag.__setitem__(0, v == 2.0),
    )


def by_tensor():
    factor = mr.tensor([2.0])

    def change(v):
        nonlocal factor
        factor = mr.tensor([float(v)])

    return lambda x: x * factor, change


def by_function():
    def change(v):
        nonlocal f
        f = mr.relu if v == 2.0 else mr.tanh

    f = mr.relu
    return lambda x: f(x), change


def by_late_cell():
    def change(v):
        nonlocal late
        late = v

    function = lambda x: x * late  # noqa: E731
    late = 2.0
    return function, change


WAYS = [value for name, value in [*globals().items()] if name.startswith("by_")]


@pytest.fixture(autouse=True)
def restored():
    yield
    globals().update(SCALE=2.0)
    TABLE.clear()
    TABLE.update(scale=2.0, other=[1])
    FACTORS[:] = [2.0]
    Config.scale = 2.0


@pytest.mark.parametrize("kind", [float, int, np.float32, np.float64], ids=lambda k: k.__name__)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_what_changes_between_calls_is_seen(way, kind):
    function, change = way()
    captured = mr.capture(function)
    values = [2, 2, 2, 2, 5, 5, 5, 5, 2, 5, 2, 7, 7, 7, 7]
    for call, value in enumerate(values):
        change(kind(value))
        x = mr.tensor([0.5 + call, -1.0])
        np.testing.assert_array_equal(captured(x).numpy(), function(x).numpy())
    assert len(captured._calls) == (2 if way in (by_branch, by_function) else 3) or way is by_tensor


def test_types_that_are_equal_are_told_apart():
    value = [1]
    captured = mr.capture(lambda x: x * 2 if isinstance(value[0], bool) else x * (value[0] / 1))
    seen = []
    for value[0] in [1, 1, 1, True, True, True, 1.0, -0.0, 0.0]:
        seen.append(captured(mr.tensor([3.0, 1.0]))[0].item())
    assert seen == [3, 3, 3, 6, 6, 6, 3, 0, 0]
    assert [bool(np.signbit(number)) for number in seen[-2:]] == [True, False]


def test_a_tuple_is_compared_by_its_values():
    sizes = (2, (1, "a"))
    captured = mr.capture(lambda x: x * sizes[0])
    for number in range(8):
        sizes = (2, (int(f"{1}"), "".join(["a"])))  # equal, and another one each time
        captured(mr.tensor([float(number), 1.0]))
    assert len(captured._calls) == 1
    sizes = (3, (1, "a"))
    assert captured(mr.tensor([1.0, 2.0])).tolist() == [3, 6]


def test_a_value_of_its_own_in_each_call_is_right_and_never_recorded():
    number = 0
    captured = mr.capture(lambda x: x * number)
    for number in range(4 * MOST):
        assert captured(mr.tensor([1.0, 2.0])).tolist() == [number, 2 * number]
    assert len(captured._calls) == 0
    assert len(captured._reads._numbers) <= 2 * MOST


def counting(how):
    """Functions that count their calls, and read the count if ``how`` says so."""
    steps = 0
    table = {"n": 0}
    config = Config()

    def by_variable(x):
        nonlocal steps
        steps += 1
        return x * 2 if not how or steps < 99 else x

    def by_entry(x):
        table["n"] += 1
        return x * 2 if not how or table["n"] < 99 else x

    def by_attribute(x):
        config.mine += 1
        return x * 2 if not how or config.mine < 99 else x

    def globally(x):
        global SCALE
        SCALE = SCALE + 1
        return x * 2 if not how or SCALE < 99 else x

    def only_counting(x):
        nonlocal steps
        steps += 1
        table["n"] += 1
        config.mine += 1
        return x * 2

    if not how:
        return [(only_counting, "")]
    return [
        (by_variable, "the variable steps"),
        (by_entry, "the entries of the variable table"),
        (by_attribute, r"the variable config\.mine"),
        (globally, "the global variable SCALE"),
    ]


def test_what_a_function_changes_and_reads_is_named():
    for function, name in counting("and reads"):
        captured = mr.capture(function)
        captured(mr.tensor([1.0, 2.0]))
        words = f"leaves the variables it reads as they are, got one that changes {name}: a record"
        with pytest.raises(CaptureError, match=words):
            captured(mr.tensor([1.0, 2.0]))


def test_what_only_counts_the_runs_of_python_does_no_harm():
    [(function, _)] = counting("")
    captured = mr.capture(function)
    for number in range(6):
        captured(mr.tensor([float(number), 1.0]))
    assert len(captured._calls) == 1


def test_a_log_may_grow():
    log, shapes = [], {}

    def function(x):
        log.append(1)
        shapes[len(log)] = x.shape
        return x * 2

    captured = mr.capture(function)
    for number in range(6):
        captured(mr.tensor([float(number), 1.0]))
    assert len(captured._calls) == 1


def test_training_with_a_factor_from_outside():
    """A weight of the loss that falls while training, as in a script."""

    def run(capture):
        mr.manual_seed(0)
        net = nn.Linear(4, 3)
        optimizer = optim.SGD(net.parameters(), lr=0.1)
        weights = {"penalty": 1.0}

        def step(x):
            optimizer.zero_grad()
            loss = (net(x) ** 2).mean() + weights["penalty"] * (net.weight**2).sum()
            loss.backward()
            optimizer.step()
            return loss

        step = mr.capture(step, net, optimizer) if capture else step
        losses = []
        for number in range(12):
            weights["penalty"] = 1.0 if number < 6 else 0.1
            losses.append(step(mr.randn(5, 4)).item())
        return losses

    assert run(True) == run(False)


def test_what_is_not_looked_into():
    """Large containers, and what lies deeper: the docstring says so."""
    large = dict.fromkeys(range(LARGEST + 1), 2.0)
    deep = {"a": {"scale": 2.0}}
    for function, change in (
        (lambda x: x * large[0], lambda: large.update({0: 3.0})),
        (lambda x: x * deep["a"]["scale"], lambda: deep["a"].update(scale=3.0)),
    ):
        captured = mr.capture(function)
        for number in range(3):
            captured(mr.tensor([float(number), 1.0]))
        change()
        assert captured(mr.tensor([1.0, 2.0])).tolist() == [2, 4]


def test_freezing_inside_and_between():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))

    def step(x):
        net.zero_grad()
        loss = net(x).square().mean()
        net[0].requires_grad_(False)
        loss.backward()
        net[0].requires_grad_(True)
        return loss

    captured = mr.capture(step, net)
    for _ in range(5):
        captured(mr.randn(3, 4))
        assert [p.grad is None for p in net.parameters()] == [True, True, False, False]
    assert len(captured._calls) == 1


def test_modes_that_a_function_leaves_are_left():
    """A step that begins with ``train()``, after an evaluation; one that freezes."""
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Dropout(0.5))

    def step(x):
        net.train()
        net[0].weight.requires_grad_(not net[0].weight.requires_grad)
        return net(x).sum()

    captured = mr.capture(step, net)
    for number in range(12):
        if number % 3 == 0:
            net.eval()
        trained = net[0].weight.requires_grad
        captured(mr.randn(3, 4))
        assert net.training
        assert net[0].weight.requires_grad is not trained


def test_reads_of_a_step_are_few():
    """What a usual step names is its network, its optimiser and a few functions."""
    net = nn.Linear(4, 3)
    optimizer = optim.SGD(net.parameters(), lr=0.1)

    def step(x, y):
        optimizer.zero_grad()
        loss = mr.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        return loss

    reads = Reads(step)
    reads.signature(0, [net])
    assert len(reads._last) <= 4
