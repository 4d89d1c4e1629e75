"""Code written for PyTorch, with only its import changed: the names that scripts use."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

import minires as torch
import minires.nn as nn
import minires.nn.functional as F
import minires.optim as optim
from minires import Tensor
from minires.errors import ArgumentError, DeviceError, ShapeError
from minires.optim.lr_scheduler import StepLR
from minires.utils.data import DataLoader, TensorDataset, random_split

NO_GPU = not torch.cuda.is_available()


def test_dtypes_have_both_of_their_names():
    pairs = {"float": "float32", "double": "float64", "long": "int64", "int": "int32"}
    for short, long in pairs.items():
        assert getattr(torch, short) is getattr(torch, long)
        assert getattr(torch, short) == np.dtype(long)
    assert torch.ones(2, dtype=torch.bool).dtype == np.bool_
    assert torch.tensor([1, 0], dtype=torch.uint8).dtype == np.uint8
    for dtype in (torch.int8, torch.int16):
        assert torch.zeros(1, dtype=dtype).dtype == dtype


def test_devices():
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    x = torch.zeros(2, device=device).to(device)
    assert isinstance(x.device, torch.device)
    assert x.device == device
    assert torch.device("cuda", 1) == torch.device("cuda:1")
    assert str(torch.device("cuda:1")) == "cuda:1"
    assert (torch.device("cuda:1").type, torch.device("cuda:1").index) == ("cuda", 1)
    assert x.is_cuda == (device.type == "cuda")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("gpu",), "unknown device 'gpu'"),
        (("cuda", -1), "unknown device 'cuda:-1'"),
        (("cuda:1", 1), "unknown device 'cuda:1:1'"),
        (("cuda", 1.5), r"unknown device 'cuda:1\.5'"),
        (("cpu", 1), "there is one cpu, got 'cpu:1'"),
    ],
)
def test_devices_that_do_not_exist(arguments, words):
    with pytest.raises(ArgumentError, match=words):
        torch.device(*arguments)


@pytest.mark.skipif(not NO_GPU, reason="there is a GPU")
def test_without_a_gpu():
    assert torch.cuda.device_count() == 0
    torch.cuda.empty_cache()
    torch.cuda.manual_seed_all(3)
    first = torch.rand(2).tolist()
    torch.manual_seed(3)
    assert torch.rand(2).tolist() == first
    net, x = nn.Linear(2, 1), torch.ones(1, 2)
    for call in (
        net.cuda,
        lambda: net.to("cuda"),
        lambda: x.cuda(non_blocking=True),
        lambda: x.to(torch.device("cuda", 0)),
        torch.cuda.synchronize,
        torch.cuda.get_device_name,
    ):
        with pytest.raises(DeviceError, match=r"(?s)CuPy.*(minires\[cuda13\]|nvidia-smi)"):
            call()
    assert net.cpu() is net
    assert net.to(torch.device("cpu")) is net


def test_conversions():
    x = torch.ones(2, 3)
    assert x.to("cpu", non_blocking=True) is x
    assert x.to(torch.float64).dtype == torch.float64
    assert x.to("cpu", torch.float64).dtype == torch.float64
    assert x.to(device="cpu", dtype=torch.long).dtype == torch.int64
    assert x.to(torch.zeros(1, dtype=torch.float64)).dtype == torch.float64
    assert x.long().type_as(x).dtype == x.dtype
    assert x.type(torch.int64).dtype == torch.int64
    assert x.double().float().int().bool().dtype == np.bool_
    with pytest.raises(ArgumentError, match="to: expected a device or a dtype, got none"):
        x.to()


def test_tensor_methods():
    x = torch.arange(24.0).view(2, 3, 4)
    assert (x.size(), x.size(0), x.size(-1), x.dim(), x.ndimension()) == ((2, 3, 4), 2, 4, 3, 3)
    assert x.numel() == x.nelement() == 24
    assert x.permute(2, 0, 1).contiguous().view(4, -1).shape == (4, 6)
    assert x.mean([1, 2]).shape == (2,)
    assert torch.flatten(x, 1).shape == x.flatten(1).shape == (2, 12)
    assert x.view_as(torch.zeros(6, 4)).shape == x.reshape_as(torch.zeros(6, 4)).shape == (6, 4)
    assert torch.ones(3, 1).expand_as(x[0]).shape == (3, 4)
    assert x[0].t().shape == (4, 3)
    assert x[0, 0].t().shape == (4,)
    assert x.square()[0, 0].tolist() == [0, 1, 4, 9]
    assert x.detach().clone().eq(x).all()
    assert torch.stack([x, x]).shape == torch.cat([x[None], x[None]]).shape == (2, 2, 3, 4)
    values, indices = torch.max(x, 1)
    assert (values.shape, indices.dtype) == ((2, 4), torch.int64)
    assert x.max(1).values.eq(x.amax(1)).all()
    assert torch.argmax(x, dim=2).tolist() == [[3] * 3] * 2
    assert torch.norm(x, dim=(1, 2)).shape == (2,)
    assert torch.linspace(0, 1, 5).tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert torch.randint(3, (50,)).max().item() == 2
    with pytest.raises(
        ShapeError, match=r"t: expected at most 2 dimensions, got shape \(2, 3, 4\)"
    ):
        x.t()


def test_reductions_take_the_data_of_a_tensor():
    scores = torch.tensor([[0.1, 0.9], [0.8, 0.2]])
    _, predicted = torch.max(scores.data, 1)
    assert (predicted == torch.tensor([1, 1])).sum().item() == 1
    assert torch.mean(scores.data, 0).shape == (2,)


def test_accuracy_at_k():
    """The measure of ImageNet training scripts, as they write it."""
    scores = torch.tensor([[0.1, 0.5, 0.4, 0.0], [0.4, 0.3, 0.2, 0.1], [0.0, 0.1, 0.2, 0.7]])
    labels = torch.tensor([2, 0, 0])
    found = {}
    with torch.no_grad():
        _, best = scores.topk(3, 1, True, True)
        correct = best.t().eq(labels.view(1, -1).expand_as(best.t()))
        for k in (1, 2, 3):
            hits = correct[:k].reshape(-1).float().sum(0, keepdim=True)
            found[k] = hits.mul_(100.0 / labels.size(0)).item()
    assert found == {
        k: pytest.approx(v, rel=1e-6) for k, v in {1: 100 / 3, 2: 200 / 3, 3: 200 / 3}.items()
    }


def test_grad_modes():
    @torch.no_grad()
    def evaluate(net: nn.Module, x: Tensor) -> Tensor:
        return net(x)

    net = nn.Linear(2, 1)
    assert not evaluate(net, torch.ones(1, 2)).requires_grad
    with torch.set_grad_enabled(False):
        assert not net(torch.ones(1, 2)).requires_grad
    with torch.inference_mode():
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()


def test_generators():
    one, other = (torch.Generator().manual_seed(4) for _ in range(2))
    for draw in (torch.rand, torch.randn):
        assert draw(3, generator=one).tolist() == draw(3, generator=other).tolist()
    assert isinstance(torch.manual_seed(4), torch.Generator)
    with pytest.raises(ArgumentError, match="manual_seed: expected an integer seed >= 0, got -1"):
        torch.Generator().manual_seed(-1)


class Net(nn.Module):
    """A residual network in small, in the manner of torchvision's."""

    def __init__(self, norm_layer: Callable[..., nn.Module] | None = None) -> None:
        super().__init__()
        norm = nn.BatchNorm2d if norm_layer is None else norm_layer
        self.conv1 = nn.Conv2d(1, 4, kernel_size=3, padding=1, bias=False)
        self.bn1 = norm(4)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = nn.Sequential(nn.Conv2d(4, 8, 1, stride=2, bias=False), norm(8))
        self.conv2 = nn.Conv2d(4, 8, 3, stride=2, padding=1, bias=False)
        self.bn2 = norm(8)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(8, 10)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(m, (nn.BatchNorm2d, nn.GroupNorm)):
                nn.init.constant_(m.weight, 1)
                nn.init.constant_(m.bias, 0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        identity = self.downsample(x)
        out = self.bn2(self.conv2(x))
        out += identity
        out = F.relu(out, inplace=True)
        out = torch.flatten(self.avgpool(out), 1)
        return self.fc(F.dropout(out, 0.1, self.training))


@pytest.mark.parametrize("norm_layer", [None, partial(nn.GroupNorm, 2)])
def test_a_training_script(norm_layer):
    torch.manual_seed(0)
    device = torch.device("cpu")
    images = torch.randn(48, 1, 8, 8)
    labels = (images.mean([1, 2, 3]) > 0).long()
    images += labels.float().view(-1, 1, 1, 1)
    train, test = random_split(TensorDataset(images, labels), [32, 16])
    loader = DataLoader(train, batch_size=8, shuffle=True, num_workers=2, pin_memory=True)
    net = Net(norm_layer).to(device)
    criterion = nn.CrossEntropyLoss().to(device)
    optimizer = optim.AdamW(net.parameters(), lr=0.02)
    scheduler = StepLR(optimizer, step_size=4, gamma=0.5)
    losses = []
    for _ in range(6):
        net.train()
        for x, y in loader:
            x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
            loss = criterion(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        scheduler.step()
    assert np.mean(losses[-4:]) < 0.5 * np.mean(losses[:4])
    net.eval()
    with torch.no_grad():
        correct = sum(
            (net(x).argmax(dim=1) == y).sum().item() for x, y in DataLoader(test, batch_size=16)
        )
    assert correct >= 12


def test_every_name_comes_by_import_and_by_attribute():
    code = (
        "import minires as torch\n"
        "assert torch.nn.functional.relu and torch.optim.lr_scheduler.StepLR\n"
        "assert torch.utils.data.DataLoader is torch.data.DataLoader\n"
        "from minires import nn, optim, Tensor\n"
        "from minires.nn import functional as F, init\n"
        "import minires.device\n"
        "print(torch.device('cpu'), isinstance(torch.device, type))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "cpu True", done.stderr


def test_no_grad_decorates_with_and_without_parentheses():
    x = torch.ones(2, requires_grad=True)

    @torch.no_grad
    def bare(y):
        return y * 2

    @torch.no_grad()
    def called(y):
        return y * 2

    @torch.no_grad
    def outer(y):
        return inner(y)

    @torch.enable_grad
    def inner(y):
        return y * 2

    assert not bare(x).requires_grad
    assert not called(x).requires_grad
    assert outer(x).requires_grad


@pytest.mark.parametrize("make", [torch.zeros, torch.ones, torch.empty, torch.rand, torch.randn])
def test_a_size_by_name(make):
    assert make(size=(2, 1, 3)).shape == (2, 1, 3)
    with pytest.raises(ArgumentError, match="expected sizes by position or size=, got both"):
        make(2, size=(3,))
