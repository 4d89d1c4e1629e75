"""Pictures: data sets of them and what is done to them before a network sees them.

The names, signatures, folders and results are torchvision's, so code written for it runs with its
import changed: ``from minires.vision import datasets, transforms``. Pillow decodes, resizes, turns
and colours.
"""

from minires.vision import datasets, transforms, utils

__all__ = ["datasets", "transforms", "utils"]
