"""States of optimisers go from PyTorch to minires and back, and training goes on to one result."""

import copy
import itertools

import numpy as np
import pytest

import minires as mr
from minires import nn, optim
from minires.errors import ArgumentError

torch = pytest.importorskip("torch")

SHAPES = [(4, 3), (3,), (2, 1, 3, 3)]
KINDS = [
    ("SGD", {"lr": 0.05}),
    ("SGD", {"lr": 0.05, "momentum": 0.9}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    ("Adam", {"lr": 0.05}),
    ("Adam", {"lr": 0.05, "weight_decay": 0.1, "amsgrad": True}),
    ("AdamW", {"lr": 0.05, "betas": (0.8, 0.95), "weight_decay": 0.2}),
    ("AdamW", {"lr": 0.05, "amsgrad": True}),
    ("RMSprop", {"lr": 0.05}),
    ("RMSprop", {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1, "maximize": True}),
    ("RMSprop", {"lr": 0.05, "centered": True, "alpha": 0.8, "eps": 1e-3}),
]
GRADIENTS = [[np.random.default_rng((k, i)).normal(size=s) for i, s in enumerate(SHAPES)]
             for k in range(12)]  # fmt: skip


def start(side, dtype, values=None):
    values = [np.full(s, 1.0) for s in SHAPES] if values is None else values
    if side == "ours":
        return [mr.tensor(v.astype(dtype), requires_grad=True) for v in values]
    return [torch.tensor(v.astype(dtype), requires_grad=True) for v in values]


def make(side, name, options, params):
    library = optim if side == "ours" else torch.optim
    groups = [{"params": params[:1]}, {"params": params[1:], "lr": 0.02}]
    return getattr(library, name)(groups, **options)


def train(optimizer, params, steps):
    for step in steps:
        for index, p in enumerate(params):
            if step == 0 and index == 1:  # one that begins later than the others
                continue
            gradient = GRADIENTS[step][index]
            if isinstance(p, torch.Tensor):
                p.grad = torch.tensor(gradient, dtype=p.dtype)
            else:
                p.grad = mr.tensor(gradient.astype(p.dtype))
        optimizer.step()


def values(params):
    return [p.detach().numpy().copy() for p in params]


def close(ours, theirs, dtype):
    tolerance = 1e-6 if dtype == "float32" else 1e-13
    for a, b in zip(ours, theirs):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("how", ["file", "as it is", "numpy"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "options"), KINDS)
def test_from_pytorch(tmp_path, name, options, dtype, how):
    theirs = start("theirs", dtype)
    reference = make("theirs", name, options, theirs)
    train(reference, theirs, range(5))
    state = reference.state_dict()
    if how == "file":
        torch.save(state, tmp_path / "state.pth")
        state = mr.load(tmp_path / "state.pth")
    elif how == "numpy":
        state = copy.deepcopy(state)
        for values_of in state["state"].values():
            for key, value in values_of.items():
                values_of[key] = value.numpy() if isinstance(value, torch.Tensor) else value
    params = start("ours", dtype, values(theirs))
    optimizer = make("ours", name, {"lr": 9.0}, params)
    optimizer.load_state_dict(state)
    train(optimizer, params, range(5, 12))
    train(reference, theirs, range(5, 12))
    close(values(params), values(theirs), dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "options"), KINDS)
def test_to_pytorch(name, options, dtype):
    params = start("ours", dtype)
    optimizer = make("ours", name, options, params)
    train(optimizer, params, range(5))
    state = optimizer.state_dict()
    for kept in state["state"].values():
        for key, value in kept.items():
            kept[key] = torch.from_numpy(value) if isinstance(value, np.ndarray) else value
    theirs = start("theirs", dtype, values(params))
    reference = make("theirs", name, options, theirs)
    reference.load_state_dict(state)
    train(optimizer, params, range(5, 12))
    train(reference, theirs, range(5, 12))
    close(values(params), values(theirs), dtype)


def test_with_a_schedule_and_a_network(tmp_path):
    """As one goes on with a training that PyTorch began."""
    theirs = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2))
    reference = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.OneCycleLR(reference, 0.2, 20)
    x = np.random.default_rng(0).normal(size=(8, 6)).astype("float32")

    def step(network, optimizer, schedule, x):
        optimizer.zero_grad()
        (network(x) ** 2).mean().backward()
        optimizer.step()
        schedule.step()

    for _ in range(5):
        step(theirs, reference, schedule, torch.tensor(x))
    torch.save({"model": theirs.state_dict(), "optim": reference.state_dict()}, tmp_path / "a.pth")
    saved = mr.load(tmp_path / "a.pth")
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    optimizer = optim.SGD(network.parameters(), lr=1.0, momentum=0.5)
    ours = optim.lr_scheduler.OneCycleLR(optimizer, 0.2, 20)
    network.load_state_dict(saved["model"])
    for _ in range(5):
        ours.step()
    optimizer.load_state_dict(saved["optim"])
    for _ in range(5):
        step(theirs, reference, schedule, torch.tensor(x))
        step(network, optimizer, ours, mr.tensor(x))
    close([p.detach().numpy() for p in network.parameters()],
          [p.detach().numpy() for p in theirs.parameters()], "float32")  # fmt: skip


def test_states_of_another_kind_are_refused():
    for (first, options), (second, _) in itertools.product(KINDS[::2], KINDS[::2]):
        if first == second:
            continue
        theirs = start("theirs", "float64")
        reference = make("theirs", first, options, theirs)
        train(reference, theirs, range(2))
        optimizer = make("ours", second, {"lr": 0.1}, start("ours", "float64"))
        with pytest.raises(ArgumentError, match="Was this saved by another kind of optimiser"):
            optimizer.load_state_dict(reference.state_dict())
    theirs = start("theirs", "float64")
    reference = torch.optim.SGD(theirs, lr=0.1, maximize=True)
    with pytest.raises(ArgumentError, match="expected maximize False, got True"):
        optim.SGD(start("ours", "float64"), lr=0.1).load_state_dict(reference.state_dict())
