"""A second device: everything on arrays with CuPy's attributes alone, by a backend of their own.

Kernels are the references, so that without fusion results are those of the CPU's references to the
last bit, and with fusion to rounding.
"""

from __future__ import annotations

import contextlib
import functools
import math

import numpy as np
import pytest
from cuda_stand_in import EVERYTHING, cuda_backend
from cupy_stand_in import Array
from gpu import REAL, gpu, other_order
from small_net import batches, block, network, on_cpu

import minires as mr
from minires import nn, optim
from minires.device import Device
from minires.errors import CaptureError, DeviceError, GraphError, NaNError
from minires.fusion.backward import LazyBatchNormGradient, LazyReLUGradient
from minires.fusion.forward import LazyBatchNorm, LazyConv2d
from minires.gradcheck import check
from minires.nn import functional as F

GPU = Device("cuda", 0)
FUSES = {
    "everything": EVERYTHING,
    "forward": {"statistics", "relu", "normalised", "rectified", "residual"},
    "statistics": {"statistics"},
    "backward": {"gradient", "gated", "passed"},
    "nothing": frozenset(),
}


def run(device, make_optimizer, steps=3, captured=False):
    """The losses of a few steps, and what is in the network after them."""
    net = network(device)
    optimizer = make_optimizer(net.parameters())

    def step(x, labels):
        loss = F.cross_entropy(net(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    call = mr.capture(step, net, optimizer) if captured else step
    found = [on_cpu(call(*batch)) for batch in batches(steps, device)]
    tensors = [*net.parameters(), *net.buffers(), *[p.grad for p in net.parameters()]]
    assert all(t.device == Device.parse(device) for t in tensors)
    net.eval()
    with mr.no_grad():
        (batch,) = batches(1, device)
        tensors.append(net(batch[0]))
    return [*found, *map(on_cpu, tensors)]


OPTIMIZERS = [
    functools.partial(optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01),
    functools.partial(optim.Adam, lr=0.01),
    functools.partial(optim.AdamW, lr=0.01, weight_decay=0.1),
]


@functools.cache
def reference(number, steps=3):
    """What the references make of it on the CPU."""
    with mr.backend("numpy"):
        return run("cpu", OPTIMIZERS[number], steps)


def same(found, expected, exactly=False):
    assert len(found) == len(expected)
    for a, b in zip(found, expected):
        if exactly:
            assert np.array_equal(a, b)
        else:
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


# **** training ****


@pytest.mark.parametrize("number", range(len(OPTIMIZERS)))
def test_training_without_fusion_is_that_of_the_references_on_the_cpu(number):
    with cuda_backend(), mr.no_fusion():
        found = run("cuda", OPTIMIZERS[number])
    same(found, reference(number), exactly=True)


@pytest.mark.parametrize("fuses", FUSES)
@pytest.mark.parametrize("number", range(len(OPTIMIZERS)))
def test_training_with_fusion_is_the_same_to_rounding(number, fuses):
    with cuda_backend(FUSES[fuses]) as backend:
        found = run("cuda", OPTIMIZERS[number])
    same(found, reference(number), exactly=fuses == "nothing")
    assert ("relu_fwd" in backend.launches) == (fuses in ("nothing", "backward", "statistics"))
    assert ("relu_bwd_x" in backend.launches) == (fuses != "everything")


@pytest.mark.slow
@pytest.mark.parametrize("fusion", [True, False])
@pytest.mark.parametrize("number", range(len(OPTIMIZERS)))
def test_training_by_the_kernels_of_a_gpu(number, fusion, on_gpu):
    """As the references on the CPU, to rounding; with the same bits in every run."""
    with contextlib.nullcontext() if fusion else mr.no_fusion():
        found = run(on_gpu, OPTIMIZERS[number])
        same(found, reference(number))
        with other_order():
            same(run(on_gpu, OPTIMIZERS[number]), found, exactly=True)


def test_a_captured_step_by_the_kernels_of_a_gpu(on_gpu):
    found = run(on_gpu, OPTIMIZERS[1], 5, captured=True)
    same(found, run(on_gpu, OPTIMIZERS[1], 5), exactly=True)
    same(found, reference(1, 5))


@pytest.mark.parametrize("fuses", FUSES)
@pytest.mark.parametrize("number", range(len(OPTIMIZERS)))
def test_a_captured_step_is_the_step(number, fuses):
    steps = 5
    with cuda_backend(FUSES[fuses]) as backend:
        found = run("cuda", OPTIMIZERS[number], steps, captured=True)
        replayed, launches = backend.replayed, [*backend.launches]
        expected = run("cuda", OPTIMIZERS[number], steps)
    same(found, expected, exactly=True)
    # of four convolutions: two steps as they are, one recorded, the evaluation; and four replays
    assert launches.count("conv2d_fwd") == 4 * 4
    assert replayed >= 4 * 4 * 3


def test_what_is_captured_without_arguments_runs_where_its_state_is():
    with cuda_backend() as backend:
        net = network("cuda")
        (batch,) = batches(1, "cuda")
        net(batch[0])  # statistics to evaluate with
        net.eval()
        net.register_buffer("images", batch[0])
        call = mr.capture(lambda: net(net.images), net)
        with mr.no_grad():
            found = [on_cpu(call()) for _ in range(4)]
            expected = on_cpu(net(net.images))
        assert repr(call).endswith("recordings=1)")
        assert backend.replayed
    same(found, [expected] * 4, exactly=True)


def test_what_is_captured_works_on_one_device(on_gpu):
    net = network("cuda").eval()
    call = mr.capture(lambda x: net(x.to("cuda")), net)
    ((x, _),) = batches(1, "cpu")
    with mr.no_grad():
        call(x)
        with pytest.raises(CaptureError, match="a function on one device, got a kernel on cud"):
            call(x * 2)


def test_gradients_of_a_captured_step_are_shortened_on_the_device():
    with cuda_backend() as backend:
        found = []
        for captured in (False, True):
            net = network("cuda")

            def step(x, labels, net=net):
                net.zero_grad()
                F.cross_entropy(net(x), labels).backward()
                return nn.utils.clip_grad_norm_(net.parameters(), 0.1)

            call = mr.capture(step, net) if captured else step
            lengths = [call(*batch) for batch in batches(5, "cuda")]
            assert all(length.device == GPU for length in lengths)
            found.append([*map(on_cpu, lengths), *[on_cpu(p.grad) for p in net.parameters()]])
        assert backend.replayed
    same(found[1], found[0], exactly=True)
    norm = math.sqrt(sum(float((g.astype("f8") ** 2).sum()) for g in found[0][5:]))
    assert abs(norm - 0.1) < 1e-5


# **** fusion ****


def test_lazy_tensors_know_their_device():
    with cuda_backend() as backend:
        conv, bn, x = block()
        y = conv(x)
        assert isinstance(y._lazy, LazyConv2d)
        z = bn(y)
        assert isinstance(z._lazy, LazyBatchNorm)
        s = (z + x).relu()
        assert isinstance(s._lazy, LazyBatchNorm)
        assert y.device == z.device == s.device == GPU
        assert s.shape == x.shape
        assert s.dtype == x.dtype
        assert isinstance(s._array, Array)
        expected = ["_copy", "conv2d_fwd", "batch_norm_affine", "batch_norm_fwd"]
        assert backend.launches == expected


def test_nothing_is_deferred_that_the_kernels_do_not_take_over():
    with cuda_backend({"normalised", "rectified"}) as backend:
        conv, bn, x = block()
        y = conv(x)
        assert y._lazy is None
        z = bn(y)
        assert isinstance(z._lazy, LazyBatchNorm)
        assert z.relu()._lazy is None  # "relu" is an epilogue
        assert conv(z)._lazy is None
    assert backend.launches.count("batch_norm_fwd") == 1
    assert "batch_norm_statistics" in backend.launches


def test_gradients_are_deferred():
    seen = []
    with cuda_backend() as backend:
        conv, bn, x = block()
        z = bn(conv(x)).relu()
        _ = conv(z)._array
        backend.launches.clear()
        rules = mr.autograd.current().backward_rules
        before = {function: rules[function] for function in rules}

        def told(rule, ctx, *gys):
            seen.extend(type(gy._lazy) for gy in gys)
            return rule(ctx, *gys)

        rules |= {function: functools.partial(told, rule) for function, rule in before.items()}
        try:
            conv(z).sum().backward()
        finally:
            rules |= before
    assert LazyReLUGradient in seen
    assert LazyBatchNormGradient in seen
    assert "relu_bwd_x" not in backend.launches
    assert "batch_norm_bwd_x" not in backend.launches


def test_batch_norm_in_evaluation_goes_into_the_weights():
    with cuda_backend() as backend:
        conv, bn, x = block()
        _ = bn(conv(x))  # statistics
        conv.eval(), bn.eval()
        with mr.no_grad():
            first = on_cpu((bn(conv(x)) + x).relu())
            backend.launches.clear()
            again = on_cpu((bn(conv(x)) + x).relu())
            assert backend.launches == ["conv2d_fwd"]  # packed weights were kept
            conv.weight.mul_(2)
            other = on_cpu((bn(conv(x)) + x).relu())
            assert backend.launches == ["conv2d_fwd", "_copy", "conv2d_fwd"]
            with mr.no_fusion():
                alone = on_cpu((bn(conv(x)) + x).relu())
    assert np.array_equal(again, first)
    assert not np.array_equal(other, first)
    np.testing.assert_allclose(other, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(REAL, reason="there is a GPU")
def test_without_cupy_nothing_runs_on_a_gpu():
    with gpu():
        conv, _, x = block()
    with pytest.raises(DeviceError, match="expected CuPy for 'cuda'"):
        _ = conv(x)._array


# **** automatic differentiation ****


@pytest.mark.parametrize("fusion", [True, False])
def test_second_derivatives(fusion, on_gpu):
    def penalty(device):
        net = network(device)
        (batch,) = batches(1, device)
        x = batch[0].requires_grad_()
        loss = F.cross_entropy(net(x), batch[1])
        (gx,) = mr.grad(loss, x, create_graph=True)
        ((gx * gx).sum() + loss).backward()
        return [on_cpu(t) for t in (loss.detach(), gx.detach(), x.grad)] + [
            on_cpu(p.grad) for p in net.parameters()
        ]

    with mr.backend("numpy"):
        expected = penalty("cpu")
    if fusion:
        found = penalty("cuda")
    else:
        with mr.no_fusion():
            found = penalty("cuda")
    same(found, expected)


def test_gradients_are_checked_by_numbers(on_gpu):
    mr.manual_seed(0)
    conv, bn = nn.Conv2d(2, 2, 3, padding=1).double(), nn.BatchNorm2d(2).double()
    conv.to("cuda"), bn.to("cuda")
    x = mr.randn(2, 2, 3, 3, dtype="float64").to("cuda").requires_grad_()
    report = check(lambda x: bn(conv(x)).relu() + x, x)
    assert report.ok
    assert report.backend == "cuda:0"


def test_writes_in_place_and_views(on_gpu):
    def values(device):
        x = mr.tensor(np.arange(12, dtype="f4").reshape(3, 4), device=device).requires_grad_()
        y = x * 1
        row = y[1]
        row *= 3
        y[:, 1] = y[:, 0] * 2
        y[0].relu_()
        y += 1
        y[[0, 2], [3, 0]] = 7.0
        y[mr.tensor([2])] *= 0.5  # an index on the CPU
        y[np.array([1, 1])] = x[0]  # and an array of NumPy's
        y[y > 9] = 0.25
        y.T.clip_(-1, 8)
        (y * y).sum().backward()
        return [on_cpu(y.detach()), on_cpu(row.detach()), on_cpu(x.grad)]

    with mr.backend("numpy"):
        expected = values("cpu")
    same(values("cuda"), expected, exactly=True)


def test_a_saved_tensor_that_was_written_is_an_error(on_gpu):
    x = mr.ones(3, device="cuda", requires_grad=True)
    y = x * 2
    z = y * y
    y += 1
    with pytest.raises(GraphError, match="changed in place"):
        z.sum().backward()


def test_hooks_and_kept_gradients(on_gpu):
    x = mr.ones(3, device="cuda", requires_grad=True)
    y = x * 2
    y.retain_grad()
    seen = []
    y.register_hook(lambda gradient: seen.append(gradient.device))
    x.register_hook(lambda gradient: gradient * 3)
    (y * y).sum().backward()
    assert seen == [GPU]
    assert on_cpu(y.grad).tolist() == [4, 4, 4]
    assert on_cpu(x.grad).tolist() == [24, 24, 24]
    y = x * 2
    y.register_hook(lambda gradient: gradient.cpu())
    with pytest.raises(DeviceError, match=r"hook: expected a gradient on cuda:0, got cpu"):
        y.sum().backward()


def test_upstream_gradients(on_gpu):
    for upstream in ([1.0, 2.0], np.array([1, 2]), mr.tensor([1.0, 2.0], device="cuda").data):
        x = mr.ones(2, device="cuda", requires_grad=True)
        (x * 2).backward(upstream)
        assert x.grad.device == GPU
        assert on_cpu(x.grad).tolist() == [2, 4]
    with pytest.raises(DeviceError, match=r"backward: expected a gradient on cuda:0, got cpu"):
        (x * 2).backward(mr.ones(2))


def test_the_first_nan_is_found(on_gpu):
    conv, bn, x = block()
    with mr.detect_anomaly():
        conv(x).sum().backward()
        with pytest.raises(NaNError, match="Log made the first NaN"):
            (bn(conv(x)) * 0 - 1).log()
        zero = mr.zeros(2, device="cuda", requires_grad=True)
        with pytest.raises(NaNError, match="first NaN of the backward pass"):
            (zero.sqrt() * 0).sum().backward()
