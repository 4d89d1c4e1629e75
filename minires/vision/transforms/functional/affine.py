"""Pictures turned, moved, scaled and sheared at once."""

from __future__ import annotations

import math
from typing import Any

from PIL import Image

from minires import arguments
from minires.errors import ArgumentError, message, quoted
from minires.vision.transforms import checks
from minires.vision.transforms.functional.moving import rotate_arguments
from minires.vision.transforms.interpolation import InterpolationMode, filter_of


def affine(
    img: Any,
    angle: float,
    translate: Any,
    scale: float,
    shear: Any,
    interpolation: Any = InterpolationMode.NEAREST,
    fill: Any = None,
    center: Any = None,
) -> Image.Image:
    """A PIL image, sheared, turned and scaled about a point, then moved; its size stays.

    Args:
        img: the picture.
        angle: in degrees, clockwise.
        translate: pixels to the right and down.
        scale: how much larger it becomes.
        shear: degrees along x; or (along x, along y).
        interpolation: nearest, bilinear or bicubic.
        fill: the value, or one for each band, of what was outside; 0 by default.
        center: (x, y) of the point, from the top left corner; the middle by default.

    Raises:
        DTypeError: no PIL image.
        ArgumentError: an argument that is none of those.
    """
    op = "affine"
    angle = arguments.number(op, "angle", angle, least=-arguments.MOST, most=arguments.MOST)
    scale = arguments.number(op, "scale", scale, least=1e-6, most=1e6)
    mode, middle = rotate_arguments(op, interpolation, False, center, fill)
    move, slant = _pair(op, "translate", translate), _shears(op, shear)
    picture = checks.pil(op, img)
    if middle is None:
        middle = picture.width * 0.5, picture.height * 0.5
    matrix = inverse(middle, angle, move, scale, slant)
    colour = checks.colour(op, 0 if fill is None else fill, picture)
    affine = Image.Transform.AFFINE
    return picture.transform(picture.size, affine, matrix, filter_of(mode), fillcolor=colour)


def _pair(op: str, name: str, value: Any) -> tuple[float, float]:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise ArgumentError(message(op, f"{name} as (x, y)", quoted(value)))
    x, y = (checks.fill(op, entry, name) for entry in value)
    return x, y


def _shears(op: str, shear: Any) -> tuple[float, float]:
    """Degrees along x and y, neither of which may lay the picture flat."""
    if arguments.as_number(shear) is not None:
        shear = (shear, 0.0)
    elif isinstance(shear, tuple | list) and len(shear) == 1:
        shear = (*shear, *shear)
    x, y = _pair(op, "shear", shear)
    if min(abs(math.cos(math.radians(degrees))) for degrees in (x, y)) < 1e-6:
        raise ArgumentError(message(op, "shear of less than 90 degrees", quoted(shear)))
    return x, y


def inverse(
    center: tuple[float, float],
    angle: float,
    translate: tuple[float, float],
    scale: float,
    shear: tuple[float, float],
) -> tuple[float, ...]:
    """Where a pixel of the result comes from: (a, b, c, d, e, f) for x' = a x + b y + c and
    y' = d x + e y + f.

    Forward, with the centre C and the move T, it is T C R(angle) Sy(shear) Sx(shear) scale C^-1.
    """
    turn, (x, y) = math.radians(angle), map(math.radians, shear)
    a = math.cos(turn - y) / math.cos(y)
    b = -math.cos(turn - y) * math.tan(x) / math.cos(y) - math.sin(turn)
    c = math.sin(turn - y) / math.cos(y)
    d = -math.sin(turn - y) * math.tan(x) / math.cos(y) + math.cos(turn)
    # the determinant of R Sy Sx is 1
    m = [d / scale, -b / scale, -c / scale, a / scale]
    left, up = -center[0] - translate[0], -center[1] - translate[1]
    along = m[0] * left + m[1] * up + center[0]
    down = m[2] * left + m[3] * up + center[1]
    return m[0], m[1], along, m[2], m[3], down
