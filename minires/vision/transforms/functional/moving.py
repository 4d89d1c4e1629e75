"""Pixels moved: cut, padded, mirrored, resized, turned."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageOps

import minires.ops as ops
from minires import arguments
from minires.errors import ArgumentError, ShapeError, message, quoted
from minires.tensor import Tensor
from minires.vision.transforms import checks
from minires.vision.transforms.interpolation import (
    FOR_ROTATION,
    InterpolationMode,
    as_mode,
    filter_of,
)

BILINEAR, NEAREST = InterpolationMode.BILINEAR, InterpolationMode.NEAREST
_MODES = ("constant", "edge", "reflect", "symmetric")


def get_dimensions(img: Any) -> list[int]:
    """[channels, height, width] of a PIL image or a tensor (..., h, w).

    Raises:
        DTypeError: neither.
    """
    return list(checks.dimensions(checks.picture("get_dimensions", img)))


def get_image_size(img: Any) -> list[int]:
    """[width, height] of a PIL image or a tensor (..., h, w), as Pillow orders them.

    Raises:
        DTypeError: neither.
    """
    _, height, width = checks.dimensions(checks.picture("get_image_size", img))
    return [width, height]


def get_image_num_channels(img: Any) -> int:
    """How many channels a PIL image or a tensor (..., h, w) has.

    Raises:
        DTypeError: neither.
    """
    return checks.dimensions(checks.picture("get_image_num_channels", img))[0]


def resize(
    img: Any,
    size: Any,
    interpolation: Any = BILINEAR,
    max_size: int | None = None,
    antialias: bool | None = True,
) -> Image.Image:
    """A PIL image in another size.

    Args:
        img: the picture.
        size: (h, w); or one integer for the shorter side, the longer one in proportion.
        interpolation: how pixels between pixels are found.
        max_size: at most so many pixels on the longer side; with one integer as size only.
        antialias: taken so that torchvision's code runs. Pillow always averages over all pixels
            that a new one covers, as torchvision does with PIL images.

    Raises:
        DTypeError: no PIL image.
        ArgumentError: a size or an interpolation that there is not.
    """
    op = "resize"
    wanted, longest = resize_arguments(op, size, max_size, antialias)
    mode = as_mode(op, interpolation)
    picture = checks.pil(op, img)
    height, width = _resized(wanted, longest, picture.height, picture.width)
    checks.check_room(op, picture, height, width)
    if isinstance(wanted, int) and (width, height) == picture.size:
        return picture
    return picture.resize((width, height), filter_of(mode))


def resize_arguments(
    op: str, size: Any, max_size: Any, antialias: Any
) -> tuple[int | tuple[int, ...], int | None]:
    """The size and largest size that :func:`resize` is given; a sequence of one counts as one.

    Raises:
        ArgumentError: as :func:`resize`.
    """
    wanted = checks.size(op, size)
    if isinstance(wanted, tuple) and len(wanted) == 1:
        wanted = wanted[0]
    if antialias is not None:
        arguments.flag(op, "antialias", antialias)
    if max_size is None:
        return wanted, None
    if not isinstance(wanted, int):
        expected = "max_size with one integer as size"
        raise ArgumentError(message(op, expected, f"size {quoted(size)}"))
    return wanted, arguments.integer(op, "max_size", max_size, wanted + 1)


def _resized(
    wanted: int | tuple[int, ...], longest: int | None, height: int, width: int
) -> tuple[int, int]:
    if not isinstance(wanted, int):
        return wanted[0], wanted[1]
    short, long = min(height, width), max(height, width)
    new_short, new_long = wanted, wanted * long // short
    if longest is not None and new_long > longest:
        new_short, new_long = longest * new_short // new_long, longest
    new_short = max(new_short, 1)
    return (new_short, new_long) if height <= width else (new_long, new_short)


def crop(img: Any, top: int, left: int, height: int, width: int) -> Any:
    """A rectangle of a PIL image or a tensor (..., h, w); black or 0 where it is outside.

    Args:
        img: the picture.
        top, left: its first row and column, which may be negative.
        height, width: its size.

    Raises:
        DTypeError, ShapeError: no picture.
        ArgumentError: a place or size that is no integer.
    """
    op = "crop"
    picture = checks.picture(op, img)
    top = arguments.integer(op, "top", top, -arguments.MOST)
    left = arguments.integer(op, "left", left, -arguments.MOST)
    height = arguments.integer(op, "height", height, 1)
    width = arguments.integer(op, "width", width, 1)
    checks.check_room(op, picture, height, width)
    if not isinstance(picture, Tensor):
        return picture.crop((left, top, left + width, top + height))
    h, w = picture.shape[-2:]
    inside = picture[
        ...,
        min(max(top, 0), h) : min(max(top + height, 0), h),
        min(max(left, 0), w) : min(max(left + width, 0), w),
    ]
    if inside.shape[-2:] == (height, width):
        return inside
    above, before = min(max(-top, 0), height), min(max(-left, 0), width)
    below, behind = height - above - inside.shape[-2], width - before - inside.shape[-1]
    return ops.pad(inside, (before, behind, above, below))


def center_crop(img: Any, output_size: Any) -> Any:
    """The middle of a PIL image or a tensor (..., h, w); black or 0 is added where it is smaller.

    Args:
        img: the picture.
        output_size: (h, w), or one integer for both.

    Raises:
        DTypeError, ShapeError: no picture.
        ArgumentError: no size.
    """
    op = "center_crop"
    height, width = checks.both(op, output_size, "output_size")
    picture = checks.picture(op, img)
    checks.check_room(op, picture, height, width)
    _, h, w = checks.dimensions(picture)
    rows, columns = max(height - h, 0), max(width - w, 0)
    if rows or columns:
        widths = [columns // 2, rows // 2, (columns + 1) // 2, (rows + 1) // 2]
        picture = pad(picture, widths)
        h, w = h + rows, w + columns
    # Python rounds halves to even, and so does torchvision here
    return crop(picture, round((h - height) / 2), round((w - width) / 2), height, width)


def resized_crop(
    img: Any,
    top: int,
    left: int,
    height: int,
    width: int,
    size: Any,
    interpolation: Any = BILINEAR,
    antialias: bool | None = True,
) -> Image.Image:
    """:func:`crop`, then :func:`resize`.

    Raises:
        DTypeError: no PIL image.
        ArgumentError: as those two.
    """
    picture = checks.pil("resized_crop", img)
    part = crop(picture, top, left, height, width)
    return resize(part, size, interpolation, antialias=antialias)


def pad_arguments(op: str, padding: Any, fill: Any, padding_mode: Any) -> tuple[int, ...]:
    """The widths (left, top, right, bottom) that :func:`pad` is given.

    Raises:
        ArgumentError: as :func:`pad`.
    """
    widths = arguments.sizes(op, "padding", padding, None)
    if len(widths) not in (1, 2, 4):
        expected = "padding 1, 2 or 4 integers: all; left and right, top and bottom; each"
        raise ArgumentError(message(op, expected, quoted(padding)))
    arguments.choice(f"padding_mode of {op}", padding_mode, _MODES)
    for entry in fill if isinstance(fill, tuple | list) else (fill,):
        checks.fill(op, entry)
    return widths * (4 // len(widths))


def pad(img: Any, padding: Any, fill: Any = 0, padding_mode: str = "constant") -> Any:
    """A PIL image or a tensor (..., h, w) with a border.

    Args:
        img: the picture.
        padding: its width: one integer, (left and right, top and bottom), or (left, top, right,
            bottom); negative ones cut.
        fill: the border's value, or one for each band, if it is constant.
        padding_mode: ``"constant"``; ``"edge"`` repeats the outermost pixels, ``"reflect"`` mirrors
            at them, ``"symmetric"`` mirrors them, too.

    Raises:
        DTypeError, ShapeError: no picture.
        ArgumentError: an argument that is none of those, or a border that leaves nothing, or is
            wider than what there is to mirror.
    """
    op = "pad"
    left, top, right, bottom = pad_arguments(op, padding, fill, padding_mode)
    picture = checks.picture(op, img)
    bands, h, w = checks.dimensions(picture)
    height, width = h + top + bottom, w + left + right
    if height < 1 or width < 1:
        got = f"{height} x {width} pixels"
        raise ArgumentError(message(op, "a border that leaves pixels", got))
    checks.check_room(op, picture, height, width)
    if padding_mode == "constant":
        if isinstance(picture, Tensor):
            values = checks.per_band(op, "fill", fill, bands)
            if len(set(values)) > 1:
                raise ArgumentError(message(op, "one fill for a tensor", quoted(fill)))
            return ops.pad(picture, (left, right, top, bottom), values[0])
        framed = ImageOps.expand(
            picture, (left, top, right, bottom), checks.colour(op, fill, picture)
        )
        if picture.mode == "P":
            framed.putpalette(*_palette(picture))
        return framed
    rows = _places(op, h, top, bottom, padding_mode)
    columns = _places(op, w, left, right, padding_mode)
    if isinstance(picture, Tensor):
        return picture[..., rows, :][..., columns]
    pixels = np.asarray(picture)[rows[:, None], columns]
    padded = Image.frombytes(picture.mode, (width, height), _bytes(picture, pixels))
    if picture.mode == "P":
        padded.putpalette(*_palette(picture))
    return padded


def _bytes(picture: Image.Image, pixels: np.ndarray[Any, Any]) -> bytes:
    if picture.mode == "1":  # Pillow packs eight pixels into a byte
        return np.packbits(pixels, axis=1).tobytes()
    return pixels.tobytes()


def _palette(picture: Image.Image) -> tuple[Any, str]:
    mode = picture.palette.mode if picture.palette is not None else "RGB"
    return picture.getpalette(mode), mode


def _places(op: str, n: int, before: int, after: int, mode: str) -> np.ndarray[Any, Any]:
    """Which of n rows stands in each row of the padded picture, (before + n + after,)."""
    most = n - 1 if mode == "reflect" else n
    if mode != "edge" and max(before, after) > most:
        expected = f"a border of at most {most} for padding_mode={mode!r}"
        raise ArgumentError(message(op, expected, max(before, after), f"{n} pixels there"))
    kept = np.arange(max(-before, 0), n - max(-after, 0))
    return np.pad(kept, (max(before, 0), max(after, 0)), mode)  # type: ignore[call-overload]


def hflip(img: Any) -> Any:
    """A PIL image or a tensor (..., h, w), left and right exchanged.

    Raises:
        DTypeError, ShapeError: no picture.
    """
    picture = checks.picture("hflip", img)
    if isinstance(picture, Tensor):
        return picture[..., ::-1]
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def vflip(img: Any) -> Any:
    """A PIL image or a tensor (..., h, w), upside down.

    Raises:
        DTypeError, ShapeError: no picture.
    """
    picture = checks.picture("vflip", img)
    if isinstance(picture, Tensor):
        return picture[..., ::-1, :]
    return picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM)


def five_crop(img: Any, size: Any) -> tuple[Any, ...]:
    """The four corners of a picture (top left, top right, bottom left, bottom right), its middle.

    Args:
        img: a PIL image or a tensor (..., h, w).
        size: (h, w) of each, or one integer for both.

    Raises:
        DTypeError, ShapeError: no picture, or one that is smaller.
        ArgumentError: no size.
    """
    op = "five_crop"
    height, width = checks.both(op, size)
    picture = checks.picture(op, img)
    _, h, w = checks.dimensions(picture)
    if height > h or width > w:
        expected = f"a picture of at least {height} x {width} pixels"
        raise ShapeError(message(op, expected, f"{h} x {w}"))
    corners = [(top, left) for top in (0, h - height) for left in (0, w - width)]
    cut = [crop(picture, top, left, height, width) for top, left in corners]
    return (*cut, center_crop(picture, (height, width)))


def ten_crop(img: Any, size: Any, vertical_flip: bool = False) -> tuple[Any, ...]:
    """:func:`five_crop` of a picture and of its mirror image: the test of He et al. 2015, 3.4.

    Args:
        img, size: see there.
        vertical_flip: mirror top and bottom in place of left and right.

    Raises:
        DTypeError, ShapeError, ArgumentError: see there.
    """
    turned = vflip if arguments.flag("ten_crop", "vertical_flip", vertical_flip) else hflip
    return five_crop(img, size) + five_crop(turned(img), size)


def rotate(
    img: Any,
    angle: float,
    interpolation: Any = NEAREST,
    expand: bool = False,
    center: Any = None,
    fill: Any = None,
) -> Image.Image:
    """A PIL image turned by ``angle`` degrees, counter-clockwise.

    Args:
        img: the picture.
        angle: in degrees.
        interpolation: nearest, bilinear or bicubic.
        expand: make the picture large enough for all of the turned one.
        center: (x, y) to turn about, from the top left corner; the middle by default.
        fill: the value, or one for each band, of what was outside; 0 by default.

    Raises:
        DTypeError: no PIL image.
        ArgumentError: an argument that is none of those.
    """
    op = "rotate"
    angle = arguments.number(op, "angle", angle)
    mode, middle = rotate_arguments(op, interpolation, expand, center, fill)
    picture = checks.pil(op, img)
    colour = checks.colour(op, 0 if fill is None else fill, picture)
    return picture.rotate(angle, filter_of(mode), expand, middle, fillcolor=colour)


def rotate_arguments(
    op: str, interpolation: Any, expand: Any, center: Any, fill: Any
) -> tuple[Any, tuple[float, float] | None]:
    """The interpolation and the centre that :func:`rotate` is given.

    Raises:
        ArgumentError: as :func:`rotate`.
    """
    mode = as_mode(op, interpolation, FOR_ROTATION)
    arguments.flag(op, "expand", expand)
    if fill is not None:
        for entry in fill if isinstance(fill, tuple | list) else (fill,):
            checks.fill(op, entry)
    if center is None:
        return mode, None
    if not isinstance(center, tuple | list) or len(center) != 2:
        raise ArgumentError(message(op, "center as (x, y)", quoted(center)))
    x, y = (arguments.number(op, "center", entry) for entry in center)
    return mode, (x, y)
