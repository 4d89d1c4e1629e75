"""Fusion: who looks at the result of any call, or writes into it, sees what he would without."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from harness import host, ones, there
from ops.fused import STAGES, Chain, both_ways, follow, quiet, text_of_error, values

import minires as mr
from minires import nn

LOOKS = {
    "sum": lambda chain, t: t.sum().item(),
    "repr": lambda chain, t: repr(t),
    "format": lambda chain, t: f"{t}",
    "len": lambda chain, t: [len(t), t.shape, t.ndim, str(t.dtype), str(t.device), t.numel()],
    "size": lambda chain, t: [t.size(), t.size(1), t.nbytes, t.itemsize, t.is_floating_point()],
    "iter": lambda chain, t: [values(part) for part in t],
    "index": lambda chain, t: t[1, 2:],
    "tolist": lambda chain, t: t.tolist(),
    "numpy": lambda chain, t: host(t.detach()).copy(),
    "numpy error": lambda chain, t: text_of_error(t.numpy) if t.requires_grad else None,
    "data": lambda chain, t: host(t.data.copy()),
    "__array__": lambda chain, t: np.asarray(t.detach()).copy(),
    "dlpack": lambda chain, t: np.from_dlpack(t.detach()).copy(),
    "detach": lambda chain, t: t.detach(),
    "clone": lambda chain, t: t.clone(),
    "double": lambda chain, t: t.float().double(),
    "to": lambda chain, t: t.to("cpu"),
    "contiguous": lambda chain, t: t.contiguous(),
    "compare": lambda chain, t: values(t > 0),
    "deepcopy": lambda chain, t: (
        text_of_error(lambda: copy.deepcopy(t)) if t.grad_fn else values(copy.deepcopy(t))
    ),
    "pickle": lambda chain, t: (
        text_of_error(lambda: pickle.dumps(t))
        if t.grad_fn
        else values(pickle.loads(pickle.dumps(t)))
    ),
    "grad_fn": lambda chain, t: [str(t.grad_fn), t.is_leaf, t.requires_grad],
    "view": lambda chain, t: t.reshape(2, -1),
    "transpose": lambda chain, t: t.permute(0, 2, 3, 1),
    "consumer": lambda chain, t: t.exp(),
    "relu": lambda chain, t: t.relu(),
    "plus": lambda chain, t: (t + 1).relu(),
    "plus itself": lambda chain, t: t + t,
    "sum of two": lambda chain, t: t + chain.x,
    "conv": lambda chain, t: chain.net.c1(t),
    "matmul": lambda chain, t: t @ t.transpose(2, 3),
    "pool": lambda chain, t: mr.max_pool2d(t, 2),
    "concatenate": lambda chain, t: mr.concatenate([t, chain.x]),
    "where": lambda chain, t: mr.where(t > 0, t, t * 2),
    "maximum": lambda chain, t: mr.maximum(t, chain.x),
    "hash": lambda chain, t: hash(t) == id(t),
    "equal shapes": lambda chain, t: (t == t).all().item(),
    "numpy backend": lambda chain, t: numpy_backend(lambda: (t.relu() + t).sum().item()),
    "tensor of it": lambda chain, t: mr.Tensor(t).sum().item(),
    "bad add": lambda chain, t: shape_error(lambda: t + ones(2, 4, 3, 2, dtype="float64")),
    "bad dtype": lambda chain, t: shape_error(lambda: t + ones(2, 4, 3, 3)),
    "bad conv": lambda chain, t: shape_error(
        lambda: mr.conv2d(t, ones(4, 5, 1, 1, dtype="float64"))
    ),
    "bad batch norm": lambda chain, t: shape_error(
        lambda: mr.batch_norm(t, None, None, ones(3, dtype="float64"))
    ),
}


def numpy_backend(f):
    with mr.backend("numpy"):
        return f()


def shape_error(f):
    """Errors come at the call, and not when someone looks."""
    with pytest.raises((mr.errors.ShapeError, mr.errors.DTypeError)) as caught:
        f()
    return str(caught.value)


@pytest.mark.slow
@pytest.mark.gpu_cases(only=["data", "relu", "pickle", "bad conv"])
@pytest.mark.parametrize("look", LOOKS)
def test_looking_at_any_stage(look, device):
    for training in (True, False):
        for at in STAGES:
            found = both_ways(lambda: follow(at, LOOKS[look], training))  # noqa: B023
            assert isinstance(found[1], dict), found

    def without_gradients():
        with mr.no_grad():
            return [follow(at, LOOKS[look], training=False) for at in STAGES]

    both_ways(without_gradients)


def no_grad(f):
    def act(chain, t):
        with mr.no_grad():
            f(chain, t)

    return act


def inside(name):
    """An in-place method of the tensor itself."""
    return lambda chain, t: quiet(getattr(t, name)(*([] if name == "relu_" else [1.5])))


def through_a_view(chain, t):
    t[0].mul_(3)


def through_a_flat_view(chain, t):
    t.permute(0, 2, 3, 1).reshape(-1).add_(1)


def set_item(chain, t):
    t[:, 1] = 7.0


def add_to_input(chain, t):
    chain.x.add_(2.0)


def first(chain):
    return chain.made["conv1"]


def new_statistics(chain, t):
    for b in chain.net.buffers():
        b.fill_(3)


def sgd_step(chain, t):
    for p in chain.net.parameters():
        p.grad = mr.ones_like(p)
    mr.optim.SGD(chain.net.parameters(), lr=0.5).step()
    chain.net.zero_grad()


def adam_step(chain, t):
    for p in chain.net.parameters():
        p.grad = mr.ones_like(p)
    mr.optim.Adam(chain.net.parameters(), lr=0.5).step()
    chain.net.zero_grad()


def load(chain, t):
    state = {name: s.detach().clone() * 2 for name, s in chain.net.state_dict().items()}
    state = {n: s.long() if "num_batches" in n else s for n, s in state.items()}
    chain.net.load_state_dict(state)


def initialise(chain, t):
    for p in chain.net.parameters():
        nn.init.constant_(p, 0.25)


def to_float(chain, t):
    chain.net.float().double()


def write_data(chain, t):
    for layer in (chain.net.c1, chain.net.c2):
        layer.weight.data[...] *= 2


def set_data(chain, t):
    for p in chain.net.parameters():
        p.data = p.data * 2


def write_first(chain, t):
    first(chain).data[...] *= 2


def write_input(chain, t):
    chain.x.data[...] *= 2


WRITES = {
    **{name: inside(name) for name in ("add_", "mul_", "relu_", "fill_", "copy_")},
    **{f"no_grad {name}": no_grad(inside(name)) for name in ("add_", "relu_", "fill_")},
    "setitem": set_item,
    "no_grad setitem": no_grad(set_item),
    "view": through_a_view,
    "no_grad view": no_grad(through_a_view),
    "flat view": through_a_flat_view,
    "+= itself": lambda chain, t: quiet(t.add_(t)),
    "+= input": lambda chain, t: quiet(t.add_(chain.x)),
    "input": add_to_input,
    "no_grad input": no_grad(add_to_input),
    "input relu_": lambda chain, t: quiet(chain.x.relu_()),
    "leaf": no_grad(lambda chain, t: chain.leaf.mul_(2)),
    "first": lambda chain, t: quiet(first(chain).mul_(2)),
    "no_grad first": no_grad(lambda chain, t: first(chain).add_(1)),
    "first.data": write_first,
    "input.data": write_input,
    "statistics": no_grad(new_statistics),
    "SGD": sgd_step,
    "Adam": adam_step,
    "load_state_dict": load,
    "init": no_grad(initialise),
    "module.to": to_float,
    "weights.data[...]": write_data,
    "weights.data =": set_data,
}


@pytest.mark.slow
@pytest.mark.gpu_cases(only=["mul_", "setitem", "flat view", "copy_", "weights.data[...]", "input"])
@pytest.mark.parametrize("name", WRITES)
def test_writing_at_any_stage(name, device):
    """Into the tensor, or into the memory that its lazy array reads: as if all were eager."""
    for training in (True, False):
        for at in STAGES:
            both_ways(lambda: follow(at, WRITES[name], training))  # noqa: B023

    def without_gradients():
        with mr.no_grad():
            return [follow(at, WRITES[name], training=False) for at in STAGES]

    found = both_ways(without_gradients)
    assert isinstance(found[0], list), found


@pytest.mark.parametrize("of", ["x", *STAGES[:-1]])
def test_writing_later_into_an_array_that_was_handed_out(of, device):
    """Unseen, at every later stage; no deferred operation may read it then."""

    def follow(at):
        chain, array = Chain(training=False), None
        if of == "x":
            array = chain.x.data
        for stage in STAGES:
            t = chain.step(stage)
            if stage == of:
                array = t.data
            if stage == at:
                array[...] = 7
        return [values(t) for t in chain.made.values()]

    for at in STAGES if of == "x" else STAGES[STAGES.index(of) :]:
        both_ways(lambda: follow(at))  # noqa: B023
        with mr.no_grad():
            both_ways(lambda: follow(at))  # noqa: B023


def test_what_a_relu_in_place_saved_is_its_own(device):
    """It takes the memory of its input over, and a later write there must not reach it."""

    def run():
        chain = Chain()
        h = chain.net.b1(chain.net.c1(chain.x))
        h += chain.x
        h.relu_()
        h += 5.0
        (h * h).sum().backward()
        return values(chain.leaf.grad)

    both_ways(run)


def test_two_tensors_on_one_memory(device):
    def run():
        chain = Chain(training=False)
        other, x = mr.zeros_like(chain.leaf), mr.zeros_like(chain.leaf)
        with mr.no_grad():
            other.copy_(chain.leaf)
            x.data = other
            y = chain.net.c1(x)
            other.add_(1)
            z = chain.net.c1(other)
            x.mul_(2)
            return [values(y), values(z)]

    both_ways(run)


def test_arrays_of_other_kinds_are_shared_too(tmp_path):
    """A subclass of NumPy's array, whose owner may write into it."""
    net = Chain(training=False).net
    array = np.memmap(tmp_path / "images", dtype="float64", mode="w+", shape=(2, 3, 3, 4))
    with mr.no_grad():
        y = net.c1(there(array.transpose(0, 3, 1, 2)))
        array[...] = 1
        assert y.abs().sum().item() == 0
