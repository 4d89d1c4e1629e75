"""What a user brings, a picture or a tensor, as what a network takes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from minires import arguments
from minires.device import CPU, is_array, move
from minires.errors import ArgumentError, DTypeError, ShapeError, message, quoted
from minires.nn import Conv2d, Module
from minires.nn.parameter import Uninitialized
from minires.nn.trace import check_module
from minires.tensor import Tensor
from minires.train import Trained
from minires.vision.datasets import open_picture
from minires.vision.folder import cut_to

FIX = "Pass a path, a PIL image, or a tensor (1, c, h, w)."
Pair = tuple[Any, Any]  # mean and standard deviation, one number for each channel


@dataclass(frozen=True, eq=False)
class Given:
    """A network and its input.

    Attributes:
        x: (n, c, h, w), on the network's device and of its dtype.
        picture: the first of them as it is to be shown: (h, w) or (h, w, 3) in 0..1.
        classes: their names, if they are known.
    """

    net: Module
    x: Tensor
    picture: Any
    classes: tuple[str, ...]


def network_of(op: str, net: Any) -> Module:
    """The network of a trained run, or the network itself."""
    if isinstance(net, Trained):
        return net.network
    check_module(op, net)
    return net


def given(op: str, net: Any, x: Any, normalize: Any, size: Any, one: bool = True) -> Given:
    """Prepare ``x`` for ``net``.

    Args:
        net: a module; or a trained run, which knows how it wants its pictures.
        x: a path or a PIL image; bytes (h, w), (h, w, c) in an array are a picture too; other
            tensors and arrays, (c, h, w) or (n, c, h, w), are what the network takes.
        normalize: (mean, std) of what the network takes. Pictures are normalised with them;
            tensors are so already, and are shown by them.
        size: height and width to cut pictures to.
        one: whether there must be one picture.
    """
    trained = net if isinstance(net, Trained) else None
    network = network_of(op, net)
    if trained is not None:
        facts = trained.facts
        if normalize is not None or size is not None:
            fix = "Pass run.network to choose them yourself."
            got = "normalize or size"
            raise ArgumentError(message(op, "a run, which says how, alone", got, fix=fix))
        normalize, size = (facts.mean, facts.std), facts.shape[1:]
    statistics = None if normalize is None else _statistics(op, normalize)
    if size is not None:
        size = arguments.pair(op, "size", size, 1)
    picture = _opened(x)
    if picture is None:
        tensor = _tensor(op, x)
    else:
        channels = _channels(network) if trained is None else trained.facts.shape[0]
        height, width = size or (picture.height, picture.width)
        pixels = cut_to(picture, height, width, channels)  # (h, w, c)
        values = pixels.astype(np.float64) / 255
        if statistics is not None:
            mean, std = (_per_channel(op, s, channels) for s in statistics)
            values = (values - mean) / std
        tensor = Tensor(np.ascontiguousarray(values.transpose(2, 0, 1)[None]))  # (1, c, h, w)
    if one and tensor.shape[0] != 1:
        fix = "Pass one of them, as x[:1]."
        raise ShapeError(message(op, "one picture", f"{tensor.shape[0]} of them", fix=fix))
    tensor = _as_the_network(network, tensor)
    classes = trained.facts.classes if trained is not None else ()
    return Given(network, tensor, _as_picture(op, tensor, statistics), classes)


def _opened(x: Any) -> Image.Image | None:
    """A PIL image of what is a picture; None for what is a tensor."""
    if isinstance(x, str | os.PathLike):
        return open_picture(x)
    if isinstance(x, Image.Image):
        return x.convert("RGB")
    if isinstance(x, np.ndarray) and x.dtype == np.uint8 and x.size:
        if x.ndim == 3 and x.shape[2] == 1:
            x = x[:, :, 0]
        if x.ndim == 2 or (x.ndim == 3 and x.shape[2] == 3):
            return Image.fromarray(np.ascontiguousarray(x)).convert("RGB")
    return None


def _tensor(op: str, x: Any) -> Tensor:
    """(n, c, h, w) of a tensor or an array, with floats in it."""
    if not isinstance(x, Tensor) and not is_array(x):
        raise ArgumentError(message(op, "a picture or a tensor", quoted(x), fix=FIX))
    tensor = x.detach() if isinstance(x, Tensor) else Tensor(x)
    if tensor.dtype.kind != "f":
        got = f"{tensor.dtype} of shape {tensor.shape}"
        raise DTypeError(message(op, "floats, or bytes (h, w, 3)", got, fix=FIX))
    if tensor.ndim == 3:
        tensor = tensor[None]
    if tensor.ndim != 4 or 0 in tensor.shape:
        raise ShapeError(message(op, "x of shape (c, h, w) or (n, c, h, w)", tensor.shape, fix=FIX))
    return tensor


def _channels(net: Module) -> int:
    """1 for a network whose first convolution takes one channel, else 3."""
    first = next((m for m in net.modules() if isinstance(m, Conv2d)), None)
    return 1 if first is not None and first.in_channels == 1 else 3


def _as_the_network(net: Module, x: Tensor) -> Tensor:
    """``x`` on the device of the parameters and of their dtype, in memory of its own."""
    first = next((p for p in net.parameters() if not isinstance(p, Uninitialized)), None)
    if first is None:
        return (x if x.dtype == np.float64 else x.float()).clone()
    return x.to(first.dtype).to(first.device).clone()


def _statistics(op: str, normalize: Any) -> Pair:
    """Mean and deviation, each a list of numbers, from a pair or from a ``Normalize``."""
    if hasattr(normalize, "mean") and hasattr(normalize, "std") and not is_array(normalize):
        normalize = (normalize.mean, normalize.std)  # vision.transforms.Normalize
    if not isinstance(normalize, tuple | list) or len(normalize) != 2:
        fix = "For example normalize=((0.5,), (0.5,))."
        raise ArgumentError(message(op, "normalize=(mean, std)", quoted(normalize), fix=fix))
    both = []
    for name, values in zip(("mean", "std"), normalize):
        listed = values if isinstance(values, Sequence | np.ndarray) else [values]
        if isinstance(listed, str) or not len(listed):
            raise ArgumentError(message(op, f"{name} of each channel", quoted(values)))
        above = 0 if name == "std" else None
        both.append([arguments.number(op, name, v, above=above) for v in listed])
    return both[0], both[1]


def _per_channel(op: str, numbers: list[float], channels: int) -> Any:
    if len(numbers) not in (1, channels):
        got = f"{len(numbers)} numbers"
        raise ShapeError(message(op, f"mean and std of {channels} channels", got))
    return np.broadcast_to(np.array(numbers, float), (channels,))


def _as_picture(op: str, x: Tensor, statistics: Pair | None) -> Any:
    """The first of x (n, c, h, w) to look at: as it was before it was normalised, or from its
    smallest value to its largest."""
    values = on_host(x)[0].transpose(1, 2, 0).astype(float)  # (h, w, c)
    if statistics is not None:
        mean, std = (_per_channel(op, s, values.shape[2]) for s in statistics)
        values = values * std + mean
    else:
        known = values[np.isfinite(values)]
        low, high = (known.min(), known.max()) if known.size else (0.0, 1.0)
        values = (values - low) / ((high - low) or 1.0)
    values = np.clip(np.nan_to_num(values), 0, 1)
    return values if values.shape[2] == 3 else values.mean(2)


def on_host(x: Tensor) -> np.ndarray:
    """The values as a NumPy array of its own."""
    return np.array(move(x.detach()._array, CPU))
