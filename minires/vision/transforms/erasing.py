"""Rectangles of noise or of one value: Zhong et al., "Random Erasing Data Augmentation", 2017."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minires import arguments, random
from minires.errors import ArgumentError, message, quoted
from minires.tensor import Tensor
from minires.tensor import tensor as make_tensor
from minires.vision.transforms import functional as F
from minires.vision.transforms.base import Transform
from minires.vision.transforms.checks import interval, probability, tensor

_TRIES = 10  # rectangles that may be too large before the picture is left as it is


class RandomErasing(Transform):
    """A random rectangle of a tensor (..., c, h, w) overwritten, with probability ``p``.

    Args:
        p: how often.
        scale: (lowest, highest) share of the picture's area.
        ratio: (lowest, highest) height divided by width, drawn from a logarithmic scale.
        value: a number, one for each channel, or ``"random"`` for noise of mean 0 and deviation 1.
        inplace: write into the tensor that is given.

    Put it behind :class:`ToTensor`, and mostly behind :class:`Normalize`, where 0 is the mean.

    Raises:
        ArgumentError: an argument that is none of those.
    """

    def __init__(
        self,
        p: float = 0.5,
        scale: Any = (0.02, 0.33),
        ratio: Any = (0.3, 3.3),
        value: Any = 0,
        inplace: bool = False,
    ) -> None:
        op = "RandomErasing"
        self.p = probability(op, p)
        self.scale, self.ratio = _shares(op, scale), interval(op, "ratio", ratio, above=0)
        self.value: Any = value if isinstance(value, str) else _numbers(op, value)
        if isinstance(value, str) and value != "random":
            expected = 'value a number, one for each channel, or "random"'
            raise ArgumentError(message(op, expected, quoted(value)))
        self.inplace = arguments.flag(op, "inplace", inplace)

    @staticmethod
    def get_params(
        img: Any, scale: Any, ratio: Any, value: Any = None
    ) -> tuple[int, int, int, int, Tensor]:
        """Row, column, height and width of a rectangle, and what to write there.

        The whole picture with its own values if ten rectangles were too large.

        Args:
            img: a tensor (..., c, h, w).
            scale, ratio: see :class:`RandomErasing`.
            value: a list of numbers, one or as many as channels; None for noise.

        Raises:
            DTypeError, ShapeError: no tensor.
            ArgumentError: an argument that is none of those.
        """
        op = "RandomErasing"
        x = tensor(op, img)
        shares, ratios = _shares(op, scale), interval(op, "ratio", ratio, above=0)
        numbers = None if value is None else _numbers(op, value)
        channels, height, width = x.shape[-3:]
        if numbers is not None and len(numbers) not in (1, channels):
            expected = f"value a number, or one for each of {channels} channels"
            raise ArgumentError(message(op, expected, quoted(value)))
        draw = random.generator()
        for _ in range(_TRIES):
            area = height * width * draw.uniform(*shares)
            aspect = math.exp(draw.uniform(math.log(ratios[0]), math.log(ratios[1])))
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if h >= height or w >= width:
                continue
            if numbers is None:
                fill = draw.standard_normal((channels, h, w), np.float32)
            else:
                fill = np.array(numbers)[:, None, None]
            i, j = draw.integers(height - h + 1), draw.integers(width - w + 1)
            erased = make_tensor(fill.astype(x.dtype), device=x.device)
            return int(i), int(j), h, w, erased
        return 0, 0, height, width, x

    def forward(self, img: Any) -> Any:
        x = tensor("RandomErasing", img)
        if random.generator().random() >= self.p:
            return x
        value = None if self.value == "random" else self.value
        i, j, h, w, v = self.get_params(x, self.scale, self.ratio, value)
        return F.erase(x, i, j, h, w, v, self.inplace)

    def __repr__(self) -> str:
        value = self.value[0] if len(self.value) == 1 else self.value
        return (
            f"RandomErasing(p={self.p}, scale={self.scale}, ratio={self.ratio}, value={value}, "
            f"inplace={self.inplace})"
        )


def _shares(op: str, scale: Any) -> tuple[float, float]:
    low, high = interval(op, "scale", scale, least=0)
    if high > 1:
        raise ArgumentError(message(op, "scale in 0..1", quoted(scale)))
    return low, high


def _numbers(op: str, value: Any) -> list[float]:
    many = value if isinstance(value, tuple | list) else [value]
    return [arguments.number(op, "value", number) for number in many]
