"""Between pictures and tensors; values of tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

import minires.ops as ops
from minires import arguments
from minires.errors import ArgumentError, DTypeError, ShapeError, message, quoted
from minires.tensor import Tensor, as_dtype, from_numpy
from minires.tensor import tensor as make_tensor
from minires.vision.transforms import checks

# What Pillow calls an image of so many channels of a dtype, and of which other modes it may be.
_OF_BYTES = {1: ("L",), 2: ("LA",), 3: ("RGB", "YCbCr", "HSV", "LAB"), 4: ("RGBA", "CMYK", "RGBX")}
_OF_ONE = {"uint8": "L", "int16": "I;16", "uint16": "I;16", "int32": "I", "float32": "F"}
_MODES = frozenset((*_OF_ONE.values(), *(mode for known in _OF_BYTES.values() for mode in known)))
_DTYPES = ("uint8", "int8", "int16", "int32", "int64", "float32", "float64")


def to_tensor(pic: Any) -> Tensor:
    """A picture as a tensor (c, h, w).

    Bytes 0..255 become float32 in 0..1; what has other values keeps them: 16-bit pictures become
    integers, floats stay floats. An array may be (h, w), too.

    Args:
        pic: a PIL image, or an array (h, w, c) or (h, w).

    Raises:
        DTypeError: neither of them, or an array of no numbers.
        ShapeError: an array of another number of dimensions.
        DataError: a file that Pillow cannot read.

    >>> from PIL import Image
    >>> to_tensor(Image.new("L", (2, 1), 51)).tolist()
    [[[0.20000000298023224, 0.20000000298023224]]]
    """
    op, expected = "to_tensor", "a PIL image or an array (h, w, c)"
    if isinstance(pic, np.ndarray):
        if pic.ndim not in (2, 3):
            raise ShapeError(message(op, "an array (h, w, c) or (h, w)", f"shape {pic.shape}"))
        if pic.dtype.name not in (*_DTYPES, "uint16"):
            raise DTypeError(message(op, f"an array of {', '.join(_DTYPES)}", pic.dtype))
        pixels = _planes(pic)
    elif isinstance(pic, Tensor):
        raise DTypeError(message(op, expected, "a Tensor", fix="It is one already."))
    else:
        picture = checks.pil(op, pic, expected)
        pixels = _planes(np.array(picture))
        if picture.mode == "1":
            pixels = pixels.astype(np.uint8) * np.uint8(255)
    if pixels.dtype == np.uint8:
        return from_numpy(np.divide(pixels, np.float32(255), dtype=np.float32, order="C"))
    return from_numpy(np.ascontiguousarray(pixels))


def pil_to_tensor(pic: Any) -> Tensor:
    """A PIL image as a tensor (c, h, w) of the same values: uint8 for most pictures.

    Raises:
        DTypeError: no PIL image.
        DataError: a file that Pillow cannot read.
    """
    return from_numpy(np.ascontiguousarray(_planes(np.array(checks.pil("pil_to_tensor", pic)))))


def _planes(pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(h, w, c) or (h, w) as (c, h, w). 16-bit pictures become int32: no tensor has uint16."""
    pixels = pixels.astype(np.int32) if pixels.dtype == np.uint16 else pixels
    return (pixels if pixels.ndim == 3 else pixels[:, :, None]).transpose(2, 0, 1)


def to_pil_image(pic: Any, mode: str | None = None) -> Image.Image:
    """A tensor (c, h, w) or (h, w), or an array (h, w, c) or (h, w), as a PIL image.

    Floats are multiplied by 255 and rounded down to bytes, unless mode F asks for floats.

    Args:
        pic: 1 to 4 channels of bytes, or of floats in 0..1; or one of int16, int32 or float32.
        mode: Pillow's name of what the channels are; by default L, LA, RGB or RGBA.

    Raises:
        DTypeError, ShapeError: no tensor or array, or one that no picture can have.
        ArgumentError: a mode that does not fit, or floats outside of 0..1.
    """
    op = "to_pil_image"
    pil_mode(op, mode)
    if isinstance(pic, Tensor):
        pixels = pic.detach().cpu().numpy()
        pixels = pixels.transpose(1, 2, 0) if pixels.ndim == 3 else pixels
    elif isinstance(pic, np.ndarray):
        pixels = pic
    else:
        raise DTypeError(message(op, "a tensor (c, h, w) or an array (h, w, c)", quoted(pic)))
    if pixels.ndim not in (2, 3):
        expected = "a tensor (c, h, w), an array (h, w, c), or (h, w)"
        raise ShapeError(message(op, expected, f"shape {pic.shape}"))
    if not pixels.size:
        raise ShapeError(message(op, "a picture with pixels", f"shape {pic.shape}"))
    pixels = pixels if pixels.ndim == 3 else pixels[:, :, None]
    if pixels.dtype.kind == "f" and mode != "F":
        pixels = _as_bytes(op, pixels)
    channels, dtype = pixels.shape[2], pixels.dtype.name
    one = channels == 1 and dtype in _OF_ONE
    if not one and not (channels in _OF_BYTES and dtype == "uint8"):
        expected = "1 to 4 channels of uint8, or one of int16, int32 or float32"
        raise DTypeError(message(op, expected, f"{channels} of {dtype}"))
    known = (_OF_ONE[dtype],) if one else _OF_BYTES[channels]
    chosen = known[0] if mode is None else mode
    if chosen not in known:
        expected = f"mode {' or '.join(known)} for {channels} channels of {dtype}"
        raise ArgumentError(message(op, expected, quoted(mode)))
    if chosen == "I;16":
        pixels = pixels.astype(np.uint16)
    pixels = np.ascontiguousarray(pixels[:, :, 0] if one else pixels)
    size = (pixels.shape[1], pixels.shape[0])
    return Image.frombytes(chosen, size, pixels.tobytes())


def _as_bytes(op: str, pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    scaled = pixels * pixels.dtype.type(255)
    low, high = scaled.min(), scaled.max()
    if not (low > -1 and high < 256):  # NaN, too
        got = f"{low / 255:.4g}..{high / 255:.4g}"
        fix = "Undo Normalize first: x * std + mean."
        raise ArgumentError(message(op, "floats in 0..1", got, fix=fix))
    return scaled.astype(np.uint8)


def pil_mode(op: str, mode: Any) -> str | None:
    """``mode``, if it is None or one that :func:`to_pil_image` makes.

    Raises:
        ArgumentError: anything else.
    """
    return None if mode is None else arguments.choice(f"mode of {op}", mode, _MODES)


def pixel_dtype(op: str, dtype: Any) -> np.dtype[Any]:
    """``dtype``, if pixels can have it.

    Raises:
        DTypeError: anything else.
    """
    found = as_dtype(dtype)
    if found.name not in _DTYPES:
        raise DTypeError(message(op, f"one of {', '.join(_DTYPES)}", quoted(dtype)))
    return found


def convert_image_dtype(image: Any, dtype: Any = "float32") -> Tensor:
    """Pixels in another dtype: floats are in 0..1, integers in 0..their largest.

    Floats become integers as ``x * (largest + 1 - 1e-3)``, rounded down; integers become larger
    ones by a factor and smaller ones by a division of powers of 2.

    Args:
        image: a tensor of any shape.
        dtype: a float or integer.

    Raises:
        DTypeError: no tensor, no dtype that pixels have, or float32 to int32 or int64, and float64
            to int64, which have not enough digits.
    """
    op = "convert_image_dtype"
    target = pixel_dtype(op, dtype)
    if not isinstance(image, Tensor) or image.dtype.name not in _DTYPES:
        expected = f"a tensor of {', '.join(_DTYPES)}"
        raise DTypeError(message(op, expected, quoted(image), fix="Use ToTensor() for pictures."))
    source = image.dtype
    if source == target:
        return image
    if source.kind == "f":
        if target.kind == "f":
            return ops.astype(image, target)
        if (source.itemsize, target.itemsize) in ((4, 4), (4, 8), (8, 8)):
            got = f"{source} to {target}"
            raise DTypeError(message(op, "floats with enough digits for the integers", got))
        return ops.astype(image * (float(np.iinfo(target).max) + 1 - 1e-3), target)
    most = np.iinfo(source).max
    if target.kind == "f":
        return ops.astype(image, target) / most
    pixels, larger = image.numpy(), int(np.iinfo(target).max)
    if most > larger:
        return from_numpy((pixels // ((most + 1) // (larger + 1))).astype(target))
    return from_numpy(pixels.astype(target) * target.type((larger + 1) // (int(most) + 1)))


def statistics(op: str, mean: Any, std: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Means and standard deviations, a number for each channel.

    Raises:
        ArgumentError: lengths differ, a value is not finite, or a std is 0.
    """
    found = []
    for name, values in (("mean", mean), ("std", std)):
        if arguments.as_number(values) is not None:
            fix = f"For grey images, a tuple of one: ({quoted(values)},)."
            expected = f"{name} a number for each channel"
            raise ArgumentError(message(op, expected, quoted(values), fix=fix))
        values = values.tolist() if isinstance(values, Tensor | np.ndarray) else values
        listed = arguments.listed(op, f"{name} a number for each channel", values)
        found.append(tuple(float(arguments.number(op, name, value)) for value in listed))
    if len(found[0]) != len(found[1]) or not found[0]:
        got = f"{len(found[0])} and {len(found[1])}"
        raise ArgumentError(message(op, "one mean and one std per channel", got))
    if 0 in found[1]:
        fix = "A channel with std 0 is constant: use std 1 for it."
        raise ArgumentError(message(op, "std other than 0", quoted(found[1]), fix=fix))
    return found[0], found[1]


def normalize(tensor: Any, mean: Any, std: Any, inplace: bool = False) -> Tensor:
    """``(x - mean) / std`` for each channel of a tensor (..., c, h, w) of floats.

    Args:
        tensor: what :func:`to_tensor` gives.
        mean, std: a number for each channel; one for all channels is taken, too.
        inplace: write into ``tensor``.

    Raises:
        DTypeError, ShapeError: no tensor of floats, or another number of channels.
        ArgumentError: see :func:`statistics`.
    """
    op = "normalize"
    x = checks.tensor(op, tensor)
    means, stds = statistics(op, mean, std)
    if len(means) not in (1, x.shape[-3]):
        fix = "Grayscale(3) makes three channels of one."
        expected = f"a tensor of {len(means)} channels, as mean and std have"
        raise ShapeError(message(op, expected, x.shape[-3], f"shape {x.shape}", fix))
    arguments.flag(op, "inplace", inplace)
    middle, width = (
        make_tensor(np.array(values, x.dtype)[:, None, None], device=x.device)
        for values in (means, stds)
    )
    if not inplace:
        return (x - middle) / width
    x -= middle
    x /= width
    return x


def erase(img: Any, i: int, j: int, h: int, w: int, v: Any, inplace: bool = False) -> Tensor:
    """A tensor (..., c, h, w) with values ``v`` in a rectangle.

    Args:
        img: the tensor.
        i, j: the rectangle's first row and column.
        h, w: its height and width.
        v: a number, or a tensor that broadcasts to (..., c, h, w).
        inplace: write into ``img``.

    Raises:
        DTypeError, ShapeError: no tensor, or values that do not fit.
        ArgumentError: a negative place or size.
    """
    op = "erase"
    if not isinstance(img, Tensor):
        fix = "Put it after ToTensor()."
        raise DTypeError(message(op, "a tensor (..., c, h, w)", quoted(img), fix=fix))
    if img.ndim < 3:
        raise ShapeError(message(op, "a tensor (..., c, h, w)", f"shape {img.shape}"))
    i, j = arguments.integer(op, "i", i, 0), arguments.integer(op, "j", j, 0)
    h, w = arguments.integer(op, "h", h, 0), arguments.integer(op, "w", w, 0)
    erased = img if arguments.flag(op, "inplace", inplace) else img.clone()
    erased[..., i : i + h, j : j + w] = v
    return erased
