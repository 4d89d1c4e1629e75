"""Optimisers on a GPU, on two of them, and on a GPU and the CPU together."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from cuda_stand_in import cuda_kernels
from gpu import CUDA
from gpu import gpu as a_gpu
from harness import host as on_cpu

import minires as mr
from minires.device import cupy, device_of, move
from minires.errors import ArgumentError, DeviceError, DTypeError, KernelMissing, ShapeError
from minires.optim import SGD, Adam, AdamW, ReduceLROnPlateau, RMSprop, no_decay_groups

OPTIONS = [
    (SGD, {}),
    (SGD, {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
    (SGD, {"momentum": 0.9, "nesterov": True}),
    (Adam, {"weight_decay": 0.1, "amsgrad": True}),
    (AdamW, {"weight_decay": 0.1}),
    (RMSprop, {"weight_decay": 0.1, "momentum": 0.9, "centered": True, "eps": 1e-2}),
]
SHAPES = [(3,), (4, 5), (2, 3, 3, 3)]


@pytest.fixture(autouse=True, params=[CUDA])
def gpu(request):
    with a_gpu():
        yield cupy()


def device(number):
    """The name of a GPU; the test is skipped where there are fewer."""
    if number >= mr.cuda.device_count():
        pytest.skip(f"needs {number + 1} GPUs")
    return f"cuda:{number}"


def values(seed):
    rng = np.random.default_rng(seed)
    arrays = [rng.standard_normal(shape).astype("f4") for shape in SHAPES]
    return [*arrays[:2], np.asfortranarray(arrays[2])]


def parameters(device, seed=0):
    params = [mr.Tensor(move(value, device)) for value in values(seed)]
    for p in params:
        p.requires_grad = True
    return params


def train(optimizer, params, steps=3, seed=10):
    for step in range(steps):
        for p, value in zip(params, values(seed + step)):
            p.grad = mr.Tensor(move(value, p.device))
        on_gpu = any(p.device.type == "cuda" for p in params)  # where the stand-in's kernels run
        with contextlib.nullcontext() if on_gpu else mr.backend("numpy"):
            optimizer.step()


def same(a, b):
    """Two arrays, or numbers, are alike to rounding."""
    a, b = (on_cpu(v) if hasattr(v, "shape") else v for v in (a, b))
    np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)
    return True


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize(("kind", "options"), OPTIONS)
def test_training_is_that_of_the_cpu(kind, options, number, gpu):
    ours, theirs = parameters(device(number)), parameters("cpu")
    mine, reference = kind(ours, lr=0.1, **options), kind(theirs, lr=0.1, **options)
    with gpu.cuda.Device(number):
        train(mine, ours)
    train(reference, theirs)
    for p, q in zip(ours, theirs):
        assert str(p.device) == f"cuda:{number}"
        same(p.data, q.data)
        assert mine.state[p].keys() == reference.state[q].keys()
        for name, kept in mine.state[p].items():
            same(kept, reference.state[q][name])


@pytest.mark.parametrize(("kind", "options"), OPTIONS)
def test_a_state_goes_from_device_to_device(kind, options):
    """Saved on the CPU and on a GPU, loaded on a GPU: the next steps are the same."""
    ends = []
    for first, second in (("cpu", "cpu"), ("cuda:0", "cuda:0"), ("cpu", "cuda:0")):
        params = parameters(first)
        old = kind(params, lr=0.1, **options)
        train(old, params)
        state = old.state_dict()
        before = [on_cpu(p.data).copy() for p in params]
        copies = [[on_cpu(a) for a in kept.values()] for kept in state["state"].values()]
        train(old, params)  # which leaves what was saved as it was
        for kept, copy in zip(state["state"].values(), copies):
            assert all(np.array_equal(on_cpu(a), b) for a, b in zip(kept.values(), copy))
        moved = [mr.Tensor(move(value, second)) for value in before]
        for p in moved:
            p.requires_grad = True
        new = kind(moved, lr=9.0)
        new.load_state_dict(state)
        for p in moved:
            arrays = [v for v in new.state[p].values() if not isinstance(v, int)]
            assert all(device_of(a) == p.device for a in arrays)
        train(new, moved, seed=20)
        ends.append([on_cpu(p.data) for p in moved])
    for end in ends[1:]:
        assert all(same(a, b) for a, b in zip(end, ends[0]))


def test_parameters_of_two_devices_are_updated_together():
    ours = [parameters(device)[k] for k, device in enumerate(("cuda:0", "cpu", "cuda:0"))]
    theirs = parameters("cpu")
    by_numba = parameters("cpu")
    for params in (ours, theirs):
        train(SGD(params, lr=0.1, momentum=0.9), params)
    optimizer = SGD(by_numba, lr=0.1, momentum=0.9)
    for step in range(3):
        for p, value in zip(by_numba, values(10 + step)):
            p.grad = mr.Tensor(value)
        optimizer.step()
    assert [str(p.device) for p in ours] == ["cuda:0", "cpu", "cuda:0"]
    expected = theirs[0], by_numba[1], theirs[2]  # each by the kernels of its device
    assert all(same(p.data, q.data) for p, q in zip(ours, expected))


def test_gradients_are_zeroed_on_their_devices():
    params = parameters("cuda:0")[:2] + parameters(device(1))[2:]
    for p in params:
        p.grad = mr.Tensor(move(np.ones(p.shape, "f4"), p.device))
    arrays = [p.grad.data for p in params]
    SGD(params, lr=0.1).zero_grad(set_to_none=False)
    for p, array in zip(params, arrays):
        assert p.grad.data is array
        assert not on_cpu(array).any()
        assert p.grad.device == p.device


def test_an_optimizer_of_ones_own():
    class Signs(mr.optim.Optimizer):
        def __init__(self, params):
            super().__init__(params, {"lr": 0.1})

        def _check_options(self, group):
            pass

        def _update(self, data, grad, state, group):
            state["last"], state["note"] = np.sign(grad), ["kept"]
            data -= group["lr"] * state["last"]

    params = parameters("cuda:0")
    optimizer = Signs(params)
    train(optimizer, params, steps=1)
    state = optimizer.state_dict()
    assert state["state"][0]["last"] is not optimizer.state[params[0]]["last"]
    optimizer.load_state_dict(state)
    assert device_of(optimizer.state[params[0]]["last"]) == params[0].device
    assert optimizer.state[params[0]]["note"] == ["kept"]
    state["state"][0]["last"] = move(np.ones(4, "f4"), "cuda:0")
    with pytest.raises(ShapeError, match=r"last of shape \(3,\), got \(4,\)"):
        optimizer.load_state_dict(state)


def test_a_kernel_that_is_missing_is_named():
    params = parameters("cuda:0")
    optimizer = SGD(params, lr=0.1)
    with cuda_kernels("update", None), pytest.raises(KernelMissing, match="update: expected a ker"):
        train(optimizer, params, steps=1)


@pytest.mark.parametrize("kind", [SGD, Adam])
def test_a_network_that_moved_is_named(kind):
    options = {"momentum": 0.9} if kind is SGD else {}
    params = parameters("cpu")
    optimizer = kind(params, lr=0.1, **options)
    train(optimizer, params)
    before = [p.data.copy() for p in params]
    for p in params[1:]:
        p.data, p.grad = move(p.data, "cuda:0"), None
    name = "momentum_buffer" if kind is SGD else "exp_avg"
    words = rf"{kind.__name__}.step: expected {name} on cuda:0, got cpu \(parameter 1 of shape \(4"
    with pytest.raises(DeviceError, match=words + ".*before its optimizer is built"):
        train(optimizer, params)
    for p, value in zip(params, before):
        assert np.array_equal(on_cpu(p.data), value)


def test_a_gradient_of_another_device_is_named():
    params = parameters("cuda:0")
    optimizer = SGD(params, lr=0.1)
    params[2].grad = mr.ones(*SHAPES[2])
    with pytest.raises(DeviceError, match=r"a gradient on cuda:0, got cpu \(parameter 2 of"):
        optimizer.step()


def test_arrays_where_tensors_are_expected():
    array = move(np.ones(3, "f4"), "cuda:0")
    for make in (SGD, lambda a: SGD([a]), lambda a: SGD({"params": a})):
        with pytest.raises(ArgumentError, match="expected"):
            make(array)
    with pytest.raises(ArgumentError, match="expected a module or"):
        no_decay_groups(array, 0.1)


def test_options_and_measured_values_in_arrays():
    params = parameters("cuda:0")
    optimizer = Adam(params, lr=0.1)
    train(optimizer, params)
    state = optimizer.state_dict()
    state["param_groups"][0]["lr"] = move(np.array(0.5), "cuda:0")
    state["state"][0]["step"] = move(np.array([7]), "cuda:0")
    optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert optimizer.state[params[0]]["step"] == 7
    schedule = ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
    for loss in (1.0, 2.0):
        schedule.step(mr.Tensor(move(np.array(loss), "cuda:0")))
    assert optimizer.param_groups[0]["lr"] == 0.25


def test_a_state_of_another_dtype_is_refused():
    params = parameters("cuda:0")
    optimizer = SGD(params, lr=0.1, momentum=0.9)
    train(optimizer, params)
    state = optimizer.state_dict()
    state["state"][0]["momentum_buffer"] = move(np.ones(3), "cuda:0")
    with pytest.raises(DTypeError, match="momentum_buffer of dtype float32, got float64"):
        optimizer.load_state_dict(state)
