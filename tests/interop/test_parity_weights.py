"""Weights from PyTorch give PyTorch's numbers, and weights from here give them there.

The networks below are torchvision's by name, shape and arithmetic (v1.5, grouped and wide
bottlenecks), written in PyTorch's own layers, so torchvision itself is not needed.
"""

from __future__ import annotations

import numpy as np
import pytest
from harness import one_thread, undrawn

import minires as mr
from minires import models

torch = pytest.importorskip("torch")
tnn = torch.nn

BATCH, SIZE, CLASSES = 2, 33, 10  # an image of odd sides all the way down: 17, 9, 5, 3, 2


class Block(tnn.Module):
    """Two 3x3 convolutions, or 1x1, 3x3 and 1x1 with the stride in the middle."""

    def __init__(self, c_in, planes, stride, bottleneck, groups, width_per_group):
        super().__init__()
        width = planes * width_per_group // 64 * groups
        c_out = 4 * planes if bottleneck else planes
        if bottleneck:
            shapes = [
                (c_in, width, 1, 1, 1),
                (width, width, 3, stride, groups),
                (width, c_out, 1, 1, 1),
            ]
        else:
            shapes = [(c_in, planes, 3, stride, 1), (planes, planes, 3, 1, 1)]
        self.depth = len(shapes)
        for i, (a, b, k, step, g) in enumerate(shapes, 1):
            conv = tnn.Conv2d(a, b, k, step, padding=k // 2, groups=g, bias=False)
            setattr(self, f"conv{i}", conv)
            setattr(self, f"bn{i}", tnn.BatchNorm2d(b))
        self.downsample = None
        if stride != 1 or c_in != c_out:
            projection = tnn.Conv2d(c_in, c_out, 1, stride, bias=False)
            self.downsample = tnn.Sequential(projection, tnn.BatchNorm2d(c_out))

    def forward(self, x):
        out = x
        for i in range(1, self.depth + 1):
            out = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(out))
            if i < self.depth:
                out = torch.relu(out)
        return torch.relu(out + (x if self.downsample is None else self.downsample(x)))


class TorchResNet(tnn.Module):
    def __init__(self, layers, bottleneck, groups=1, width_per_group=64):
        super().__init__()
        self.conv1 = tnn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = tnn.BatchNorm2d(64)
        self.maxpool = tnn.MaxPool2d(3, 2, 1)
        c_in = 64
        for i, blocks in enumerate(layers):
            stage = []
            for j in range(blocks):
                stride = 2 if i > 0 and j == 0 else 1
                planes = 64 * 2**i
                stage.append(Block(c_in, planes, stride, bottleneck, groups, width_per_group))
                c_in = 4 * planes if bottleneck else planes
            setattr(self, f"layer{i + 1}", tnn.Sequential(*stage))
        self.fc = tnn.Linear(c_in, CLASSES)

    def forward(self, x):
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


NETS = {
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
    "resnet101": ((3, 4, 23, 3), True),
    "resnet152": ((3, 8, 36, 3), True),
    "resnext50_32x4d": ((3, 4, 6, 3), True, 32, 4),
    "wide_resnet50_2": ((3, 4, 6, 3), True, 1, 128),
}


def trained(name, smooth=False):
    """A net as after training: every parameter and statistic has a value of its own.

    ``smooth`` keeps what goes into each ReLU away from 0: a quarter of the channels is off, the
    others are on. There a rounding error changes a sum; at the kink it changes the derivative, and
    PyTorch's own float32 and float64 gradients of these nets differ by percents.
    """
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:  # convolutions are drawn once, below
        patch.setattr(tnn.Conv2d, "reset_parameters", lambda module: None)
        net = TorchResNet(*NETS[name])
    for module in net.modules():
        if isinstance(module, tnn.Conv2d):
            tnn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, tnn.BatchNorm2d):
            tnn.init.uniform_(module.weight, 0.2, 0.4 if smooth else 0.8)
            tnn.init.normal_(module.bias, 0, 0.2)
            tnn.init.normal_(module.running_mean, 0, 0.2)
            tnn.init.uniform_(module.running_var, 0.5, 2)
            module.num_batches_tracked.fill_(3)
            if smooth:
                off = torch.rand(module.num_features) < 0.25
                module.bias.data.copy_(torch.where(off, -3.0, 3.0))
    for module in net.modules():
        if smooth and isinstance(module, Block):  # the sum is on, whatever the shortcut brings
            last = getattr(module, f"bn{module.depth}")
            tnn.init.constant_(last.bias, 2.0)
            if module.downsample is not None:
                tnn.init.constant_(module.downsample[1].bias, 2.0)
    return net


def pair(name, dtype, smooth=False):
    """The same net on both sides, and the same images."""
    theirs = trained(name, smooth).to(getattr(torch, dtype))
    with undrawn():  # all of it is loaded
        ours = models.create(name, num_classes=CLASSES).to(dtype)
    assert ours.load_state_dict(theirs.state_dict()) == ([], [])
    assert list(ours.state_dict()) == list(theirs.state_dict())
    x = np.random.default_rng(0).standard_normal((BATCH, 3, SIZE, SIZE)).astype(dtype)
    return ours, theirs, x


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    with one_thread(mr, torch):
        yield


def gradient_pairs(ours, theirs, y, z):
    """By name the gradients of every parameter, for a loss of the logits y and z."""
    labels = np.array([3, 7])
    mr.cross_entropy(y, mr.tensor(labels)).backward()
    tnn.functional.cross_entropy(z, torch.tensor(labels)).backward()
    pairs = {}
    for (name, p), (their_name, q) in zip(ours.named_parameters(), theirs.named_parameters()):
        assert name == their_name
        pairs[name] = p.grad.numpy(), q.grad.numpy()
    return pairs


def far(ours, theirs):
    """The largest difference, relative to the largest entry."""
    ours, theirs = ours.detach().numpy(), theirs.detach().numpy()
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


# Time goes into gradients and depth: in float64 all, without the gradients of the deepest, and in
# float32 one of each kind and the deepest, where rounding errors have the longest way.
@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_float64_logits_statistics_and_gradients_agree(name):
    gradients = name not in ("resnet101", "resnet152")
    ours, theirs, x = pair(name, "float64")
    with mr.no_grad(), torch.no_grad():
        assert far(ours.eval()(mr.tensor(x)), theirs.eval()(torch.tensor(x))) < 1e-10
    with mr.set_grad_enabled(gradients), torch.set_grad_enabled(gradients):
        y, z = ours.train()(mr.tensor(x)), theirs.train()(torch.tensor(x))
        assert far(y, z) < 1e-10
    state = theirs.state_dict()
    for key, value in ours.state_dict().items():
        assert far(value, state[key]) < 1e-10, key
    assert ours.bn1.num_batches_tracked.item() == 4
    for key, (g, h) in gradient_pairs(ours, theirs, y, z).items() if gradients else ():
        assert np.abs(g - h).max() < 1e-10 * np.abs(h).max(), key


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "resnet152", "resnext50_32x4d", "wide_resnet50_2"])
def test_float32_logits_and_gradients_agree(name):
    gradients = name != "wide_resnet50_2"
    ours, theirs, x = pair(name, "float32", smooth=True)
    with mr.no_grad(), torch.no_grad():
        assert far(ours.eval()(mr.tensor(x)), theirs.eval()(torch.tensor(x))) < 1e-4
    with mr.set_grad_enabled(gradients), torch.set_grad_enabled(gradients):
        y, z = ours.train()(mr.tensor(x)), theirs.train()(torch.tensor(x))
    assert y.dtype == np.float32
    assert far(y, z) < 1e-4
    if gradients:
        # as one vector: without kinks the gradient of a bias in front of a batch norm is near zero
        pairs = gradient_pairs(ours, theirs, y, z).values()
        error = sum(float(np.square(g - h, dtype=float).sum()) for g, h in pairs)
        assert error < 1e-8 * sum(float(np.square(h, dtype=float).sum()) for _, h in pairs)


@pytest.fixture
def resnet(tmp_path):
    """A net on each side with the same weights, images, and the folder for a file between them."""
    return *pair("resnet18", "float32"), tmp_path


@pytest.mark.slow
def test_pytorch_checkpoints_are_read(resnet):
    _, theirs, x, folder = resnet
    fresh = models.resnet18(num_classes=CLASSES)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [30, 60])
    theirs(torch.tensor(x)).sum().backward()
    optimizer.step()
    torch.save(
        {
            "epoch": 3,
            "model": tnn.DataParallel(theirs).state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "parameter": next(theirs.parameters()),
        },
        folder / "best.pth.tar",
    )
    read = mr.load(folder / "best.pth.tar")
    assert read["epoch"] == 3
    assert read["schedule"]["milestones"] == {30: 1, 60: 1}
    buffers = read["optimizer"]["state"]
    last = optimizer.state_dict()["state"][len(buffers) - 1]["momentum_buffer"]
    np.testing.assert_array_equal(buffers[len(buffers) - 1]["momentum_buffer"].numpy(), last)
    assert read["parameter"].shape == (64, 3, 7, 7)
    with pytest.raises(mr.errors.CheckpointError, match=r'strip_prefix\(state, "module\."\)'):
        fresh.load_state_dict(read["model"])
    fresh.load_state_dict(mr.interop.strip_prefix(read["model"], "module."))
    with mr.no_grad(), torch.no_grad():
        assert far(fresh.eval()(mr.tensor(x)), theirs.eval()(torch.tensor(x))) < 1e-4


@pytest.mark.slow
def test_saved_here_loads_in_pytorch(resnet):
    ours, _, x, folder = resnet
    safetensors_torch = pytest.importorskip("safetensors.torch")
    fresh = TorchResNet(*NETS["resnet18"])
    with mr.no_grad():
        ours.fc.weight.mul_(-1)
        logits = ours.eval()(mr.tensor(x))
    mr.save(ours, folder / "x.safetensors", metadata={"model": "resnet18"})
    fresh.load_state_dict(safetensors_torch.load_file(folder / "x.safetensors"))
    with torch.no_grad():
        assert far(logits, fresh.eval()(torch.tensor(x))) < 1e-4
    safetensors_torch.save_file(fresh.state_dict(), folder / "back.safetensors")
    again = models.resnet18(num_classes=CLASSES)
    again.load_state_dict(mr.load(folder / "back.safetensors"))
    with mr.no_grad():
        np.testing.assert_array_equal(again.eval()(mr.tensor(x)).numpy(), logits.numpy())


def test_tensors_of_pytorch_are_values_of_a_state_dict():
    layer, theirs = mr.nn.Linear(3, 2), tnn.Linear(3, 2)
    layer.load_state_dict(dict(theirs.named_parameters()))  # which require grad
    np.testing.assert_array_equal(layer.weight.detach().numpy(), theirs.weight.detach())
    layer.load_state_dict(
        {"weight": theirs.weight.detach().double().T.contiguous().T, "bias": [1, 2.0]}
    )
    np.testing.assert_array_equal(layer.weight.detach().numpy(), theirs.weight.detach())
    with pytest.raises(mr.errors.DTypeError, match=r"got torch\.bfloat16 under 'weight'\. Convert"):
        layer.load_state_dict(theirs.bfloat16().state_dict())


def test_every_dtype_and_layout_that_pytorch_saves(tmp_path):
    base = torch.arange(24.0).reshape(2, 3, 4)
    tensors = {
        "turned": base.permute(2, 0, 1),
        "part": base[:, 1:, ::2],
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "expanded": torch.ones(3, 1).expand(3, 4),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "empty": torch.empty(0, 3),
    }
    ints = ("int64", "int32", "int16", "int8", "uint8", "uint16", "uint32")
    for name in (*ints, "float64", "bool", "complex64"):
        tensors[name] = torch.tensor([0, 1, 1]).to(getattr(torch, name))
    torch.save(tensors, tmp_path / "x.pt")
    read = mr.load(tmp_path / "x.pt")
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.numpy().dtype, name
        np.testing.assert_array_equal(read[name].numpy(), tensor.numpy())
    torch.save({"a": base.half(), "b": base.bfloat16()}, tmp_path / "x.pt")
    with pytest.warns(UserWarning, match="bfloat16 and float16"):
        halves = mr.load(tmp_path / "x.pt")
    for tensor in halves.values():
        np.testing.assert_array_equal(tensor.numpy(), base.numpy())
    torch.save(base.to_sparse(), tmp_path / "x.pt")
    with pytest.raises(mr.errors.CheckpointError, match=r"got torch\._utils\._rebuild_sparse_tens"):
        mr.load(tmp_path / "x.pt")


def test_what_else_pytorch_writes_is_told_apart(tmp_path):
    layer, path = tnn.Linear(1, 1), tmp_path / "x.pt"

    def refused(words):
        with pytest.raises(mr.errors.CheckpointError, match=words):
            mr.load(path)

    torch.save(layer, path)
    refused(r"got torch\.nn\.modules\.linear\.Linear; nothing of it was run.*model\.state_dict")
    torch.save(layer.state_dict(), path, _use_new_zipfile_serialization=False)
    refused(r"the format from before PyTorch 1\.6")
    torch.save(torch.load(path), path)  # the way out that the message names
    assert mr.load(path)["bias"].shape == (1,)
