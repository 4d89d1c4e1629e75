"""Colours, changed at random or taken away."""

from __future__ import annotations

from typing import Any

from minires import arguments, random
from minires.errors import ArgumentError, message
from minires.vision.transforms import functional as F
from minires.vision.transforms.base import Transform
from minires.vision.transforms.checks import dimensions, interval, pil, probability
from minires.vision.transforms.functional.colours import grey_channels


class Grayscale(Transform):
    """Grey, in one channel or three equal ones.

    See :func:`~minires.vision.transforms.functional.to_grayscale`.

    Raises:
        ArgumentError: another number of channels.
    """

    def __init__(self, num_output_channels: int = 1) -> None:
        self.num_output_channels = grey_channels("Grayscale", num_output_channels)

    def forward(self, img: Any) -> Any:
        return F.to_grayscale(img, self.num_output_channels)

    def __repr__(self) -> str:
        return f"Grayscale(num_output_channels={self.num_output_channels})"


class RandomGrayscale(Transform):
    """Grey with probability ``p``, in as many channels as the picture has.

    Raises:
        ArgumentError: ``p`` outside of 0..1.
    """

    def __init__(self, p: float = 0.1) -> None:
        self.p = probability("RandomGrayscale", p)

    def forward(self, img: Any) -> Any:
        picture = pil("RandomGrayscale", img)
        if random.generator().random() < self.p:
            return F.to_grayscale(picture, 1 if dimensions(picture)[0] == 1 else 3)
        return picture

    def __repr__(self) -> str:
        return f"RandomGrayscale(p={self.p})"


class ColorJitter(Transform):
    """Brightness, contrast, saturation and hue, changed at random, in a random order.

    Args:
        brightness, contrast, saturation: ``x`` for factors in max(0, 1 - x)..1 + x, or (lowest,
            highest).
        hue: ``x`` for turns in -x..x of the colour circle, at most 0.5, or (lowest, highest).

    Raises:
        ArgumentError: no such numbers.
    """

    def __init__(
        self, brightness: Any = 0, contrast: Any = 0, saturation: Any = 0, hue: Any = 0
    ) -> None:
        self.brightness = _factors("brightness", brightness)
        self.contrast = _factors("contrast", contrast)
        self.saturation = _factors("saturation", saturation)
        self.hue = _turns(hue)

    @staticmethod
    def get_params(
        brightness: Any, contrast: Any, saturation: Any, hue: Any
    ) -> tuple[list[int], float | None, float | None, float | None, float | None]:
        """The order of the four, and an amount for each; None for what does not change.

        Args:
            brightness, contrast, saturation, hue: (lowest, highest), or None.

        Raises:
            ArgumentError: no such ranges.
        """
        draw = random.generator()
        order = [int(k) for k in draw.permutation(4)]
        amounts: list[float | None] = []
        for name, given in zip(_NAMES, (brightness, contrast, saturation, hue)):
            ends = None if given is None else interval("ColorJitter", name, given)
            amounts.append(None if ends is None else float(draw.uniform(*ends)))
        return order, amounts[0], amounts[1], amounts[2], amounts[3]

    def forward(self, img: Any) -> Any:
        order, *amounts = self.get_params(self.brightness, self.contrast, self.saturation, self.hue)
        picture = pil("ColorJitter", img)
        for k in order:
            amount = amounts[k]
            if amount is not None:
                picture = _ADJUST[k](picture, amount)
        return picture

    def __repr__(self) -> str:
        ranges = (self.brightness, self.contrast, self.saturation, self.hue)
        shown = (f"{name}={given}" for name, given in zip(_NAMES, ranges))
        return f"ColorJitter({', '.join(shown)})"


_NAMES = ("brightness", "contrast", "saturation", "hue")
_ADJUST = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)


def _factors(name: str, value: Any) -> tuple[float, float] | None:
    if arguments.as_number(value) is not None:
        amount = arguments.number("ColorJitter", name, value, least=0)
        ends = (float(max(0.0, 1 - amount)), float(1 + amount))
    else:
        low, high = interval("ColorJitter", name, value, least=0)
        ends = (float(low), float(high))
    return None if ends == (1, 1) else ends


def _turns(value: Any) -> tuple[float, float] | None:
    if arguments.as_number(value) is not None:
        amount = float(arguments.number("ColorJitter", "hue", value, least=0, most=0.5))
        ends = (-amount, amount)
    else:
        low, high = interval("ColorJitter", "hue", value, least=-0.5)
        ends = (float(low), float(high))
        if ends[1] > 0.5:
            raise ArgumentError(message("ColorJitter", "hue in -0.5..0.5", ends))
    return None if ends == (0, 0) else ends
