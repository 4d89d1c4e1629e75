"""A picture in a file as a network is to see it: upright, red, green and blue, 8 bits each."""

from __future__ import annotations

import os

import numpy as np
from PIL import Image, ImageOps

from minires.errors import DataError, message
from minires.files import as_path

FIX = "Replace or remove it, or leave such files out: ImageFolder(..., skip_unreadable=True)."


def open_picture(path: str | os.PathLike[str]) -> Image.Image:
    """The picture in a file, as a PIL image of mode RGB.

    Grey pictures get three equal channels; palettes are looked up; CMYK becomes RGB; transparency
    is dropped. As torchvision's loader does it, but for two things: a picture whose EXIF data say
    that the camera was held sideways is turned upright, as viewers show it; and 16 bits per pixel
    are scaled to 8 (Pillow alone makes all but the darkest 256 of 65,536 levels white).

    Raises:
        ArgumentError: no path.
        DataError: no file, or one that Pillow cannot read whole; names the file and the reason.
    """
    path = as_path("open_picture", path)
    if not path.is_file():
        got = "a folder" if path.is_dir() else "no such file"
        if path.exists() and not path.is_dir():
            got = "no ordinary file"
        raise DataError(message(str(path), "a picture", got))
    try:
        with path.open("rb") as stream, Image.open(stream) as image:
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return _rgb(image)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except Exception as error:  # what decoders say of damaged files is of many kinds
        reason = str(error).replace(str(path), path.name) or type(error).__name__
        if isinstance(error, Image.UnidentifiedImageError):
            reason = "a file that is none, or of a kind that Pillow does not know"
        raise DataError(message(str(path), "a picture", reason, fix=FIX)) from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image.copy()  # of the memory alone: the file will be closed
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")  # else Pillow warns
    if image.mode.startswith("I"):
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > 65535:
            got = f"{levels.min()}..{levels.max()}"
            raise DataError(message("picture", "values of 8 or 16 bits", got, fix=FIX))
        image = Image.fromarray(((levels * 255 + 32767) // 65535).astype(np.uint8))
    elif image.mode == "F":
        got = "floats, whose range no file says"
        raise DataError(message("picture", "values of 8 or 16 bits", got, fix=FIX))
    return image.convert("RGB")
