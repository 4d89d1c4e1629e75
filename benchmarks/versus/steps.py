"""Training and inference steps of the same net in minires and in PyTorch.

Both start from the same weights and see the same batch. A training step is ``zero_grad``, forward,
cross entropy, backward and SGD with momentum 0.9 and weight decay 1e-4; an inference step is a
forward pass in evaluation mode without a graph. Each library gets the batch in the memory order
that suits it.
"""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import torch
from harness import Disagreement

import minires as mr
from minires import models, optim
from minires.device import CPU, move
from minires.errors import message
from minires.nn import functional as F
from versus.nets import library

RECIPE = {"momentum": 0.9, "weight_decay": 1e-4}
LAYOUTS = {"NCHW": torch.contiguous_format, "channels last": torch.channels_last}
CHECKED_STEPS = 4  # later ones see what the first left behind, and run from a recording

# How far float32 may be from PyTorch in float64. Of a deep ReLU net the gradients of one batch may
# be some percent off in either library, because near 0 a rounding error decides whether a ReLU is
# open; what is wrong is wrong by far more, or in the median too.
# Where these are exceeded, PyTorch's own float32 is the measure.
OF_ITS_OWN = 3


@dataclass(frozen=True)
class Net:
    """A net, and the batches it is measured with.

    Attributes:
        name: of its constructor in both libraries.
        arguments: of the constructor.
        image: shape of one image, (c, h, w).
        batch: images in a training step.
        checked: images in the steps that are compared with float64.
    """

    name: str
    arguments: dict[str, Any]
    image: tuple[int, int, int]
    batch: int
    checked: int

    @property
    def classes(self) -> int:
        return int(self.arguments.get("num_classes", 10))

    def torch(self) -> torch.nn.Module:
        torch.manual_seed(0)
        net: torch.nn.Module = getattr(library("torch"), self.name)(**self.arguments)
        for module in net.modules():  # PyTorch's own start is too small for deep ReLU nets
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        return net

    def minires(self, weights: dict[str, Any], style: str = "own") -> Any:
        source = library("minires") if style == "torchvision" else models
        net = getattr(source, self.name)(**self.arguments)
        net.load_state_dict({name: value.numpy() for name, value in weights.items()})
        return net

    def images(self, batch: int) -> tuple[Any, Any]:
        rng = np.random.default_rng(0)
        x = rng.standard_normal((batch, *self.image), dtype=np.float32)
        return x, rng.integers(0, self.classes, batch)


NETS = {
    "resnet20": Net("cifar_resnet", {"depth": 20}, (3, 32, 32), batch=128, checked=128),
    "resnet56": Net("cifar_resnet", {"depth": 56}, (3, 32, 32), batch=128, checked=32),
    "resnet110": Net("cifar_resnet", {"depth": 110}, (3, 32, 32), batch=128, checked=16),
    "resnet18-96": Net(
        "resnet18", {"in_channels": 1, "num_classes": 10}, (1, 96, 96), batch=64, checked=16
    ),
    "resnet18-224": Net("resnet18", {}, (3, 224, 224), batch=16, checked=4),
    "resnet50": Net("resnet50", {}, (3, 224, 224), batch=8, checked=2),
}


class Torch:
    """Steps of the net in PyTorch, in one dtype and one memory order, on one device."""

    def __init__(
        self,
        net: torch.nn.Module,
        x: Any,
        labels: Any,
        layout: str,
        dtype: Any = torch.float32,
        device: str = "cpu",
    ) -> None:
        order: Any = LAYOUTS[layout]
        self.net = copy.deepcopy(net).to(device, dtype=dtype, memory_format=order)
        self.x = torch.from_numpy(x).to(device, dtype=dtype, memory_format=order)
        self.labels = torch.from_numpy(labels).to(device)
        self.optimizer = torch.optim.SGD(self.net.parameters(), 1e-3, **RECIPE)

    def train(self) -> Any:
        self.optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(self.net(self.x), self.labels)
        loss.backward()
        self.optimizer.step()
        return loss

    def infer(self) -> Any:
        with torch.inference_mode():
            return self.net(self.x)

    def gradients(self) -> dict[str, Any]:
        named = self.net.named_parameters()
        found = {name: p.grad for name, p in named if p.grad is not None}
        return {name: grad.cpu().double().numpy().copy() for name, grad in found.items()}


class Minires:
    """Steps of the net in minires, as a user would write them; in the style "captured", by
    :func:`minires.capture`."""

    def __init__(
        self, net: Any, x: Any, labels: Any, style: str = "own", device: str = "cpu"
    ) -> None:
        self.net = self._answer = net.to(device)
        rows = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
        # channels last, as activations are
        self.x = mr.from_numpy(rows.transpose(0, 3, 1, 2)).to(device)
        self.labels = mr.from_numpy(labels).to(device)
        self.optimizer = optim.SGD(net.parameters(), 1e-3, **RECIPE)
        self._step: Any = self._learn
        if style == "captured":
            self._step = mr.capture(self._learn, net, self.optimizer)
            self._answer = mr.capture(net)

    def _learn(self, x: Any, labels: Any) -> Any:
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.net(x), labels)
        loss.backward()
        self.optimizer.step()
        return loss

    def train(self) -> Any:
        return self._step(self.x, self.labels)

    def infer(self) -> Any:
        with mr.no_grad():
            return self._answer(self.x).data

    def gradients(self) -> dict[str, Any]:
        named = self.net.named_parameters()
        return {name: p.grad.cpu().numpy().astype(np.float64) for name, p in named}


@dataclass(frozen=True)
class Errors:
    """How far a side is from PyTorch in float64: the loss, and the gradients by parameter."""

    loss: float
    median: float
    most: float

    def __str__(self) -> str:
        return (
            f"the loss off by {self.loss:.2g}, gradients by {self.median:.2g} in the median and "
            f"by {self.most:.2g} at most"
        )

    def within(self, limits: Errors) -> bool:
        """Whether no error is larger than in ``limits``; NaN is."""
        return all(mine <= most for mine, most in zip(astuple(self), astuple(limits)))


TOLERANCES = Errors(loss=2e-3, median=0.03, most=0.3)


def errors(side: Any, exact: Torch) -> Errors:
    """Run some training steps of both and compare losses and gradients, relative to their norms."""
    loss, found = 0.0, []
    for _ in range(CHECKED_STEPS):
        mine, theirs = side.train().item(), exact.train().item()
        loss = max(loss, abs(mine - theirs) / abs(theirs))
        gradients = side.gradients()
        for name, expected in exact.gradients().items():
            distance = np.linalg.norm(gradients[name] - expected)
            found.append(distance / max(np.linalg.norm(expected), 1e-30))
    return Errors(float(loss), float(np.median(found)), float(np.max(found)))


def agree(net: Net, style: str = "own", device: str = "cpu", place: str = "cpu") -> Errors:
    """Compare losses and gradients of training steps with PyTorch's in float64.

    Args:
        net, style: what takes the steps.
        device, place: minires' device and PyTorch's.

    Raises:
        Disagreement: they are not the same; says by how much, and how far PyTorch's own float32 is.
    """
    x, labels = net.images(net.checked)
    start = net.torch()
    mine = Minires(net.minires(start.state_dict(), style), x, labels, style, device)
    theirs = functools.partial(Torch, start, x, labels, "NCHW", device=place)
    result = errors(mine, theirs(dtype=torch.float64))
    if result.within(TOLERANCES):
        return result
    own = errors(theirs(), theirs(dtype=torch.float64))
    if not result.within(Errors(*(OF_ITS_OWN * error for error in astuple(own)))):
        raise Disagreement(
            message(
                f"{net.name} {net.arguments}",
                f"PyTorch in float64 to {TOLERANCES} of their norms, or no more than {OF_ITS_OWN} "
                "times as far off as PyTorch's own float32",
                str(result),
                f"PyTorch's own: {own}",
                "Nothing was timed.",
            )
        )
    return result


def agree_in_inference(side: Minires, other: Torch, most: float = 1e-3) -> float:
    """The largest difference of the logits, relative to the largest logit.

    Raises:
        Disagreement: it is above ``most``.
    """
    for _ in range(3):  # the last from a recording, where there is one
        mine = move(side.infer(), CPU)
    theirs = other.infer().cpu().numpy()
    difference = float(np.abs(mine - theirs).max() / np.abs(theirs).max())
    if not difference <= most:
        expected = f"PyTorch's logits to {most:g}"
        raise Disagreement(message("inference", expected, f"a difference of {difference:.3g}"))
    return difference


def quicker(make: Callable[[str], Any], step: str) -> tuple[str, Any]:
    """The memory order in which PyTorch takes this step faster, and that side."""
    best: tuple[float, str, Any] | None = None
    for layout in LAYOUTS:
        side = make(layout)
        run = getattr(side, step)
        times = []
        begin = time.perf_counter()
        run()  # chooses kernels and reorders weights
        for _ in range(10):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
            if len(times) > 1 and time.perf_counter() - begin > 2.5:
                break
        if best is None or min(times) < best[0]:
            best = min(times), layout, side
    assert best is not None
    return best[1], best[2]
