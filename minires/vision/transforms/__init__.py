"""What is done to a picture: cut, resized, mirrored, coloured, made a tensor.

Each class takes torchvision's arguments and is called with a PIL image; those that only move
pixels take a tensor (..., h, w) as well. Those that draw do so in ``get_params``, and then call the
function of :mod:`minires.vision.transforms.functional` that has no chance in it. Draws come from
the global generator (:func:`minires.manual_seed`); in a :class:`~minires.data.DataLoader` they
depend on (seed, epoch, index) alone, see :mod:`minires.data.sample`.
"""

from minires.vision.transforms import functional
from minires.vision.transforms.base import Compose, Lambda, Transform
from minires.vision.transforms.chance import RandomApply, RandomChoice, RandomOrder
from minires.vision.transforms.colour import ColorJitter, Grayscale, RandomGrayscale
from minires.vision.transforms.conversion import (
    ConvertImageDtype,
    Normalize,
    PILToTensor,
    ToPILImage,
    ToTensor,
)
from minires.vision.transforms.erasing import RandomErasing
from minires.vision.transforms.geometry import (
    CenterCrop,
    FiveCrop,
    Pad,
    RandomCrop,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomVerticalFlip,
    Resize,
    TenCrop,
)
from minires.vision.transforms.interpolation import InterpolationMode
from minires.vision.transforms.turning import RandomAffine, RandomRotation

__all__ = [
    "CenterCrop",
    "ColorJitter",
    "Compose",
    "ConvertImageDtype",
    "FiveCrop",
    "Grayscale",
    "InterpolationMode",
    "Lambda",
    "Normalize",
    "PILToTensor",
    "Pad",
    "RandomAffine",
    "RandomApply",
    "RandomChoice",
    "RandomCrop",
    "RandomErasing",
    "RandomGrayscale",
    "RandomHorizontalFlip",
    "RandomOrder",
    "RandomResizedCrop",
    "RandomRotation",
    "RandomVerticalFlip",
    "Resize",
    "TenCrop",
    "ToPILImage",
    "ToTensor",
    "Transform",
    "functional",
]
