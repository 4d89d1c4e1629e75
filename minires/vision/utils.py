"""Many pictures as one, to be looked at: torchvision's ``make_grid`` and ``save_image``."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from minires import arguments
from minires.errors import ArgumentError, DTypeError, ShapeError, message, quoted
from minires.files import as_path, write_atomic
from minires.tensor import Tensor, from_numpy

__all__ = ["make_grid", "save_image"]


def make_grid(
    tensor: Any,
    nrow: int = 8,
    padding: int = 2,
    normalize: bool = False,
    value_range: tuple[float, float] | None = None,
    scale_each: bool = False,
    pad_value: float = 0.0,
) -> Tensor:
    """Pictures of one size side by side, as one.

    Args:
        tensor: pictures (n, c, h, w), a list of (c, h, w), or one; of one channel become three.
        nrow: pictures in a row.
        padding: pixels between them, and around.
        normalize: map their values to 0..1: those of ``value_range``, what is beyond cut off; or
            the smallest and largest that there are.
        value_range: (lowest, highest).
        scale_each: map each picture by its own smallest and largest value.
        pad_value: of what is between them.

    Returns:
        (c, rows * (h + padding) + padding, columns * (w + padding) + padding); of one picture,
        that picture.

    Raises:
        DTypeError, ShapeError: no tensor of pictures, or pictures that differ in size.
        ArgumentError: an argument that is none of those.

    >>> import minires as mr
    >>> make_grid(mr.zeros(5, 3, 4, 6), nrow=3).shape
    (3, 14, 26)
    """
    op = "make_grid"
    nrow = arguments.integer(op, "nrow", nrow, 1)
    padding = arguments.integer(op, "padding", padding, 0)
    pad_value = arguments.number(op, "pad_value", pad_value)
    pictures = _pictures(op, tensor)  # (n, c, h, w)
    arguments.flag(op, "scale_each", scale_each)
    if arguments.flag(op, "normalize", normalize):
        pictures = _normalized(op, pictures, value_range, scale_each)
    n, c, h, w = pictures.shape
    if n == 1:
        return from_numpy(pictures[0])
    columns = min(nrow, n)
    rows = -(-n // columns)
    height, width = rows * (h + padding) + padding, columns * (w + padding) + padding
    arguments.check_memory(op, c * height * width * pictures.itemsize, f"{height} x {width} pixels")
    grid = np.full((c, height, width), pad_value, pictures.dtype)
    for k, picture in enumerate(pictures):
        top = padding + k // columns * (h + padding)
        left = padding + k % columns * (w + padding)
        grid[:, top : top + h, left : left + w] = picture
    return from_numpy(grid)


def _pictures(op: str, tensor: Any) -> np.ndarray[Any, Any]:
    """Values (n, c, h, w) of a tensor or of a list of them, with three channels in place of one."""
    many = list(tensor) if isinstance(tensor, list | tuple) else [tensor]
    if not many or not all(isinstance(one, Tensor) for one in many):
        expected = "a tensor of pictures (n, c, h, w), or a list of pictures (c, h, w)"
        raise DTypeError(message(op, expected, quoted(tensor)))
    if len({(one.shape, one.dtype) for one in many}) > 1:
        got = " and ".join(sorted({f"{one.shape} {one.dtype}" for one in many})[:2])
        raise ShapeError(message(op, "pictures of one size and dtype", got))
    if many[0].dtype.kind not in "fu":
        raise DTypeError(message(op, "pictures of floats or uint8", many[0].dtype))
    arrays = [one.detach().cpu().numpy() for one in many]
    whole = np.stack(arrays) if isinstance(tensor, list | tuple) else arrays[0]
    if not isinstance(tensor, list | tuple) and whole.ndim in (2, 3):
        whole = whole.reshape(1, -1, *whole.shape[-2:])
    if whole.ndim != 4 or 0 in whole.shape:
        raise ShapeError(message(op, "pictures (n, c, h, w) with pixels", f"shape {whole.shape}"))
    return whole.repeat(3, axis=1) if whole.shape[1] == 1 else whole


def _normalized(
    op: str, pictures: np.ndarray[Any, Any], value_range: Any, scale_each: bool
) -> np.ndarray[Any, Any]:
    if pictures.dtype.kind != "f":
        raise DTypeError(message(op, "floats to normalize", pictures.dtype))
    if value_range is None:
        axes = (1, 2, 3) if scale_each else None
        low, high = (f(pictures, axis=axes, keepdims=True) for f in (np.min, np.max))
    else:
        if not isinstance(value_range, tuple | list) or len(value_range) != 2:
            expected = "value_range as (lowest, highest)"
            raise ArgumentError(message(op, expected, quoted(value_range)))
        ends = [arguments.number(op, "value_range", end) for end in value_range]
        low, high = (np.asarray(end) for end in ends)
    dtype = pictures.dtype
    span = np.maximum(high.astype(np.float64) - low, 1e-5).astype(dtype)
    low, high = low.astype(dtype), high.astype(dtype)
    return (np.clip(pictures, low, high) - low) / span


def save_image(
    tensor: Any, fp: str | os.PathLike[str], format: str | None = None, **kwargs: Any
) -> None:
    """Write pictures side by side into a file, values 0..1 as bytes 0..255, rounded.

    Args:
        tensor, kwargs: of :func:`make_grid`.
        fp: the file; what was there is replaced in one step.
        format: Pillow's name of the format, by default from the file's ending.

    Raises:
        DTypeError, ShapeError, ArgumentError: as :func:`make_grid`; a format that Pillow does not
            write.
        CheckpointError: the file cannot be written.
    """
    op = "save_image"
    path = as_path(op, fp)
    arguments.taken(op, make_grid, (tensor,), kwargs)
    grid = make_grid(tensor, **kwargs).numpy()
    scaled = grid if grid.dtype.kind == "f" else grid / np.float32(255)
    bytes_ = np.clip(np.nan_to_num(scaled) * 255 + 0.5, 0, 255).astype(np.uint8)
    kind = _format(op, path, format)
    buffer = io.BytesIO()
    if bytes_.shape[0] not in (2, 3, 4):
        raise ShapeError(message(op, "pictures of 1 to 4 channels", bytes_.shape[0]))
    Image.fromarray(np.ascontiguousarray(bytes_.transpose(1, 2, 0))).save(buffer, kind)
    write_atomic(path, buffer.getvalue())


def _format(op: str, path: Path, name: Any) -> str:
    Image.init()
    if name is None:
        known = Image.registered_extensions()
        name = known.get(path.suffix.lower(), "")
        if name not in Image.SAVE:
            expected = "a file that ends in .png, .jpg or another of Pillow's"
            raise ArgumentError(message(op, expected, path.name))
        return name
    return arguments.choice("format", name.upper() if isinstance(name, str) else name, Image.SAVE)
