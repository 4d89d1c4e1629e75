"""Colours of PIL images."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from minires import arguments
from minires.errors import ArgumentError, DTypeError, message, quoted
from minires.vision.transforms import checks

_GREY = ("L", "1", "I", "F")  # without hues


def _enhanced(op: str, enhancement: Any, img: Any, factor: Any) -> Image.Image:
    picture = checks.pil(op, img)
    amount = arguments.number(op, "factor", factor, least=0)
    try:
        return enhancement(picture).enhance(amount)
    except (ValueError, OSError) as error:  # modes that Pillow cannot blend
        fix = 'Convert it first: img.convert("RGB").'
        got = f"a picture of mode {picture.mode}"
        raise DTypeError(message(op, "a picture of bytes", got, fix=fix)) from error


def adjust_brightness(img: Any, brightness_factor: float) -> Image.Image:
    """A PIL image, ``brightness_factor`` times as bright: 0 is black, 1 the same.

    Raises:
        DTypeError: no PIL image, or of a mode that has no bytes.
        ArgumentError: a negative factor.
    """
    return _enhanced("adjust_brightness", ImageEnhance.Brightness, img, brightness_factor)


def adjust_contrast(img: Any, contrast_factor: float) -> Image.Image:
    """A PIL image between its mean grey (0) and itself (1), or beyond.

    Raises:
        DTypeError, ArgumentError: as :func:`adjust_brightness`.
    """
    return _enhanced("adjust_contrast", ImageEnhance.Contrast, img, contrast_factor)


def adjust_saturation(img: Any, saturation_factor: float) -> Image.Image:
    """A PIL image between its grey self (0) and itself (1), or beyond.

    Raises:
        DTypeError, ArgumentError: as :func:`adjust_brightness`.
    """
    return _enhanced("adjust_saturation", ImageEnhance.Color, img, saturation_factor)


def adjust_hue(img: Any, hue_factor: float) -> Image.Image:
    """A PIL image whose hues are turned by ``hue_factor`` of the colour circle; grey stays grey.

    Raises:
        DTypeError: no PIL image.
        ArgumentError: a factor outside of -0.5..0.5.
    """
    op = "adjust_hue"
    turn = arguments.number(op, "hue_factor", hue_factor, least=-0.5, most=0.5)
    picture = checks.pil(op, img)
    if picture.mode in _GREY:
        return picture
    hue, saturation, value = _converted(op, picture, "HSV").split()
    # bytes go around as hues do
    turned = np.array(hue) + np.array(int(turn * 255)).astype(np.uint8)
    merged = Image.merge("HSV", (Image.fromarray(turned), saturation, value))
    return _converted(op, merged, picture.mode)


def adjust_gamma(img: Any, gamma: float, gain: float = 1) -> Image.Image:
    """A PIL image with values ``255 * gain * (value / 255) ** gamma``.

    Raises:
        DTypeError: no PIL image.
        ArgumentError: a negative gamma.
    """
    op = "adjust_gamma"
    power = arguments.number(op, "gamma", gamma, least=0)
    factor = arguments.number(op, "gain", gain, least=-arguments.MOST, most=arguments.MOST)
    picture = checks.pil(op, img)
    # as bytes, which Pillow makes of what is beyond them
    table = [(255 + 1 - 1e-3) * factor * (step / 255.0) ** power for step in range(256)]
    coloured = _converted(op, picture, "RGB")
    mapped = coloured.point([min(max(int(value), 0), 255) for value in table] * 3)
    return _converted(op, mapped, picture.mode)


def invert(img: Any) -> Image.Image:
    """A PIL image with values ``255 - value``.

    Raises:
        DTypeError: no PIL image, or of a mode that has no bytes.
    """
    picture = checks.pil("invert", img)
    try:
        return ImageOps.invert(picture)
    except OSError as error:
        got = f"a picture of mode {picture.mode}"
        raise DTypeError(message("invert", "a picture of bytes", got)) from error


def to_grayscale(img: Any, num_output_channels: int = 1) -> Image.Image:
    """A PIL image without colours (ITU-R 601-2: 0.299 red, 0.587 green, 0.114 blue).

    Args:
        img: the picture.
        num_output_channels: 1 (mode L), or 3 equal ones (mode RGB).

    Raises:
        DTypeError: no PIL image.
        ArgumentError: another number of channels.
    """
    op = "to_grayscale"
    channels = grey_channels(op, num_output_channels)
    grey = _converted(op, checks.pil(op, img), "L")
    return grey if channels == 1 else Image.merge("RGB", (grey, grey, grey))


def grey_channels(op: str, num_output_channels: Any) -> int:
    """1 or 3.

    Raises:
        ArgumentError: another number.
    """
    channels = arguments.as_integer(num_output_channels)
    if channels not in (1, 3):
        got = quoted(num_output_channels)
        raise ArgumentError(message(op, "num_output_channels 1 or 3", got))
    return channels


rgb_to_grayscale = to_grayscale  # torchvision's other name of it


def _converted(op: str, picture: Image.Image, mode: str) -> Image.Image:
    try:
        return picture.convert(mode)
    except ValueError as error:
        got = f"one of mode {picture.mode}"
        raise DTypeError(message(op, f"a picture that Pillow makes {mode}", got)) from error
