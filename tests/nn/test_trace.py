"""Which operations a forward pass is made of: order, arguments, modules, places."""

from __future__ import annotations

import operator
import sys

import numpy as np
import pytest

import minires as mr
from minires import nn
from minires.errors import ArgumentError
from minires.models import BasicBlock
from minires.nn import functional as F
from minires.nn.trace import Value, tensors, tensors_or_zeros, trace


class Apply(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


def follow(function, *shapes, **options):
    return trace("test", Apply(function), [mr.randn(*shape) for shape in shapes], **options)


def names(seen):
    return [step.function.__name__ for step in seen.steps]


def test_steps_values_and_options():
    seen = follow(lambda x, y: mr.cat([x * 2.0, y], dim=1).exp(), (2, 3), (2, 1))
    assert names(seen) == ["Mul", "Concatenate", "Exp"]
    mul, cat, exp = seen.steps
    assert mul.inputs == (seen.inputs[0], 2.0)
    assert cat.inputs == (mul.outputs[0], seen.inputs[1])
    assert cat.options == {"axis": 1}
    assert cat.values == [*cat.inputs]
    assert seen.outputs == [*exp.outputs]
    (y,) = seen.outputs
    assert (y.shape, y.dtype, y.step, y.array, y.nbytes) == ((2, 4), np.float32, exp, None, 32)


def test_modules_and_places():
    net = nn.Sequential(nn.ReLU(), Apply(lambda x: F.relu(x) + 1))
    line = sys._getframe().f_lineno - 1
    seen = trace("test", net, [mr.randn(2, 3)])
    assert [(s.function.__name__, s.module) for s in seen.steps] == [
        ("ReLU", "0"),
        ("ReLU", "1"),
        ("Add", "1"),
    ]
    assert [s.place for s in seen.steps[1:]] == [(__file__, line)] * 2
    assert [(path, value.shape) for path, value in seen.calls] == [
        ("0", (2, 3)),
        ("1", (2, 3)),
        ("", (2, 3)),
    ]


def test_parameters_have_names_and_constants_values():
    net = nn.BatchNorm2d(3)
    net.running_mean.fill_(1.0)
    seen = trace("test", net, [mr.randn(2, 3, 1, 1)])
    (norm,) = (s for s in seen.steps if s.function.__name__ == "BatchNorm")
    assert [value.name for value in norm.values] == ["", "weight", "bias"]
    assert norm.values[1].array is net.weight._array
    seen = follow(lambda x: x + mr.ones(3), (2, 3))
    constant = seen.steps[0].inputs[1]
    assert (constant.name, constant.array.tolist()) == ("", [1.0, 1.0, 1.0])


def test_detached_tensors_are_the_same_value():
    seen = follow(lambda x: x.exp().detach() * 2, (2, 3))
    assert seen.steps[1].inputs[0] is seen.steps[0].outputs[0]


def test_in_place_operations_continue_the_value():
    def forward(x):
        y = x * 2
        y += x
        y.relu_()
        return y.neg()

    seen = follow(forward, (2, 3))
    assert names(seen) == ["Mul", "Add", "ReLU", "Neg"]
    for before, after in zip(seen.steps, seen.steps[1:]):
        assert after.inputs[0] is before.outputs[0]


def test_the_value_before_a_write_is_still_told_apart():
    def forward(x):
        y = x * 2
        z = y.exp()
        y += 1
        return z * y

    _, exp, add, mul = follow(forward, (2, 3)).steps
    assert mul.inputs == (exp.outputs[0], add.outputs[0])


@pytest.mark.parametrize("write", ["item", "view", "slice"])
def test_what_no_step_describes_is_said(write):
    def forward(x):
        y = x * 2
        if write == "item":
            y[0] = 1.0
        elif write == "view":
            y.reshape(-1).add_(1.0)
        else:
            z = y[:1]
            y += 1
            return z.exp()
        return y.exp()

    last = follow(forward, (2, 3)).steps[-1]
    assert last.function.__name__ == "Exp"
    assert last.inputs[0].written[0] == __file__


def test_comparisons_and_their_masks():
    seen = follow(lambda x: mr.where(x > 0, x, 0.0), (2, 3))
    comparison, where = seen.steps
    assert comparison.function is operator.gt
    assert comparison.outputs[0].dtype == np.bool_
    assert where.inputs[2] is comparison.outputs[0]


def test_needed_leaves_out_what_no_output_depends_on():
    seen = follow(lambda x: (x.exp(), x * 2)[1], (2, 3))
    assert names(seen) == ["Exp", "Mul"]
    assert [s.function.__name__ for s in seen.needed()] == ["Mul"]


def test_contexts_only_with_gradients():
    net = BasicBlock(3, 3)
    net.bn1.num_batches_tracked.fill_(1)
    net.bn2.num_batches_tracked.fill_(1)
    x = mr.randn(2, 3, 4, 4)
    assert all(step.ctx is None for step in trace("test", net, [x]).steps)
    recorded = [s.function.__name__ for s in trace("test", net, [x], grad=True).steps if s.ctx]
    assert recorded[:3] == ["Conv2d", "BatchNorm", "ReLU"]
    assert x.grad is None


def test_outputs_may_be_several():
    seen = follow(lambda x: (x, x.exp()), (2, 3))
    assert seen.outputs == [seen.inputs[0], seen.steps[0].outputs[0]]
    assert seen.calls == [("", None)]


def test_the_state_and_the_input_are_left_alone():
    def forward(x):
        x += 1
        return x + mr.randn(2, 3)

    net, x = Apply(forward), mr.zeros(2, 3)
    state = mr.random.get_state()
    trace("test", net, [x])
    assert net.training
    assert not net._forward_hooks
    assert not net._forward_pre_hooks
    assert mr.random.get_state() == state
    assert not x.any()


def test_buffers_that_a_forward_writes_are_restored():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", mr.zeros(1))
            self.register_buffer("last", mr.zeros(1))

        def forward(self, x):
            self.calls += 1
            self.last = self.calls + 1
            return x * self.last

    net = Counts()
    last = net.last
    seen = trace("test", net, [mr.ones(2)])
    assert names(seen) == ["Add", "Add", "Mul"]
    assert (net.calls.item(), net.last.item()) == (0, 0)
    assert net.last is last


def test_modes_and_hooks_are_restored_after_an_error():
    def forward(x):
        raise ValueError("no")

    net = nn.Sequential(Apply(forward))
    with pytest.raises(ValueError, match="no"):
        trace("test", net, [mr.ones(2)])
    assert all(module.training and not module._forward_hooks for module in net.modules())


def test_hooks_of_the_user_run_and_count():
    net = nn.ReLU()
    net.register_forward_hook(lambda module, args, out: out * 2)
    assert names(trace("test", net, [mr.ones(2)])) == ["ReLU", "Mul"]


def test_bad_networks():
    without = type("Empty", (nn.Module,), {})()
    with pytest.raises(ArgumentError, match=r"a network with a forward\(\), got Empty, which def"):
        trace("test", without, [mr.ones(2, 3)])
    without.forward = lambda x: x + 1
    assert names(trace("test", without, [mr.ones(2, 3)])) == ["Add"]
    with pytest.raises(ArgumentError, match="test: expected a Module as network, got function"):
        trace("test", lambda x: x, [mr.ones(2)])
    with pytest.raises(ArgumentError, match=r"expected Apply to return a tensor, or .*, got float"):
        follow(lambda x: 1.0, (2,))


def test_inputs():
    x, array = mr.ones(2, 3), np.ones((2, 3))
    assert tensors("test", x) == [x]
    assert [t.dtype for t in tensors("test", (x, array))] == [np.float32, np.float64]
    net = nn.Linear(2, 2).double()
    (zeros,) = tensors_or_zeros("test", net, [4, 2])
    assert (zeros.shape, zeros.dtype, zeros.any().item()) == ((4, 2), np.float64, False)
    assert tensors_or_zeros("test", nn.ReLU(), (4, 2))[0].dtype == np.float32
    assert tensors_or_zeros("test", net, (4, 2), np.float32)[0].dtype == np.float32
    assert len(tensors_or_zeros("test", net, (x, x))) == 2


def test_values_are_told_apart_by_identity():
    one, two = Value((2,), np.dtype("f4")), Value((2,), np.dtype("f4"))
    assert len({one, two}) == 2
