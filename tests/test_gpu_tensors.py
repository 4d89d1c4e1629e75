"""What Python sees of tensors on a GPU: moves, prints, errors, memory."""

from __future__ import annotations

import numpy as np
import pytest
from small_net import batches, block, network, on_cpu

import minires as mr
from minires import nn
from minires.device import CPU, Device, device_of
from minires.errors import DeviceError
from minires.kernels.packed import contiguous
from minires.memory import allocate, workspace
from minires.nn import functional as F

GPU = Device("cuda", 0)


def test_a_module_moves_with_its_gradients_and_its_state(on_gpu):
    net = network("cpu")
    (batch,) = batches(1, "cpu")
    with mr.backend("numpy"):
        F.cross_entropy(net(batch[0]), batch[1]).backward()
    before = {name: on_cpu(t) for name, t in net.state_dict().items()}
    gradient = on_cpu(net.fc.weight.grad)
    net.to("cuda")
    assert net.fc.weight.grad.device == GPU
    state = net.state_dict()
    assert {t.device for t in state.values()} == {GPU}
    assert np.array_equal(on_cpu(net.fc.weight.grad), gradient)
    for device in ("cuda", "cpu"):
        other = network(device, seed=1)
        other.load_state_dict(state)
        for name, t in other.state_dict().items():
            assert t.device == Device.parse(device)
            assert np.array_equal(on_cpu(t), before[name])
    other.cuda()
    nn.init.constant_(other.fc.weight, 2)
    nn.init.zeros_(other.fc.bias.data)
    assert set(on_cpu(other.fc.weight).ravel()) == {2}
    assert not on_cpu(other.fc.bias).any()


def test_printing_and_conversion(on_gpu):
    x = mr.tensor([[1.0, 2.5]], device="cuda")
    assert repr(x) == "tensor([[1. , 2.5]], device='cuda:0')"
    assert x.tolist() == [[1, 2.5]]
    assert x.sum().item() == 3.5
    assert float(x[0, 1]) == 2.5
    assert bool((x > 0).all())
    assert len(x) == 1
    assert mr.tensor(x.data).device == CPU
    assert mr.Tensor(x.data).device == GPU
    assert x.cpu().numpy().tolist() == [[1, 2.5]]
    text = r"numpy: expected a tensor on cpu, got cuda:0\. Use \.cpu\(\)\."
    with pytest.raises(DeviceError, match=text):
        x.numpy()
    with pytest.raises(DeviceError, match=text):
        np.asarray(x)


def test_devices_do_not_mix(on_gpu):
    x, y = mr.ones(2, 3, device="cuda"), mr.ones(2, 3)
    text = r"expected tensors on one device, got cuda:0 and cpu\. Move one, as in x\.to"
    for function in (mr.add, mr.mul, mr.maximum, lambda a, b: a @ b.T, lambda a, b: a == b):
        with pytest.raises(DeviceError, match=text):
            function(x, y)
    with pytest.raises(DeviceError, match=r"got cpu and cuda:0\."):
        y + x
    with pytest.raises(DeviceError, match=text):
        x[0] = y[0]
    with pytest.raises(DeviceError, match=text):
        x + np.ones((2, 3), "f4")
    with pytest.raises(DeviceError, match=r"labels on cuda:0, got cpu"):
        mr.cross_entropy(x, mr.tensor([0, 1]))
    conv, bn, images = block()
    with pytest.raises(DeviceError, match="expected tensors on one device"):
        conv(images.cpu())
    with pytest.raises(DeviceError, match="expected tensors on one device"):
        bn(conv(images)) + images.cpu()


def test_the_references_are_on_the_cpu(on_gpu):
    text = (
        'backend("numpy"): expected tensors on cpu, got one on a GPU. '
        'Move the tensors with .to("cpu").'
    )
    conv, _, x = block()
    with mr.backend("numpy"):
        for function in (conv, mr.relu, lambda x: mr.max_pool2d(x, 2)):
            with pytest.raises(DeviceError) as error:
                _ = function(x)._array
            assert str(error.value) == text


def test_memory_is_allocated_where_an_array_is(on_gpu):
    x = mr.ones(3, device="cuda")
    for like in (x.data, GPU):
        assert device_of(allocate((2, 3), np.float32, like)) == GPU
        assert device_of(workspace(5, np.float32, like)) == GPU
    for like in (np.ones(3), CPU):
        assert isinstance(allocate((2, 3), np.float32, like), np.ndarray)


def test_a_capture_sees_which_array_a_variable_is(on_gpu):
    factor = mr.full((3,), 2.0, device="cuda").data
    times = mr.capture(lambda x: x * factor)
    found = []
    for k in range(8):
        if k == 4:
            factor = mr.full((3,), 5.0, device="cuda").data
        found.append(times(mr.full((3,), float(k), device="cuda")).tolist()[0])
    assert found == [0, 2, 4, 6, 20, 25, 30, 35]
    assert repr(times).endswith("recordings=2)")


def test_weights_are_laid_out_where_they_are(on_gpu):
    w = mr.arange(6).float().reshape(2, 3).to("cuda").T
    packed = contiguous(w.data)
    assert device_of(packed) == GPU
    assert packed.flags.c_contiguous
    assert packed.tolist() == w.tolist()
    assert contiguous(packed) is packed


def test_a_summary_from_a_shape(on_gpu):
    net = network("cuda")
    told = str(nn.summary(net, (1, 3, 8, 8)))
    assert told == str(nn.summary(net, mr.zeros(1, 3, 8, 8, device="cuda")))
    assert told == str(nn.summary(network("cpu"), (1, 3, 8, 8)))
