"""Parts of a net, one at a time: convolutions, batch norm with ReLU, small tensors, a study."""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import floors
import numpy as np
import torch
from harness import SETTLE_SECONDS, Case, Timing, agree, measure

import minires as mr
from minires.kernels.numba import threads
from minires.ops.conv2d import Conv2dGeometry
from minires.study import PROTOCOLS, StudyConfig, run_study
from minires.train import Running

Turn = Callable[[], object]  # called after every round


@dataclass(frozen=True)
class Layer:
    """A convolution of a residual network, without bias, padded to keep its size."""

    title: str
    n: int
    c_in: int
    size: int
    c_out: int
    k: int
    stride: int


LAYERS = {
    "cifar-stem": Layer("CIFAR stem", 128, 3, 32, 16, 3, 1),
    "cifar-16": Layer("CIFAR 16", 128, 16, 32, 16, 3, 1),
    "cifar-16-32": Layer("CIFAR 16 to 32", 128, 16, 32, 32, 3, 2),
    "cifar-32": Layer("CIFAR 32", 128, 32, 16, 32, 3, 1),
    "cifar-32-64": Layer("CIFAR 32 to 64", 128, 32, 16, 64, 3, 2),
    "cifar-64": Layer("CIFAR 64", 128, 64, 8, 64, 3, 1),
    "stem": Layer("stem", 8, 3, 224, 64, 7, 2),
    "stem-grey": Layer("stem, grey", 64, 1, 96, 64, 7, 2),
    "64": Layer("64", 8, 64, 56, 64, 3, 1),
    "64-128": Layer("64 to 128", 8, 64, 56, 128, 3, 2),
    "128": Layer("128", 8, 128, 28, 128, 3, 1),
    "128-256": Layer("128 to 256", 8, 128, 28, 256, 3, 2),
    "256": Layer("256", 8, 256, 14, 256, 3, 1),
    "256-512": Layer("256 to 512", 8, 256, 14, 512, 3, 2),
    "512": Layer("512", 8, 512, 7, 512, 3, 1),
    "1x1-64-256": Layer("64 to 256", 8, 64, 56, 256, 1, 1),
    "1x1-256-64": Layer("256 to 64", 8, 256, 56, 64, 1, 1),
    "1x1-512-128": Layer("512 to 128", 8, 512, 28, 128, 1, 1),
    "1x1-256-1024": Layer("256 to 1024", 8, 256, 14, 1024, 1, 1),
    "1x1-1024-256": Layer("1024 to 256", 8, 1024, 14, 256, 1, 1),
    "1x1-512-2048": Layer("512 to 2048", 8, 512, 7, 2048, 1, 1),
    "1x1-2048-512": Layer("2048 to 512", 8, 2048, 7, 512, 1, 1),
    "1x1-256-512": Layer("256 to 512", 8, 256, 56, 512, 1, 2),
    "1x1-1024-2048": Layer("1024 to 2048", 8, 1024, 14, 2048, 1, 2),
}
DIRECTIONS = {"fwd": "forward", "input": "input gradient", "weight": "weight gradient"}


def convolution(layer: Layer, direction: str, rounds: int, turn: Turn) -> tuple[Timing, float]:
    """One direction of a convolution against oneDNN, channels last; kernels alone on both sides.

    Returns the times and the largest difference, relative to the largest entry. Both sides allocate
    their result: PyTorch cannot do without.

    Raises:
        Disagreement: the results differ.
    """
    from minires.kernels.numba import allocator
    from minires.ops.conv2d import kernel_numba as kernels

    rng = np.random.default_rng(0)

    def normal(*shape: int) -> Any:
        return rng.standard_normal(shape, dtype=np.float32)

    def of_torch(array: Any) -> Any:  # a view of the same memory
        return torch.from_numpy(array).permute(0, 3, 1, 2)

    w = normal(layer.c_out, layer.c_in, layer.k, layer.k)
    images = (layer.n, layer.c_in, layer.size, layer.size)
    g = Conv2dGeometry.from_shapes(images, w.shape, layer.stride, layer.k // 2, 1, 1)
    x = normal(layer.n, layer.size, layer.size, layer.c_in)
    gy = normal(layer.n, g.h_out, g.w_out, layer.c_out)
    w_torch = torch.from_numpy(w).to(memory_format=torch.channels_last)
    x_torch, gy_torch = of_torch(x), of_torch(gy)
    options: Any = {"stride": layer.stride, "padding": layer.k // 2}
    wanted = [direction == "input", direction == "weight", False]
    sides: dict[str, tuple[Any, Callable[[Any], Any], Callable[[], Any]]] = {
        "fwd": (
            gy,
            lambda out: kernels.conv2d_fwd(x, w, out, g),
            lambda: torch.nn.functional.conv2d(x_torch, w_torch, **options),
        ),
        "input": (
            x,
            lambda out: kernels.conv2d_bwd_input(gy, w, out, g),
            lambda: torch.ops.aten.convolution_backward(
                gy_torch, x_torch, w_torch, None, [layer.stride] * 2, [layer.k // 2] * 2,
                [1, 1], False, [0, 0], 1, wanted,
            )[0],
        ),
        "weight": (
            w,
            lambda out: kernels.conv2d_bwd_weight(gy, x, out, g),
            lambda: torch.ops.aten.convolution_backward(
                gy_torch, x_torch, w_torch, None, [layer.stride] * 2, [layer.k // 2] * 2,
                [1, 1], False, [0, 0], 1, wanted,
            )[1],
        ),
    }  # fmt: skip
    like, run, theirs = sides[direction]
    mine, expected = np.empty_like(like), np.empty_like(like)

    def fast() -> None:
        run(allocator.allocate(like.shape, like.dtype))

    def to_compare() -> None:
        result = theirs()
        rows = result if direction == "weight" else result.permute(0, 2, 3, 1)
        expected[...] = rows.numpy()

    with torch.no_grad():
        title = f"conv2d {DIRECTIONS[direction]} {layer.title}"
        # A weight gradient adds up over all pixels of a batch, in float32 on both sides.
        tolerance = 1e-3 if direction == "weight" else 1e-4
        check = Case(
            title, str(x.shape), lambda: run(mine), to_compare, [(mine, expected)], 1, 1, tolerance
        )
        error = agree(check)
        case = Case(title, str(x.shape), fast, theirs, (), 1, 1)
        return measure(case, rounds, after_round=turn), error


MAPS = {
    "cifar-16": ("CIFAR stage 1", 128, 16, 32),
    "cifar-64": ("CIFAR stage 3", 128, 64, 8),
    "64": ("ImageNet stage 1", 8, 64, 56),
    "256": ("ImageNet stage 3", 8, 256, 14),
}


def batch_norm(
    name: str, add: bool, backward: bool, rounds: int, turn: Turn
) -> tuple[list[float], float]:
    """Seconds of ``relu(batch_norm(x))`` or ``relu(batch_norm(x) + r)`` in training, round by
    round, and of the fastest parallel copy that moves as many bytes.

    Counted are whole arrays, by the passes that batch norm cannot do without. Forward: x for the
    statistics, then x (and r) in and y out. Backward: the upstream gradient and x (and y, whose
    zeros are the ReLU's) for the two reductions; then gradient and x again and the gradient of x
    out; with an addition also the gradient of r out, once.
    """
    _, n, c, size = MAPS[name]
    rng = np.random.default_rng(0)

    def normal() -> Any:  # an activation, whose memory is the engine's own, as in a net
        rows = rng.standard_normal((n, size, size, c), dtype=np.float32)
        return mr.from_numpy(rows.transpose(0, 3, 1, 2)).clone()

    x, r = normal().requires_grad_(), normal().requires_grad_()
    nbytes = x.numel() * x.dtype.itemsize
    weight, bias = (mr.ones(c, requires_grad=True), mr.zeros(c, requires_grad=True))
    mean, var, upstream = mr.zeros(c), mr.ones(c), normal()
    arrays = (7 if add else 5) if backward else (4 if add else 3)
    rate = floors.bandwidth(arrays * nbytes)

    def forward() -> Any:
        y = mr.batch_norm(x, mean, var, weight, bias, training=True)
        y = mr.relu(y + r if add else y)
        _ = y._array  # nothing is pending; .data would hand it out, and no net does that
        return y

    def once() -> float:
        x.grad = r.grad = weight.grad = bias.grad = None
        start = time.perf_counter()
        y = forward()
        if backward:
            start = time.perf_counter()
            y.backward(upstream)
            _ = x.grad.data
        return time.perf_counter() - start

    for _ in range(3):
        once()
    seconds = []
    for _ in range(rounds):
        time.sleep(SETTLE_SECONDS)
        once()
        seconds.append(float(np.median([once() for _ in range(8)])))
        rate = max(rate, floors.bandwidth(arrays * nbytes))
        turn()
    return seconds, arrays * nbytes / rate


def small_tensors(backward: bool, rounds: int, turn: Turn) -> Timing:
    """``a + b`` of ten numbers that require gradients; with ``.sum().backward()`` if asked."""
    a, b = (mr.ones(10, requires_grad=True) for _ in range(2))
    p, q = (torch.ones(10, requires_grad=True) for _ in range(2))

    def fast() -> None:
        y = a + b
        if backward:
            a.grad = b.grad = None
            y.sum().backward()

    def reference() -> None:
        y = p + q
        if backward:
            p.grad = q.grad = None
            y.sum().backward()

    case = Case("a + b", "10", fast, reference, (), 1, 1)
    return measure(case, rounds, after_round=turn)


class _Watch:
    """Clocks each network of a study from start to end, and the time of it inside kernels."""

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self.total: list[float] = []
        self.inside: list[float] = []
        self._begun: float | None = None

    def kernel(self, run: Callable[..., None], *arguments: Any) -> None:
        """Run a kernel on the clock."""
        start = time.perf_counter()
        run(*arguments)
        if self._begun is not None:
            self.inside[-1] += time.perf_counter() - start

    def plan(self, folder: Path, total: int, done: int) -> None: ...

    def network(self, name: str, epochs: int, done: int, total: int, gone: int) -> None:
        self.inside.append(0.0)
        self._begun = time.perf_counter()

    def batch(self, name: str, work: int, running: Running) -> None: ...

    def epoch(self, name: str, row: dict[str, Any]) -> None: ...

    def evaluating(self, name: str) -> None: ...

    def diverged(self, name: str) -> None: ...

    def finished(self, name: str, run: dict[str, Any]) -> None:
        assert self._begun is not None
        self.total.append(time.perf_counter() - self._begun)
        self._begun = None
        self.turn()


def outside_kernels(epochs: int | None, turn: Turn) -> tuple[list[float], list[float]]:
    """Seconds in all, and outside kernels, of each network of ``minires depth``.

    ``epochs`` may be fewer than the study's own. Outside is whatever does not happen in the loops
    of :mod:`minires.kernels.numba.threads`: Python, NumPy, loading data, checkpoints.
    """
    quick, watch = PROTOCOLS["quick"], _Watch(turn)
    loops = threads._in_parallel, threads._in_order
    threads._in_parallel, threads._in_order = (
        lambda loop=loop: functools.partial(watch.kernel, loop()) for loop in loops
    )
    try:
        with tempfile.TemporaryDirectory() as folder:
            first = StudyConfig(depths=(8,), limit=64, protocol=quick.with_epochs(1))
            run_study(first, Path(folder) / "first")  # compiles
            study = StudyConfig(protocol=quick.with_epochs(epochs))
            run_study(study, Path(folder) / "study", progress=watch)
    finally:
        threads._in_parallel, threads._in_order = loops
    return watch.total, [total - inside for total, inside in zip(watch.total, watch.inside)]
