"""Several GPUs: work on arrays of one is done there, whichever is CuPy's current one.

The stand-in refuses what CuPy refuses: work on arrays of another GPU than the current one. New
arrays are on the current one.
"""

from __future__ import annotations

import copy
import functools
import threading

import numpy as np
import pytest
from cuda_stand_in import cuda_backend
from cupy_stand_in import cuda as cupy_cuda
from small_net import batches, network, on_cpu

import minires as mr
from minires import nn, optim, selfcheck
from minires.device import CPU, Device, available, beside, device_of
from minires.errors import ArgumentError, DeviceError
from minires.memory import allocate, workspace
from minires.nn import functional as F

FIRST, SECOND = Device("cuda", 0), Device("cuda", 1)
OPTIMIZERS = [
    functools.partial(optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01),
    functools.partial(optim.Adam, lr=0.01),
]


@pytest.fixture(autouse=True)
def gpus():
    """Two GPUs, of which the first one is CuPy's current one before and after."""
    with cuda_backend() as backend:
        assert available() == [CPU, FIRST, SECOND]
        yield backend
        assert cupy_cuda.get_device_id() == 0


def run(device, make_optimizer, captured):
    """The losses of a few steps, then all that the network and the optimiser hold, the answers of
    the evaluation and their places."""
    net = network(device)
    optimizer = make_optimizer(net.parameters())

    def step(x, labels):
        optimizer.zero_grad(set_to_none=False)
        loss = F.cross_entropy(net(x), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        return loss

    call = mr.capture(step, net, optimizer) if captured else step
    found = [call(*batch) for batch in batches(5, device)]
    net.eval()
    with mr.no_grad():
        (batch,) = batches(1, device)
        answers = net(batch[0])
        found += [answers, answers.argmax(1), answers.topk(2).values, answers.softmax(1)]
    found += [*net.parameters(), *net.buffers(), *[p.grad for p in net.parameters()]]
    found += [mr.Tensor(a) for kept in optimizer.state_dict()["state"].values() for a in _of(kept)]
    assert {t.device for t in found} == {Device.parse(device)}
    return [*map(on_cpu, found)]


def _of(kept):
    return [value for value in kept.values() if hasattr(value, "dtype")]


@pytest.mark.parametrize("fusion", [True, False])
@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize("number", range(len(OPTIMIZERS)))
def test_training_on_the_second_gpu_is_that_on_the_first(number, captured, fusion):
    found = []
    for device in ("cuda:0", "cuda:1"):
        if fusion:
            found.append(run(device, OPTIMIZERS[number], captured))
        else:
            with mr.no_fusion():
                found.append(run(device, OPTIMIZERS[number], captured))
    for a, b in zip(*found, strict=True):
        assert np.array_equal(a, b)


def test_whichever_is_current_when_it_is_looked_at():
    """A graph that was recorded while one GPU was current is replayed while another one is."""
    net = network("cuda:1").eval()
    call = mr.capture(net)
    with mr.no_grad():
        for k, (x, _) in enumerate(batches(6, "cuda:1")):
            with cupy_cuda.Device(k % 2):
                found, expected = call(x), net(x)
                assert cupy_cuda.get_device_id() == k % 2
            assert np.array_equal(on_cpu(found), on_cpu(expected))
    assert repr(call).endswith("recordings=1)")


OPERATIONS = [
    lambda x: x * 2 + x / 3 - 1,
    lambda x: (x > 0.5).any(),
    lambda x: mr.where(x > 0.5, x, 0.0),
    lambda x: x.topk(2, dim=1).values,
    lambda x: x.max(1).values + x.argmin(1).float(),
    lambda x: mr.cat([x, x]),
    lambda x: mr.stack([x, x]),
    lambda x: x.T @ x,
    lambda x: x[x > 0.5],
    lambda x: x[[2, 0], :],
    lambda x: x[mr.tensor([2, 0])],
    lambda x: x.std(),
    lambda x: x.logsumexp(1),
    lambda x: F.gelu(x) + F.softplus(x) + x.tanh(),
    lambda x: F.one_hot(mr.tensor([1, 0, 2], device=x.device), 3).float() @ x,
    lambda x: mr.isnan(x).sum(),
    lambda x: x.sign(),
    lambda x: x.clone(),
    lambda x: x.double().long(),
    lambda x: mr.zeros_like(x) + mr.full_like(x, 2) * x,
    lambda x: mr.randn_like(x),
    lambda x: F.layer_norm(x, (4,)),
    lambda x: F.mse_loss(x, x * 2),
    lambda x: F.cross_entropy(x, mr.tensor([0, 1, 3], device=x.device), label_smoothing=0.1),
    lambda x: F.cross_entropy(x, x.softmax(1)),
    lambda x: mr.jacobian(lambda y: y * y, x),
    lambda x: (
        x.index_select(0, mr.tensor([1], device=x.device)) if hasattr(x, "index_select") else x
    ),
]


@pytest.mark.parametrize("number", range(len(OPERATIONS)))
def test_an_operation_and_its_derivative(number):
    found = []
    for device in ("cuda:0", "cuda:1"):
        mr.manual_seed(0)
        x = mr.tensor(np.arange(12, dtype="f4").reshape(3, 4) / 8, device=device)
        y = OPERATIONS[number](x.requires_grad_())
        assert y.device == Device.parse(device)
        found.append([on_cpu(y.detach()), str(y)])
        if y.requires_grad:
            (gx,) = mr.grad(y.sum(), x, create_graph=True)
            assert gx.device == y.device
            found[-1].append(on_cpu(gx.detach()))
            if gx.requires_grad:
                gx.sum().backward()
                assert x.grad.device == y.device
                found[-1].append(on_cpu(x.grad))
    assert str(found[0]).replace("cuda:0", "cuda:1") == str(found[1])


def test_writes_in_place():
    x = mr.zeros(3, 4, device="cuda:1")
    x[1] = 2.0
    x[:, 1] = x[:, 0] + 1
    x += 1
    x.mul_(2).clamp_(0, 7)
    x[x > 6] = 0.0
    x[mr.tensor([2])] = mr.ones(4, device=SECOND)
    nn.init.normal_(x[0])
    assert x.device == SECOND
    assert on_cpu(x)[1:].tolist() == [[6, 0, 6, 6], [1, 1, 1, 1]]


def test_new_arrays_are_where_they_are_wanted():
    for like in (SECOND, mr.ones(1, device="cuda:1").data):
        assert device_of(allocate((2,), np.float32, like)) == SECOND
    workspace(5, np.float32, SECOND)
    made = [
        mr.ones(2, device="cuda:1"),
        mr.tensor([1.0], device=SECOND),
        mr.randn(2, device="cuda:1"),
        mr.ones(2).to("cuda:1"),
        mr.ones(2, device="cuda:0").to("cuda:1"),
        mr.ones(2).cuda(1),
    ]
    assert {t.device for t in made} == {SECOND}


def test_what_decides_where_work_is_done():
    x, y = mr.ones(1, device="cuda:0"), mr.ones(1, device="cuda:1")
    for values in ((y,), (1, y, x), (y._array,), ([1, y._array],), (None, (2.0, [y])), (SECOND,)):
        with beside(values):
            assert cupy_cuda.get_device_id() == 1
    for values in ((), (np.ones(1), 3), (mr.ones(1), CPU), ([],)):
        with cupy_cuda.Device(1), beside(values):
            assert cupy_cuda.get_device_id() == 1, "no reason to change it"


def test_tensors_of_two_gpus_do_not_mix():
    x, y = mr.ones(2, device="cuda:0"), mr.ones(2, device="cuda:1")
    text = r"add: expected tensors on one device, got cuda:0 and cuda:1\. Move one, as in x\.to"
    with pytest.raises(DeviceError, match=text):
        x + y
    assert on_cpu(x + y.to("cuda:0")).tolist() == [2, 2]
    (x.to("cuda:1").requires_grad_() * y).sum().backward()


def test_a_gradient_goes_back_to_the_gpu_it_came_from():
    x = mr.ones(2, device="cuda:0", requires_grad=True)
    y = (x * 3).to("cuda:1") * 2
    y.sum().backward()
    assert x.grad.device == FIRST
    assert on_cpu(x.grad).tolist() == [6, 6]


@pytest.mark.slow
def test_every_operation_of_the_catalogue():
    """Forward, backward, and backward again."""
    cases = [case for case in selfcheck.runner.select(()) if not case.name.startswith("Dropout")]
    assert len(cases) > 150
    for case in cases:
        leaves = list(case.tensors(0, SECOND).values())
        subject, count = case.subject(0, SECOND), len(leaves)
        if isinstance(subject, nn.Module):
            leaves += list(subject.parameters())
        leaves, given = [leaf for leaf in leaves if leaf.requires_grad], leaves[:count]
        found = mr.grad(subject(*given).sum(), leaves, create_graph=True, allow_unused=True)
        again = [g.sum() for g in found if g is not None and g.requires_grad]
        found += mr.grad(again, leaves, allow_unused=True) if again else ()
        assert {g.device for g in found if g is not None} <= {SECOND}, str(case)


def test_what_is_done_to_whole_networks():
    net = network("cuda:1").double().float()
    (batch,) = batches(1, "cuda:1")
    F.cross_entropy(net(batch[0]), batch[1]).backward()
    net.double()
    assert {p.grad.dtype for p in net.parameters()} == {np.dtype("f8")}
    net.float()
    copied = copy.deepcopy(net)
    other = network("cuda:1", seed=1)
    other.load_state_dict(net.state_dict())
    nn.utils.clip_grad_value_(net.parameters(), 1e-3)
    nn.summary(net, (1, 3, 8, 8))
    mr.optim.AdamW(net.parameters(), 0.1, amsgrad=True).step()
    for one in (net, copied, other, net.to("cuda:0").to("cuda:1")):
        assert {t.device for t in one.state_dict().values()} == {SECOND}
    assert {t.device for t in net.cpu().state_dict().values()} == {CPU}


def test_derivatives_are_checked_where_the_tensors_are():
    from minires.gradcheck import (
        analytic_jacobian,
        check,
        check2,
        check_adjoint,
        numeric_jacobian,
        taylor,
    )

    x = mr.tensor([[0.3, -0.7], [1.1, 0.4]], device="cuda:1", requires_grad=True)
    w = mr.tensor([[0.5, 2.0], [-1.0, 0.2]], device="cuda:1", requires_grad=True)
    assert check(lambda x, w: (x @ w).tanh(), [x, w]).ok
    assert check2(lambda x, w: (x @ w).tanh(), [x, w]).ok
    assert check_adjoint(lambda x: x @ w.detach().double(), x).ok
    assert taylor(mr.exp, x).ok
    assert np.allclose(analytic_jacobian(mr.exp, x, x), numeric_jacobian(mr.exp, x, x))


def test_an_optimizer_over_both():
    parts = [nn.Linear(2, 2).to("cuda:0"), nn.Linear(2, 2).to("cuda:1")]
    optimizer = optim.SGD([p for part in parts for p in part.parameters()], 0.1, momentum=0.9)
    for part in parts:
        part(mr.ones(1, 2, device=part.weight.device)).sum().backward()
    before = [on_cpu(part.weight) + 0 for part in parts]
    optimizer.step()
    for part, weight in zip(parts, before):
        assert np.allclose(on_cpu(part.weight), weight - 0.1)
    state = optimizer.state_dict()
    assert [state["state"][k]["momentum_buffer"].device.id for k in range(4)] == [0, 0, 1, 1]
    optimizer.load_state_dict(state)


# **** which one is "cuda" ****


def test_the_current_gpu_is_what_cuda_means():
    assert mr.cuda.current_device() == 0
    with mr.cuda.device(1):
        assert mr.cuda.current_device() == 1
        assert mr.ones(1, device="cuda").device == SECOND
        assert mr.ones(1).cuda().device == SECOND
        assert nn.Linear(1, 1).cuda().weight.device == SECOND
        assert mr.ones(1, device="cuda:0").device == FIRST
        assert (Device("cuda"), Device("cuda", 0)) == (SECOND, FIRST)
        mr.cuda.set_device("cuda:0")
        assert Device("cuda") == FIRST
    assert Device("cuda") == FIRST
    mr.cuda.set_device(1)
    try:
        assert Device("cuda") == SECOND
        seen = []
        thread = threading.Thread(target=lambda: seen.append(Device("cuda")))
        thread.start()
        thread.join()
        assert seen == [FIRST], "the choice is this thread's own"
    finally:
        mr.cuda.set_device(0)


def test_gpus_that_are_not_there():
    text = r"device: expected a GPU from cuda:0 to cuda:1, got cuda:2 \(2 GPUs\)\. minires\.cuda"
    acts = [
        lambda: mr.ones(1).to("cuda:2"),
        lambda: mr.zeros(1, device="cuda:2"),
        lambda: mr.cuda.set_device(2),
        lambda: mr.cuda.device("cuda:2"),
        lambda: mr.cuda.get_device_name(2),
        lambda: mr.cuda.memory_summary(2),
        lambda: mr.synchronize("cuda:2"),
    ]
    for act in acts:
        with pytest.raises(DeviceError, match=text):
            act()
    with pytest.raises(ArgumentError, match=r"cuda.synchronize: expected a GPU, got cpu\. As in"):
        mr.cuda.synchronize("cpu")


@pytest.mark.parametrize(("capability", "dotted"), [("75", "7.5"), ("61", "6.1")])
def test_gpus_that_are_too_old(monkeypatch, capability, dotted):
    from minires.device import _check_gpu

    _check_gpu.cache_clear()
    monkeypatch.setattr(cupy_cuda.Device, "compute_capability", capability)
    with pytest.raises(DeviceError) as caught:
        mr.ones(1).to("cuda:1")
    _check_gpu.cache_clear()
    assert str(caught.value) == (
        "device: expected a GPU of compute capability 8.0 (Ampere, 2020) or newer, got "
        f"{dotted} (cuda:1). Stay on 'cpu', or choose another GPU."
    )
