"""Pictures of noise, to try code without data."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from minires import arguments
from minires.errors import ArgumentError, message, quoted
from minires.vision.datasets.vision import Function, VisionDataset


class FakeData(VisionDataset):
    """Pictures of noise, with classes drawn at random; the same ones each time.

    Args:
        size: how many.
        image_size: (c, h, w), with 1 or 3 channels.
        num_classes: how many classes.
        transform: called with the picture.
        target_transform: called with the class's number.
        random_offset: another data set for each number.

    Unlike torchvision's, whose noise is PyTorch's, all values of a byte are as frequent.

    Raises:
        ArgumentError: an argument that is none of those.
    """

    def __init__(
        self,
        size: int = 1000,
        image_size: Any = (3, 224, 224),
        num_classes: int = 10,
        transform: Function | None = None,
        target_transform: Function | None = None,
        random_offset: int = 0,
    ) -> None:
        super().__init__(transform=transform, target_transform=target_transform)
        op = "FakeData"
        self.size = arguments.integer(op, "size", size, 0)
        self.num_classes = arguments.integer(op, "num_classes", num_classes, 1)
        self.image_size = arguments.sizes(op, "image_size", image_size, 1, length=3)
        if self.image_size[0] not in (1, 3):
            raise ArgumentError(message(op, "1 or 3 channels", quoted(image_size)))
        c, h, w = self.image_size
        arguments.check_memory(op, c * h * w, "a picture")
        self.random_offset = arguments.integer(op, "random_offset", random_offset, 0)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: Any) -> tuple[Any, Any]:
        """Picture ``index`` and its class.

        Raises:
            ArgumentError, BoundsError: no index, or one that there is not.
        """
        place = arguments.position("FakeData", index, self.size)
        draw = np.random.default_rng(place + self.random_offset)
        c, h, w = self.image_size
        pixels = draw.integers(0, 256, (h, w, c), np.uint8)
        target = int(draw.integers(self.num_classes))
        return self.transformed(Image.fromarray(pixels if c == 3 else pixels[:, :, 0]), target)
