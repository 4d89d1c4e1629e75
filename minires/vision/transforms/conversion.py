"""Pictures as tensors and back, and their values."""

from __future__ import annotations

from typing import Any

from minires.vision.transforms import functional as F
from minires.vision.transforms.base import Transform


class ToTensor(Transform):
    """A PIL image or an array (h, w, c) as a tensor (c, h, w); bytes become floats in 0..1.

    See :func:`~minires.vision.transforms.functional.to_tensor`.
    """

    def forward(self, img: Any) -> Any:
        return F.to_tensor(img)


class PILToTensor(Transform):
    """A PIL image as a tensor (c, h, w) of the same values.

    See :func:`~minires.vision.transforms.functional.pil_to_tensor`.
    """

    def forward(self, img: Any) -> Any:
        return F.pil_to_tensor(img)


class ConvertImageDtype(Transform):
    """A tensor of pixels in another dtype, scaled to its range.

    See :func:`~minires.vision.transforms.functional.convert_image_dtype`.

    Raises:
        DTypeError: no dtype that pixels have.
    """

    def __init__(self, dtype: Any) -> None:
        self.dtype = F.pixel_dtype("ConvertImageDtype", dtype)

    def forward(self, img: Any) -> Any:
        return F.convert_image_dtype(img, self.dtype)


class ToPILImage(Transform):
    """A tensor (c, h, w) or an array (h, w, c) as a PIL image.

    Args:
        mode: Pillow's name of what the channels are; by default from their number and dtype.

    See :func:`~minires.vision.transforms.functional.to_pil_image`.

    Raises:
        ArgumentError: a mode that Pillow does not know.
    """

    def __init__(self, mode: str | None = None) -> None:
        self.mode = F.pil_mode("ToPILImage", mode)

    def forward(self, img: Any) -> Any:
        return F.to_pil_image(img, self.mode)

    def __repr__(self) -> str:
        return "ToPILImage()" if self.mode is None else f"ToPILImage(mode={self.mode})"


class Normalize(Transform):
    """``(x - mean) / std`` for each channel of a tensor (..., c, h, w).

    Args:
        mean, std: a number for each channel.
        inplace: write into the tensor that is given.

    See :func:`~minires.vision.transforms.functional.normalize`.

    Raises:
        ArgumentError: lengths differ, a value is not finite, or a std is 0.
    """

    def __init__(self, mean: Any, std: Any, inplace: bool = False) -> None:
        F.statistics("Normalize", mean, std)
        self.mean, self.std, self.inplace = mean, std, inplace

    def forward(self, img: Any) -> Any:
        return F.normalize(img, self.mean, self.std, self.inplace)

    def __repr__(self) -> str:
        return f"Normalize(mean={self.mean}, std={self.std})"
