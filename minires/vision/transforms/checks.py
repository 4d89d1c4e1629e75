"""What transforms take: pictures, sizes, ranges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from minires import arguments
from minires.errors import ArgumentError, DataError, DTypeError, ShapeError, message, quoted
from minires.tensor import Tensor

BEFORE = "Put it before ToTensor()."


def picture(op: str, img: Any, channels: bool = False) -> Any:
    """``img``, if it is a PIL image or a tensor (..., h, w), with ``channels`` (..., c, h, w).

    Raises:
        DTypeError: anything else; an array, which could be (h, w, c) or (c, h, w), among it.
        ShapeError: a tensor of fewer dimensions, or of no pixels.
        DataError: a picture that Pillow has not read yet, and cannot.
    """
    if isinstance(img, Tensor):
        least = 3 if channels else 2
        if img.ndim < least or 0 in img.shape:
            shape = "(..., c, h, w)" if channels else "(..., h, w)"
            raise ShapeError(message(op, f"a tensor {shape} with pixels", f"shape {img.shape}"))
        return img
    return pil(op, img, "a PIL image or a tensor (..., h, w)")


def pil(op: str, img: Any, expected: str = "a PIL image") -> Image.Image:
    """``img``, if it is a PIL image, and read.

    Raises:
        DTypeError, DataError: as :func:`picture`; a tensor, too.
    """
    if not isinstance(img, Image.Image):
        fix = BEFORE if isinstance(img, Tensor) else ""
        if hasattr(img, "__array_interface__"):
            fix = "Make an array (h, w, c) of uint8 a picture: PIL.Image.fromarray(array)."
        raise DTypeError(message(op, expected, quoted(img), fix=fix))
    if not img.width or not img.height:
        raise ShapeError(message(op, "a picture with pixels", f"size {img.size}"))
    try:
        img.load()
    except Exception as error:  # what decoders say of damaged files is of many kinds
        name = getattr(img, "filename", "") or "the picture"
        raise DataError(message(op, f"to read {name}", error)) from error
    return img


def tensor(op: str, img: Any, fix: str = "Put it after ToTensor().") -> Tensor:
    """``img``, if it is a tensor (..., c, h, w) of float.

    Raises:
        DTypeError, ShapeError: anything else.
    """
    if not isinstance(img, Tensor):
        raise DTypeError(message(op, "a tensor (..., c, h, w)", quoted(img), fix=fix))
    if img.dtype.kind != "f":
        raise DTypeError(message(op, "a tensor of floats", img.dtype))
    if img.ndim < 3:
        raise ShapeError(message(op, "a tensor (..., c, h, w)", f"shape {img.shape}"))
    return img


def dimensions(img: Any) -> tuple[int, int, int]:
    """Channels, height and width of a picture or tensor."""
    if isinstance(img, Tensor):
        return (1 if img.ndim == 2 else img.shape[-3]), img.shape[-2], img.shape[-1]
    return len(img.getbands()), img.height, img.width


def size(op: str, value: Any, name: str = "size") -> int | tuple[int, ...]:
    """One integer for the shorter side, or (h, w); a sequence of one counts as one.

    Raises:
        ArgumentError: anything else.
    """
    if arguments.as_integer(value) is not None:
        return arguments.integer(op, name, value, 1)
    whole = arguments.sizes(op, name, value, 1)
    if len(whole) not in (1, 2):
        raise ArgumentError(message(op, f"{name} an integer or (h, w)", quoted(value)))
    return whole


def both(op: str, value: Any, name: str = "size") -> tuple[int, int]:
    """:func:`size` as (h, w), of which one integer is both.

    Raises:
        ArgumentError: no such size.
    """
    whole = size(op, value, name)
    whole = (whole,) if isinstance(whole, int) else whole
    return whole[0], whole[-1]


def interval(
    op: str, name: str, value: Any, least: float | None = None, above: float | None = None
) -> tuple[float, float]:
    """(lowest, highest), in order.

    Raises:
        ArgumentError: anything else.
    """
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise ArgumentError(message(op, f"{name} as (lowest, highest)", quoted(value)))
    low, high = (arguments.number(op, name, end, least=least, above=above) for end in value)
    if low > high:
        raise ArgumentError(message(op, f"{name} as (lowest, highest)", quoted(value)))
    return low, high


def probability(op: str, value: Any) -> float:
    """A number in 0..1.

    Raises:
        ArgumentError: anything else.
    """
    return arguments.number(op, "p", value, least=0, most=1)


def check_room(op: str, img: Any, height: int, width: int) -> None:
    """Refuse a picture of this height and width that memory has no room for."""
    channels = dimensions(img)[0]
    entry = img.dtype.itemsize if isinstance(img, Tensor) else 4  # Pillow's largest pixel
    arguments.check_memory(op, channels * height * width * entry, f"{height} x {width} pixels")
    if max(height, width) > arguments.MOST:
        raise ArgumentError(message(op, f"at most {arguments.MOST} pixels", f"{height} x {width}"))


def fill(op: str, value: Any, name: str = "fill") -> float:
    """The value of a pixel in one band.

    Raises:
        ArgumentError: anything else.
    """
    return arguments.number(op, name, value, least=-arguments.MOST, most=arguments.MOST)


def per_band(op: str, name: str, value: Any, bands: int) -> tuple[float, ...]:
    """A number for each band: one for all, or as many as there are.

    Raises:
        ArgumentError: anything else.
    """
    many: Sequence[Any] = value if isinstance(value, tuple | list) else [value] * bands
    numbers = tuple(fill(op, entry, name) for entry in many)
    if len(numbers) == 1:
        numbers *= bands
    if len(numbers) != bands:
        expected = f"{name} a number, or one for each of {bands} bands"
        raise ArgumentError(message(op, expected, quoted(value)))
    return numbers


def colour(op: str, value: Any, picture: Image.Image) -> Any:
    """A fill as Pillow takes it: of one band a number, of several a tuple; whole, but for floats.

    Raises:
        ArgumentError: as :func:`per_band`.
    """
    values = per_band(op, "fill", value, len(picture.getbands()))
    if picture.mode != "F":
        values = tuple(int(number) for number in values)
    return values if len(values) > 1 else values[0]
