"""How pixels between pixels are found."""

from __future__ import annotations

import enum
from typing import Any

from PIL import Image

from minires import arguments
from minires.errors import ArgumentError, message, quoted


class InterpolationMode(enum.Enum):
    """Pillow's filters, by torchvision's names. Where Pillow makes a picture smaller, all but
    ``NEAREST`` average over all pixels that a new one covers (antialiasing)."""

    NEAREST = "nearest"
    NEAREST_EXACT = "nearest-exact"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"


_FILTERS = {
    InterpolationMode.NEAREST: Image.Resampling.NEAREST,
    InterpolationMode.NEAREST_EXACT: Image.Resampling.NEAREST,
    InterpolationMode.BILINEAR: Image.Resampling.BILINEAR,
    InterpolationMode.BICUBIC: Image.Resampling.BICUBIC,
    InterpolationMode.BOX: Image.Resampling.BOX,
    InterpolationMode.HAMMING: Image.Resampling.HAMMING,
    InterpolationMode.LANCZOS: Image.Resampling.LANCZOS,
}
# Pillow's numbers, which older code gives
_NUMBERS = {int(number): mode for mode, number in reversed(_FILTERS.items())}
FOR_ROTATION = (
    InterpolationMode.NEAREST,
    InterpolationMode.BILINEAR,
    InterpolationMode.BICUBIC,
)


def as_mode(op: str, value: Any, known: Any = InterpolationMode) -> InterpolationMode:
    """An interpolation as a mode; Pillow's numbers are taken, too.

    Raises:
        ArgumentError: another value, or one that is not ``known``.
    """
    number = arguments.as_integer(value)
    mode = value if number is None else _NUMBERS.get(number)
    if not isinstance(mode, InterpolationMode) or mode not in known:
        names = ", ".join(mode.name for mode in known)
        expected = f"interpolation one of InterpolationMode.{{{names}}}"
        raise ArgumentError(message(op, expected, quoted(value)))
    return mode


def filter_of(mode: InterpolationMode) -> Image.Resampling:
    """Pillow's filter of this name."""
    return _FILTERS[mode]
