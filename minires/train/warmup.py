"""Compiling ahead: everything that training and inference of a network need, once.

Kernels are compiled for dtypes, not for sizes, so that a few steps on blank images of the usual
size and number meet all of them. On a GPU sizes choose among kernels of several tiles: those for
the sizes here are compiled at the same time (:mod:`.ahead`), before the passes, in which CuPy
compiles what it needs for its own functions.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator

import numpy as np

from minires.autograd import no_grad
from minires.device import CPU, Device
from minires.distributed import alone
from minires.models import create
from minires.models.registry import options_of
from minires.nn import Module
from minires.optim import SGD
from minires.tensor import from_numpy
from minires.train.ahead import Ready, compile_ahead, training_and_inference
from minires.train.loop import train_epoch

Pass = tuple[str, Callable[[], object]]
PASSES = 3


def compile_kernels(model: str, device: Device, ready: Ready) -> int:
    """Compile the CUDA kernels of a network for a GPU, on all cores; how many there are.

    Raises:
        ArgumentError: the model is not in the zoo.
    """
    net = create(model).to(device)
    many = _usual(net)
    shape, work = net.image_shape, training_and_inference
    run = functools.partial(work, net, _optimizer(net), [many], [many, 1], shape)
    return compile_ahead(device, run, ready)


def _usual(net: Module) -> int:
    """How many images are usual, and take a second or two."""
    light = sum(param.numel() for param in net.parameters()) <= 2_000_000
    return 128 if light else 8


def _optimizer(net: Module) -> SGD:
    return SGD(net.parameters(), 0.0, momentum=0.9, weight_decay=1e-4)


def passes(model: str, device: Device = CPU) -> Iterator[Pass]:
    """(name, function to call) of each of the :data:`PASSES` passes, in order.

    Raises:
        ArgumentError: the model is not in the zoo.
    """
    net = create(model).to(device)
    many = _usual(net)
    any_size = "num_classes" in options_of(model)  # those of others are made for one
    yield f"training, {many} images", functools.partial(_train, net, many, any_size)
    for batch in (many, 1):  # one image is cut over threads in another way than many
        images = f"{batch} image{'s' if batch > 1 else ''}"
        yield f"inference, {images}", functools.partial(_infer, net, batch)


def _train(net: Module, batch: int, any_size: bool) -> None:
    c, h, w = net.image_shape
    optimizer = _optimizer(net)
    labels = np.zeros(batch, np.int64)
    # Images that are in the kernels' layout already, as those of one channel always are, are not
    # copied. The caller has them, then, so that the first convolution cannot be deferred:
    # there are two ways to go through the net. The sums of few small images are cut into shares.
    copied = np.zeros((batch, c, h, w), np.float32)
    as_they_are = np.zeros((batch, h, w, c), np.float32).transpose(0, 3, 1, 2)
    parts = [copied, as_they_are]
    if any_size:
        parts.append(np.zeros((2, c, h // 4, w // 4), np.float32))
    with warnings.catch_warnings(), alone():
        warnings.simplefilter("ignore")  # that statistics or probabilities are odd is no matter
        train_epoch(net, [(x, labels[: len(x)]) for x in parts], optimizer)


def _infer(net: Module, batch: int) -> None:
    net.eval()
    x = from_numpy(np.zeros((batch, *net.image_shape), np.float32))
    with no_grad():
        net(x.to(next(net.parameters()).device)).cpu().numpy()
