"""The functions behind the transforms: nothing random, every parameter given.

Names, arguments and results are torchvision's (``torchvision.transforms.functional``). Functions
that only move pixels take PIL images and tensors (..., h, w); those that compute new values take
PIL images, except for :func:`normalize`, :func:`erase` and :func:`convert_image_dtype`.
"""

from minires.vision.transforms.functional.affine import affine
from minires.vision.transforms.functional.colours import (
    adjust_brightness,
    adjust_contrast,
    adjust_gamma,
    adjust_hue,
    adjust_saturation,
    invert,
    rgb_to_grayscale,
    to_grayscale,
)
from minires.vision.transforms.functional.moving import (
    center_crop,
    crop,
    five_crop,
    get_dimensions,
    get_image_num_channels,
    get_image_size,
    hflip,
    pad,
    resize,
    resized_crop,
    rotate,
    ten_crop,
    vflip,
)
from minires.vision.transforms.functional.tensors import (
    convert_image_dtype,
    erase,
    normalize,
    pil_mode,
    pil_to_tensor,
    pixel_dtype,
    statistics,
    to_pil_image,
    to_tensor,
)
from minires.vision.transforms.interpolation import InterpolationMode

__all__ = [
    "InterpolationMode",
    "adjust_brightness",
    "adjust_contrast",
    "adjust_gamma",
    "adjust_hue",
    "adjust_saturation",
    "affine",
    "center_crop",
    "convert_image_dtype",
    "crop",
    "erase",
    "five_crop",
    "get_dimensions",
    "get_image_num_channels",
    "get_image_size",
    "hflip",
    "invert",
    "normalize",
    "pad",
    "pil_to_tensor",
    "resize",
    "resized_crop",
    "rgb_to_grayscale",
    "rotate",
    "ten_crop",
    "to_grayscale",
    "to_pil_image",
    "to_tensor",
    "vflip",
]
