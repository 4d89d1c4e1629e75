"""Rows of ``vs_pytorch.py --device cuda``: steps of nets on one GPU, on both sides in turns.

Both sides compute in the same arithmetic: "fp32" (exact products; ``allow_tf32`` off) or "tf32"
(factors rounded to tf32; ``allow_tf32`` on). PyTorch has channels last and ``cudnn.benchmark`` on;
"eager" is its step as it is written, "compiled" is ``torch.compile(mode="max-autotune")``, which
uses CUDA graphs, with the optimiser's fused kernel. minires' step is captured, as one CUDA graph.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import harness
import numpy as np
import torch

import minires as mr
from versus.steps import NETS, RECIPE, Minires, Net, Torch, agree, agree_in_inference
from versus.works import TITLES, UNTIMED, Result, Work

PRECISIONS = {"fp32": "highest", "tf32": "high"}  # minires' names of the arithmetics
# Logits in tf32 are off by some of its 2^-11, layer by layer, in either library.
LOGITS = {"fp32": 1e-3, "tf32": 3e-2}

GPU_NETS = {
    "resnet20": NETS["resnet20"],
    "resnet56": NETS["resnet56"],
    "resnet50": replace(NETS["resnet50"], batch=64, checked=8),
}


def use(arithmetic: str) -> None:
    """Make both sides multiply so."""
    mr.set_float32_matmul_precision(PRECISIONS[arithmetic])
    torch.backends.cuda.matmul.allow_tf32 = arithmetic == "tf32"
    torch.backends.cudnn.allow_tf32 = arithmetic == "tf32"
    torch.backends.cudnn.benchmark = True


def training(
    net: Net,
    arithmetic: str,
    opponent: str,
    rounds: int,
    turn: Callable[[], object],
    place: str = "cuda",
) -> Result:
    """Training steps of both, in turns, after their losses and gradients were compared. ``place``
    is PyTorch's device."""
    use(arithmetic)
    found = agree(net, "captured", "cuda", place)
    x, labels = net.images(net.batch)
    start = net.torch()
    mine = Minires(net.minires(start.state_dict()), x, labels, "captured", "cuda")
    theirs = _opponent(start, x, labels, opponent, place)
    error = f"{found.loss:.1g} {found.median:.1g} {found.most:.1g}"
    return _in_turns(mine.train, theirs.train, rounds, turn, place, error)


def inference(
    net: Net,
    batch: int,
    arithmetic: str,
    opponent: str,
    rounds: int,
    turn: Callable[[], object],
    place: str = "cuda",
) -> Result:
    """Forward passes of both in evaluation mode, in turns, after their logits were compared."""
    use(arithmetic)
    x, labels = net.images(net.checked)
    settled = Torch(net.torch(), x, labels, "channels last", device=place)
    for _ in range(3):
        settled.train()  # running statistics as after training
    start = settled.net.cpu().eval()
    x, labels = net.images(batch)
    mine = Minires(net.minires(start.state_dict()).eval(), x, labels, "captured", "cuda")
    theirs = _opponent(start, x, labels, opponent, place)
    error = f"{agree_in_inference(mine, theirs, LOGITS[arithmetic]):.1g}"
    return _in_turns(mine.infer, theirs.infer, rounds, turn, place, error)


def _opponent(start: Any, x: Any, labels: Any, kind: str, place: str) -> Torch:
    side = Torch(start, x, labels, "channels last", device=place)
    if kind == "compiled":
        side.optimizer = torch.optim.SGD(side.net.parameters(), 1e-3, fused=True, **RECIPE)
        side.net = torch.compile(side.net, mode="max-autotune")  # type: ignore[assignment]
    return side


def _in_turns(
    mine: Callable[[], object],
    theirs: Callable[[], object],
    rounds: int,
    turn: Callable[[], object],
    place: str,
    error: str,
) -> Result:
    for _ in range(UNTIMED):  # records; compiles and chooses kernels
        mine()
        theirs()

    def clock() -> float:
        """The time when the GPU has done all that both sides gave it."""
        if place == "cuda":
            torch.cuda.synchronize()
        mr.cuda.synchronize()
        return time.perf_counter()

    case = harness.Case("step", "", mine, theirs, (), 1, 1)
    timing = harness.measure(case, rounds, clock=clock, after_round=turn)
    sides = (1e3 * float(np.median(t)) for t in (timing.fast, timing.reference))
    return Result(timing.ratios, *sides, "ms", "channels last", error)


def works() -> dict[str, Work]:
    """Every row, by name, in the order in which they are worth measuring: compiling takes PyTorch
    a minute or more for a net."""
    return {work.name: work for work in _works()}


def _works() -> Iterator[Work]:
    bounds = {"eager": (0.7, 0.3), "compiled": (1.2, 0.8)}
    for opponent, (must, goal) in bounds.items():
        over = f"over PyTorch {opponent}"
        for name in ("resnet20", "resnet56"):
            for arithmetic in ("tf32", "fp32"):
                yield Work(
                    f"train-{name}-{arithmetic}-{opponent}",
                    f"{TITLES[name]}, batch 128: training, captured, {arithmetic}; {over}",
                    *("time / PyTorch's", must, goal, 8.0 if opponent == "eager" else 90.0),
                    functools.partial(training, GPU_NETS[name], arithmetic, opponent),
                    quick=name == "resnet20" and opponent == "eager",
                )
        yield Work(
            f"infer-resnet20-1-fp32-{opponent}",
            f"{TITLES['resnet20']}, batch 1: inference, captured, fp32; {over}",
            *("time / PyTorch's", 1.0, 0.5, 5.0 if opponent == "eager" else 60.0),
            functools.partial(inference, GPU_NETS["resnet20"], 1, "fp32", opponent),
            quick=opponent == "eager",
        )
        if opponent == "eager":
            yield Work(
                "train-resnet50-tf32-eager",
                f"{TITLES['resnet50']}, batch 64: training, captured, tf32; {over}",
                *("time / PyTorch's", 1.3, 0.8, 25.0),
                functools.partial(training, GPU_NETS["resnet50"], "tf32", "eager"),
            )
