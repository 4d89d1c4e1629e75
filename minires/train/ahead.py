"""Compiling CUDA kernels ahead: all that some work launches, on all cores, before it is done.

NVRTC takes about a second for a kernel of a convolution, and a network asks for some dozens. One by
one, each when it is first launched, they take longer than the training. Which ones they are depends
on sizes, and is known to the Python of the operations alone. So the work is done once *without its
launches*: in their place the kernels are handed to threads that compile them. The threads run at
the same time, since CuPy lets go of Python's lock while NVRTC works. What CuPy compiles for its own
functions, on the way, is compiled meanwhile, in the thread that does the work.

CuPy keeps compiled kernels on disk, by their text, options and compiler, and replaces files
atomically, so that several processes may do this at once. It loads what it finds there.
"""

from __future__ import annotations

import functools
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from minires.autograd import Around, no_grad
from minires.autograd.engine import around
from minires.device import Device, on
from minires.kernels.cuda.kernel import Kernel
from minires.nn import Module
from minires.ops import cross_entropy
from minires.optim import Optimizer
from minires.train.checks import batches, look

Ready = Callable[[str, int, int], object]  # (name of a kernel, how many are ready, of how many)


class _Unlaunched(Around):
    """An engine that launches no kernel, but has it compiled."""

    def __init__(self, inner: Any, compile: Callable[[Kernel], None]) -> None:
        super().__init__(inner)
        self._compile = compile

    def launch(
        self, kernel: Kernel, grid: Any, arguments: tuple[Any, ...], reaches: Sequence[Any]
    ) -> None:
        self._compile(kernel)

    def check(self, function: Callable[..., None], *args: Any) -> None:
        """Not done: no kernel has written these values."""


def compile_ahead(device: Device, work: Callable[[], object], ready: Ready) -> int:
    """Compile and load all CUDA kernels that ``work`` launches on a GPU.

    Args:
        device: the GPU.
        work: computes on tensors there. What kernels write is left as it is, so that results are
            without meaning; whatever the work changes is spoilt.
        ready: called after each kernel, in the thread that compiled it.

    Returns:
        How many kernels there were.

    Raises:
        DeviceError: the GPU is not there.
    """
    found: set[int] = set()
    compiling: list[Future[None]] = []
    lock, done = threading.Lock(), 0

    def finish(kernel: Kernel) -> None:
        nonlocal done
        with on(device):
            kernel.compiled()
        with lock:
            done += 1
            ready(kernel.__name__, done, len(found))

    with ThreadPoolExecutor(os.cpu_count(), "minires compiler") as pool:

        def begin(kernel: Kernel) -> None:
            if id(kernel) not in found:
                found.add(id(kernel))
                compiling.append(pool.submit(finish, kernel))

        try:
            with on(device), around("compile_ahead", functools.partial(_Unlaunched, compile=begin)):
                work()
            for future in compiling:
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)  # Ctrl-C need not wait for all of them
            raise
    return len(found)


def training_and_inference(
    net: Module, optimizer: Optimizer, training: Iterable[int], inference: Iterable[int],
    shape: tuple[int, ...],
) -> None:  # fmt: skip
    """What :func:`~minires.train.fit` does with a batch of each size in ``training``, and with one
    of each size in ``inference`` to evaluate, on blank images (c, h, w) = ``shape``."""
    c, h, w = shape

    def blank(sizes: Iterable[int]) -> list[tuple[Any, Any]]:
        # Images in the kernels' layout are read as they are, others copied to it.
        return [
            (images, np.zeros(n, np.int64))
            for n in sizes
            for images in (
                np.zeros((n, c, h, w), np.float32),
                np.zeros((n, h, w, c), np.float32).transpose(0, 3, 1, 2),
            )
        ]

    def measure(x: Any, y: Any) -> tuple[Any, Any]:
        logits = net(x)
        return cross_entropy(logits, y), logits

    op = "compile_ahead"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about values that are none
        net.train()
        for x, y, finite in batches(op, blank(training), net):
            optimizer.zero_grad()
            loss, logits = measure(x, y)
            loss.backward()
            look(op, loss, logits, x, y, finite, 0)
            optimizer.step()
        net.eval()
        with no_grad():
            for x, y, finite in batches(op, blank(inference), net):
                look(op, *measure(x, y), x, y, finite, 0)


def kept_in() -> Path:
    """Where CuPy keeps what it has compiled."""
    return Path(os.environ.get("CUPY_CACHE_DIR") or Path.home() / ".cupy" / "kernel_cache")
