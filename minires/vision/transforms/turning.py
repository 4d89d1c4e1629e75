"""Pictures turned, moved, scaled and sheared at random."""

from __future__ import annotations

from typing import Any

from minires import arguments, random
from minires.errors import ArgumentError, message, quoted
from minires.vision.transforms import functional as F
from minires.vision.transforms.base import Transform
from minires.vision.transforms.checks import interval, pil
from minires.vision.transforms.functional.moving import rotate_arguments
from minires.vision.transforms.interpolation import InterpolationMode

NEAREST = InterpolationMode.NEAREST


class RandomRotation(Transform):
    """A turn by a random angle.

    Args:
        degrees: ``x`` for angles in -x..x, or (lowest, highest).
        interpolation, expand, center, fill: see
            :func:`~minires.vision.transforms.functional.rotate`.

    Raises:
        ArgumentError: an argument that is none of those.
    """

    def __init__(
        self,
        degrees: Any,
        interpolation: Any = NEAREST,
        expand: bool = False,
        center: Any = None,
        fill: Any = 0,
    ) -> None:
        op = "RandomRotation"
        self.degrees = _both_ways(op, "degrees", degrees)
        self.interpolation, _ = rotate_arguments(op, interpolation, expand, center, fill)
        self.expand, self.center = expand, center
        self.fill = 0 if fill is None else fill

    @staticmethod
    def get_params(degrees: Any) -> float:
        """An angle of this range.

        Raises:
            ArgumentError: no range.
        """
        return float(random.generator().uniform(*_angles("RandomRotation", "degrees", degrees)))

    def forward(self, img: Any) -> Any:
        angle = self.get_params(self.degrees)
        return F.rotate(img, angle, self.interpolation, self.expand, self.center, self.fill)

    def __repr__(self) -> str:
        center = "" if self.center is None else f", center={self.center}"
        return (
            f"RandomRotation(degrees={self.degrees}, interpolation={self.interpolation.value}, "
            f"expand={self.expand}{center}, fill={self.fill})"
        )


class RandomAffine(Transform):
    """Sheared, turned and scaled about a point and moved, each by a random amount.

    Args:
        degrees: ``x`` for angles in -x..x, or (lowest, highest).
        translate: (x, y), the largest moves as shares of width and height.
        scale: (lowest, highest).
        shear: ``x`` for degrees in -x..x along x; (lowest, highest); or both for x, then for y.
        interpolation, fill, center: see
            :func:`~minires.vision.transforms.functional.affine`.

    Raises:
        ArgumentError: an argument that is none of those.
    """

    def __init__(
        self,
        degrees: Any,
        translate: Any = None,
        scale: Any = None,
        shear: Any = None,
        interpolation: Any = NEAREST,
        fill: Any = 0,
        center: Any = None,
    ) -> None:
        op = "RandomAffine"
        self.degrees = _both_ways(op, "degrees", degrees)
        self.translate, self.scale = _moves(translate), _scales(scale)
        self.shear = None if shear is None else _slants(shear)
        self.interpolation, _ = rotate_arguments(op, interpolation, False, center, fill)
        self.fill, self.center = 0 if fill is None else fill, center

    @staticmethod
    def get_params(
        degrees: Any, translate: Any, scale_ranges: Any, shears: Any, img_size: Any
    ) -> tuple[float, tuple[int, int], float, tuple[float, float]]:
        """An angle, a move in pixels, a scale, and shears along x and y.

        Args:
            degrees: (lowest, highest).
            translate, scale_ranges, shears: see :class:`RandomAffine`; None for what stays.
            img_size: (width, height).

        Raises:
            ArgumentError: an argument that is none of those.
        """
        op = "RandomAffine"
        ends, most = _angles(op, "degrees", degrees), _moves(translate)
        scales = _scales(scale_ranges)
        slants = [0.0, 0.0] if shears is None else _slants(shears)
        width, height = arguments.sizes(op, "img_size", img_size, 1, length=2)
        draw = random.generator()
        angle = float(draw.uniform(*ends))
        move = (0, 0)
        if most is not None:
            x, y = most[0] * width, most[1] * height
            move = round(draw.uniform(-x, x)), round(draw.uniform(-y, y))
        scale = 1.0 if scales is None else float(draw.uniform(*scales))
        along = float(draw.uniform(slants[0], slants[1]))
        down = float(draw.uniform(slants[2], slants[3])) if len(slants) == 4 else 0.0
        return angle, move, scale, (along, down)

    def forward(self, img: Any) -> Any:
        picture = pil("RandomAffine", img)
        drawn = self.get_params(
            self.degrees, self.translate, self.scale, self.shear, list(picture.size)
        )
        return F.affine(picture, *drawn, self.interpolation, self.fill, self.center)

    def __repr__(self) -> str:
        shown = [f"degrees={self.degrees}"]
        for name in ("translate", "scale", "shear"):
            if getattr(self, name) is not None:
                shown.append(f"{name}={getattr(self, name)}")
        if self.interpolation != NEAREST:
            shown.append(f"interpolation={self.interpolation.value}")
        if self.fill != 0:
            shown.append(f"fill={self.fill}")
        if self.center is not None:
            shown.append(f"center={self.center}")
        return f"RandomAffine({', '.join(shown)})"


def _angles(op: str, name: str, degrees: Any) -> tuple[float, float]:
    low, high = interval(op, name, degrees, least=-arguments.MOST)
    return low, arguments.number(op, name, high, most=arguments.MOST)


def _both_ways(op: str, name: str, value: Any) -> list[float]:
    """-x..x for a number x, or (lowest, highest)."""
    if arguments.as_number(value) is not None:
        most = arguments.number(op, name, value, least=0)
        value = (-most, most)
    return [float(end) for end in _angles(op, name, value)]


def _moves(translate: Any) -> Any:
    if translate is not None:
        if not isinstance(translate, tuple | list) or len(translate) != 2:
            got = quoted(translate)
            raise ArgumentError(message("RandomAffine", "translate as (x, y) in 0..1", got))
        for share in translate:
            arguments.number("RandomAffine", "translate", share, least=0, most=1)
    return translate


def _scales(scale: Any) -> Any:
    if scale is not None:
        _, high = interval("RandomAffine", "scale", scale, least=1e-6)
        arguments.number("RandomAffine", "scale", high, most=1e6)
    return scale


def _slants(shear: Any) -> list[float]:
    op, name = "RandomAffine", "shear"
    if isinstance(shear, tuple | list) and len(shear) == 4:
        x, y = _both_ways(op, name, shear[:2]), _both_ways(op, name, shear[2:])
        return [*x, *y]
    return _both_ways(op, name, shear)
