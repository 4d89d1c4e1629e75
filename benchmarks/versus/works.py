"""All rows of ``vs_pytorch.py``: what is measured, and the figures to reach."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import harness
import numpy as np

from versus import memory, parts
from versus.steps import NETS, Minires, Net, Torch, agree, agree_in_inference, quicker

# How the same net is written: as minires builds it, with its steps by minires.capture, and as
# torchvision writes it; with what the title says of it.
STYLES = {"own": "", "captured": "; captured", "torchvision": "; bn, relu, +="}
UNTIMED = 3  # steps, after which a captured one is recorded
LONG_SECONDS = 0.1  # a call that takes this long needs no untimed one before it
MIB = 2**20

TITLES = {
    "resnet20": "ResNet-20, 32x32",
    "resnet56": "ResNet-56, 32x32",
    "resnet110": "ResNet-110, 32x32",
    "resnet18-96": "ResNet-18, 96x96, grey",
    "resnet18-224": "ResNet-18, 224x224",
    "resnet50": "ResNet-50, 224x224",
}


@dataclass(frozen=True)
class Result:
    """What a row measured.

    Attributes:
        values: by round (or by network); their median and percentiles are shown.
        mine, theirs: what stands behind them, the median of each side; in ``unit``.
        layout: the memory order in which PyTorch was faster.
        error: how far apart the two sides' results were, for people.
    """

    values: list[float]
    mine: float
    theirs: float
    unit: str
    layout: str = ""
    error: str = ""

    def value(self, percentile: float = 50) -> float:
        return float(np.percentile(self.values, percentile))


@dataclass(frozen=True)
class Work:
    """A row.

    Attributes:
        name: for ``--only``.
        title: for people.
        quantity: "time / PyTorch's", "memory / PyTorch's", "of copy" or "of time".
        must, goal: the figures to reach; at least, where ``quantity`` is "of copy", else at most.
        seconds: about how long it takes.
        measure: ``measure(rounds, turn)``, which calls ``turn()`` after every round.
        quick: whether it is measured with ``--quick``.
    """

    name: str
    title: str
    quantity: str
    must: float
    goal: float
    seconds: float
    measure: Callable[[int, parts.Turn], Result]
    quick: bool = False


def _timed(timing: harness.Timing, unit: str, layout: str = "", error: str = "") -> Result:
    scale = {"ms": 1e3, "µs": 1e6}[unit]
    mine, theirs = (scale * float(np.median(t)) for t in (timing.fast, timing.reference))
    return Result(timing.ratios, mine, theirs, unit, layout, error)


def training(net: Net, style: str, rounds: int, turn: parts.Turn) -> Result:
    """Training steps of both, in turns, after their losses and gradients were compared."""
    found = agree(net, style)
    x, labels = net.images(net.batch)
    start = net.torch()
    mine = Minires(net.minires(start.state_dict(), style), x, labels, style)
    layout, theirs = quicker(lambda layout: Torch(start, x, labels, layout), "train")
    for _ in range(UNTIMED):
        mine.train()
    error = f"{found.loss:.1g} {found.median:.1g} {found.most:.1g}"
    return _timed(_in_turns(mine.train, theirs.train, rounds, turn), "ms", layout, error)


def inference(net: Net, batch: int, style: str, rounds: int, turn: parts.Turn) -> Result:
    """Forward passes of both in evaluation mode, in turns, after their logits were compared."""
    x, labels = net.images(net.checked)
    settled = Torch(net.torch(), x, labels, "NCHW")
    for _ in range(3):
        settled.train()  # running statistics as after training
    start = settled.net.eval()
    x, labels = net.images(batch)
    mine = Minires(net.minires(start.state_dict(), style).eval(), x, labels, style)
    layout, theirs = quicker(lambda layout: Torch(start, x, labels, layout), "infer")
    error = f"{agree_in_inference(mine, theirs):.1g}"
    return _timed(_in_turns(mine.infer, theirs.infer, rounds, turn), "ms", layout, error)


def _in_turns(
    mine: Callable[[], object], theirs: Callable[[], object], rounds: int, turn: parts.Turn
) -> harness.Timing:
    case = harness.Case("step", "", mine, theirs, (), 1, 1)
    first = harness.measure(case, 1, warm_up=False)
    brief = max(first.fast + first.reference) < LONG_SECONDS
    return harness.measure(case, rounds, after_round=turn, warm_up=brief)


def peak_memory(name: str, style: str, rounds: int, turn: parts.Turn) -> Result:
    """Peak memory of training steps, each side in its own process, PyTorch at its lesser."""
    memory.peak("minires", name, style=style)  # compiles; the one that counts finds its kernels
    turn()
    mine = memory.peak("minires", name, style=style)
    turn()
    theirs = {}
    for layout in ("NCHW", "channels last"):
        theirs[layout] = memory.peak("torch", name, layout)
        turn()
    layout = min(theirs, key=theirs.__getitem__)
    return Result([mine / theirs[layout]], mine / MIB, theirs[layout] / MIB, "MiB", layout)


def _convolution(layer: parts.Layer, direction: str, rounds: int, turn: parts.Turn) -> Result:
    timing, error = parts.convolution(layer, direction, rounds, turn)
    return _timed(timing, "ms", "channels last", f"{error:.1g}")


def _batch_norm(name: str, add: bool, backward: bool, rounds: int, turn: parts.Turn) -> Result:
    seconds, copy = parts.batch_norm(name, add, backward, rounds, turn)
    shares = [copy / each for each in seconds]
    return Result(shares, 1e3 * float(np.median(seconds)), 1e3 * copy, "ms")


def _small(backward: bool, rounds: int, turn: parts.Turn) -> Result:
    return _timed(parts.small_tensors(backward, rounds, turn), "µs")


def _depth(rounds: int, turn: parts.Turn) -> Result:
    total, outside = parts.outside_kernels(1 if rounds < 15 else None, turn)
    shares = [part / whole for part, whole in zip(outside, total)]
    # The share of the whole study stands in the middle; the percentiles are the networks'.
    return Result([sum(outside) / sum(total), *shares], sum(outside), sum(total), "s")


def works() -> dict[str, Work]:
    """Every row, by name, in the order of the table."""
    time, found = "time / PyTorch's", []
    bounds = {
        "resnet20": (0.6, 0.4, 12.0),
        "resnet56": (0.6, 0.4, 30.0),
        "resnet110": (0.6, 0.4, 55.0),
        "resnet18-96": (0.85, 0.6, 25.0),
        "resnet18-224": (0.95, 0.7, 35.0),
        "resnet50": (1.0, 0.8, 55.0),
    }
    inferences = {
        ("resnet20", 128): (0.6, 0.45, 6.0),
        ("resnet20", 1): (0.6, 0.35, 4.0),
        ("resnet50", 8): (1.0, 0.8, 20.0),
        ("resnet50", 1): (1.0, 0.8, 12.0),
    }
    for style, note in STYLES.items():
        suffix = "" if style == "own" else f"-{style}"
        for name, (must, goal, seconds) in bounds.items():
            found.append(
                Work(
                    f"train-{name}{suffix}",
                    f"{TITLES[name]}, batch {NETS[name].batch}: training{note}",
                    *(time, must, goal, seconds),
                    functools.partial(training, NETS[name], style),
                    quick=name == "resnet20" and style != "torchvision",
                )
            )
        for (name, batch), (must, goal, seconds) in inferences.items():
            found.append(
                Work(
                    f"infer-{name}-{batch}{suffix}",
                    f"{TITLES[name]}, batch {batch}: inference{note}",
                    *(time, must, goal, seconds),
                    functools.partial(inference, NETS[name], batch, style),
                    quick=name == "resnet20" and style != "torchvision",
                )
            )
        for name in bounds:
            found.append(
                Work(
                    f"memory-{name}{suffix}",
                    f"{TITLES[name]}, batch {NETS[name].batch}: peak memory{note}",
                    *("memory / PyTorch's", 1.0, 0.7, 20.0),
                    functools.partial(peak_memory, name, style),
                )
            )
    for name, layer in parts.LAYERS.items():
        winograd = layer.k == 3 and layer.stride == 1 and layer.c_in > 3
        for direction, words in parts.DIRECTIONS.items():
            if "stem" in name and direction == "input":
                continue  # nobody asks for the gradient of the images
            found.append(
                Work(
                    f"conv-{name}-{direction}",
                    f"{layer.k}x{layer.k}{'/2' if layer.stride == 2 else ''} {layer.title}, "
                    f"{layer.n}x{layer.size}x{layer.size}: {words}",
                    *(time, 1.0, 0.6 if winograd else 1.0, 2.0),
                    functools.partial(_convolution, layer, direction),
                    quick=name == "cifar-64",
                )
            )
    for name, (title, n, c, size) in parts.MAPS.items():
        for add in (False, True):
            for backward in (False, True):
                found.append(
                    Work(
                        f"bn-{name}{'-add' if add else ''}-{'backward' if backward else 'forward'}",
                        f"batch norm{' + add' if add else ''} + ReLU, {title} {n}x{c}x{size}x{size}"
                        f": {'backward' if backward else 'forward'}",
                        *("of copy", 0.70, 0.85, 3.0),
                        functools.partial(_batch_norm, name, add, backward),
                        quick=name == "cifar-64",
                    )
                )
    found.append(
        Work("depth", "minires depth: outside kernels", "of time", 0.15, 0.08, 60.0, _depth)
    )
    for backward in (False, True):
        name = "small-backward" if backward else "small-forward"
        title = f"a + b of 10 elements: forward{' and backward' if backward else ''}"
        measure = functools.partial(_small, backward)
        found.append(Work(name, title, time, 4.0, 2.0, 2.0, measure, quick=True))
    return {work.name: work for work in found}
