"""Pictures resized, padded, cut and mirrored, as told or at random."""

from __future__ import annotations

import math
from typing import Any

from minires import arguments, random
from minires.errors import ShapeError, message
from minires.vision.transforms import functional as F
from minires.vision.transforms.base import Transform
from minires.vision.transforms.checks import both, dimensions, interval, picture, probability
from minires.vision.transforms.functional.moving import pad_arguments, resize_arguments
from minires.vision.transforms.interpolation import InterpolationMode, as_mode

BILINEAR = InterpolationMode.BILINEAR
_TRIES = 10  # windows that may be too large before the middle is taken


class Resize(Transform):
    """Another size; see :func:`~minires.vision.transforms.functional.resize` for the arguments.

    Raises:
        ArgumentError: a size or an interpolation that there is not.
    """

    def __init__(
        self,
        size: Any,
        interpolation: Any = BILINEAR,
        max_size: int | None = None,
        antialias: bool | None = True,
    ) -> None:
        resize_arguments("Resize", size, max_size, antialias)
        self.size, self.max_size, self.antialias = size, max_size, antialias
        self.interpolation = as_mode("Resize", interpolation)

    def forward(self, img: Any) -> Any:
        return F.resize(img, self.size, self.interpolation, self.max_size, self.antialias)

    def __repr__(self) -> str:
        return (
            f"Resize(size={self.size}, interpolation={self.interpolation.value}, "
            f"max_size={self.max_size}, antialias={self.antialias})"
        )


class CenterCrop(Transform):
    """The middle, (h, w) or one integer for both; black is added to what is smaller.

    Raises:
        ArgumentError: no size.
    """

    def __init__(self, size: Any) -> None:
        self.size = both("CenterCrop", size)

    def forward(self, img: Any) -> Any:
        return F.center_crop(img, self.size)

    def __repr__(self) -> str:
        return f"CenterCrop(size={self.size})"


class FiveCrop(Transform):
    """The four corners and the middle, as a tuple; see
    :func:`~minires.vision.transforms.functional.five_crop`.

    Raises:
        ArgumentError: no size.
    """

    def __init__(self, size: Any) -> None:
        self.size = both("FiveCrop", size)

    def forward(self, img: Any) -> Any:
        return F.five_crop(img, self.size)

    def __repr__(self) -> str:
        return f"FiveCrop(size={self.size})"


class TenCrop(Transform):
    """The four corners and the middle, of the picture and of its mirror image, as a tuple; see
    :func:`~minires.vision.transforms.functional.ten_crop`.

    Raises:
        ArgumentError: no size.
    """

    def __init__(self, size: Any, vertical_flip: bool = False) -> None:
        self.size = both("TenCrop", size)
        self.vertical_flip = arguments.flag("TenCrop", "vertical_flip", vertical_flip)

    def forward(self, img: Any) -> Any:
        return F.ten_crop(img, self.size, self.vertical_flip)

    def __repr__(self) -> str:
        return f"TenCrop(size={self.size}, vertical_flip={self.vertical_flip})"


class Pad(Transform):
    """A border; see :func:`~minires.vision.transforms.functional.pad` for the arguments.

    Raises:
        ArgumentError: an argument that is none of those.
    """

    def __init__(self, padding: Any, fill: Any = 0, padding_mode: str = "constant") -> None:
        pad_arguments("Pad", padding, fill, padding_mode)
        self.padding, self.fill, self.padding_mode = padding, fill, padding_mode

    def forward(self, img: Any) -> Any:
        return F.pad(img, self.padding, self.fill, self.padding_mode)

    def __repr__(self) -> str:
        return f"Pad(padding={self.padding}, fill={self.fill}, padding_mode={self.padding_mode})"


class RandomCrop(Transform):
    """A window of a given size, anywhere in the picture.

    Args:
        size: (h, w), or one integer for both.
        padding: a border that is added first; see :func:`~minires.vision.transforms.functional.pad`
            for it, ``fill`` and ``padding_mode``.
        pad_if_needed: add what a smaller picture lacks, on both sides.

    Raises:
        ArgumentError: an argument that is none of those.
        ShapeError: from the call, for a picture that is smaller.
    """

    def __init__(
        self,
        size: Any,
        padding: Any = None,
        pad_if_needed: bool = False,
        fill: Any = 0,
        padding_mode: str = "constant",
    ) -> None:
        op = "RandomCrop"
        self.size = both(op, size)
        pad_arguments(op, 0 if padding is None else padding, fill, padding_mode)
        self.padding, self.fill, self.padding_mode = padding, fill, padding_mode
        self.pad_if_needed = arguments.flag(op, "pad_if_needed", pad_if_needed)

    @staticmethod
    def get_params(img: Any, output_size: Any) -> tuple[int, int, int, int]:
        """Row, column, height and width of a window of ``output_size`` (h, w).

        Raises:
            DTypeError: no picture.
            ShapeError: the picture is smaller.
        """
        op = "RandomCrop"
        height, width = both(op, output_size, "output_size")
        _, h, w = dimensions(picture(op, img))
        if h < height or w < width:
            fix = "Use padding, pad_if_needed=True, or Resize before it."
            expected = f"a picture of at least {height} x {width} pixels"
            raise ShapeError(message(op, expected, f"{h} x {w}", fix=fix))
        draw = random.generator()
        top, left = draw.integers(h - height + 1), draw.integers(w - width + 1)
        return int(top), int(left), height, width

    def forward(self, img: Any) -> Any:
        if self.padding is not None:
            img = F.pad(img, self.padding, self.fill, self.padding_mode)
        if self.pad_if_needed:
            _, h, w = dimensions(picture("RandomCrop", img))
            rows, columns = max(self.size[0] - h, 0), max(self.size[1] - w, 0)
            if rows or columns:
                img = F.pad(img, [columns, rows], self.fill, self.padding_mode)
        return F.crop(img, *self.get_params(img, self.size))

    def __repr__(self) -> str:
        return f"RandomCrop(size={self.size}, padding={self.padding})"


class RandomHorizontalFlip(Transform):
    """Left and right exchanged, with probability ``p``.

    Raises:
        ArgumentError: ``p`` outside of 0..1.
    """

    def __init__(self, p: float = 0.5) -> None:
        self.p = probability("RandomHorizontalFlip", p)

    def forward(self, img: Any) -> Any:
        return F.hflip(img) if random.generator().random() < self.p else img

    def __repr__(self) -> str:
        return f"RandomHorizontalFlip(p={self.p})"


class RandomVerticalFlip(Transform):
    """Upside down, with probability ``p``.

    Raises:
        ArgumentError: ``p`` outside of 0..1.
    """

    def __init__(self, p: float = 0.5) -> None:
        self.p = probability("RandomVerticalFlip", p)

    def forward(self, img: Any) -> Any:
        return F.vflip(img) if random.generator().random() < self.p else img

    def __repr__(self) -> str:
        return f"RandomVerticalFlip(p={self.p})"


class RandomResizedCrop(Transform):
    """A window of random size and shape, resized: Szegedy et al., "Going Deeper with Convolutions",
    2014, section 6.

    Args:
        size: (h, w) of the result, or one integer for both.
        scale: (lowest, highest) share of the picture's area.
        ratio: (lowest, highest) width divided by height, drawn from a logarithmic scale.
        interpolation, antialias: see :func:`~minires.vision.transforms.functional.resize`.

    Raises:
        ArgumentError: an argument that is none of those.
    """

    def __init__(
        self,
        size: Any,
        scale: Any = (0.08, 1.0),
        ratio: Any = (3.0 / 4.0, 4.0 / 3.0),
        interpolation: Any = BILINEAR,
        antialias: bool | None = True,
    ) -> None:
        op = "RandomResizedCrop"
        self.size = both(op, size)
        resize_arguments(op, self.size, None, antialias)
        self.scale = interval(op, "scale", scale, above=0)
        self.ratio = interval(op, "ratio", ratio, above=0)
        self.interpolation, self.antialias = as_mode(op, interpolation), antialias

    @staticmethod
    def get_params(img: Any, scale: Any, ratio: Any) -> tuple[int, int, int, int]:
        """Row, column, height and width of a window.

        The largest one in the middle whose shape is allowed, if ten windows were too large.

        Raises:
            DTypeError: no picture.
            ArgumentError: a scale or ratio that is none.
        """
        op = "RandomResizedCrop"
        _, height, width = dimensions(picture(op, img))
        shares = interval(op, "scale", scale, above=0)
        ratios = interval(op, "ratio", ratio, above=0)
        draw = random.generator()
        for _ in range(_TRIES):
            area = height * width * draw.uniform(*shares)
            aspect = math.exp(draw.uniform(math.log(ratios[0]), math.log(ratios[1])))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                top, left = draw.integers(height - h + 1), draw.integers(width - w + 1)
                return int(top), int(left), h, w
        w, h = width, height
        if width / height < ratios[0]:
            h = round(width / ratios[0])
        elif width / height > ratios[1]:
            w = round(height * ratios[1])
        h, w = max(h, 1), max(w, 1)  # a picture of one pixel's width keeps it
        return (height - h) // 2, (width - w) // 2, h, w

    def forward(self, img: Any) -> Any:
        window = self.get_params(img, self.scale, self.ratio)
        return F.resized_crop(img, *window, self.size, self.interpolation, self.antialias)

    def __repr__(self) -> str:
        scale, ratio = (tuple(round(end, 4) for end in ends) for ends in (self.scale, self.ratio))
        return (
            f"RandomResizedCrop(size={self.size}, scale={scale}, ratio={ratio}, "
            f"interpolation={self.interpolation.value}, antialias={self.antialias})"
        )
