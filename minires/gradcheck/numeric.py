"""Numerical derivatives: a ladder of references, from the most exact one that can be had.

1. **Complex step** (Squire and Trapp 1998): for f analytic along a real line,
   ``f'(x) = Im f(x + ih) / h + O(h²)``, without any subtraction: with h = 1e-30 the result is as
   exact as f itself. The step has no real part, so no ReLU or maximum switches on the way. It
   needs every operation on the path to be ``complex_safe``, and runs on the NumPy references.
2. **Richardson's five points**: central differences at h and h / 2 combined so that their h²
   errors cancel, ``(4 D(h/2) - D(h)) / 3``, with h = 3e-3 of the input's scale, or a tenth or a
   hundredth of it where the function switches within the stencil or bends too much.
3. **Central difference** at h = cbrt(eps), where even that crosses a switch.
4. **One side** of a switch: the side on which the function takes the same branches as at the point
   itself, which is the branch whose derivative backward computes.
5. **The interval** between the slopes of both sides, where the point belongs to neither: any
   value within it is a sub-gradient and is accepted. What lies outside is not judged, and counted
   as skipped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import MiniresError
from .point import Curve, Point, Switches

Array = NDArray[np.float64]

COMPLEX, RICHARDSON, CENTRAL, ONE_SIDED, INTERVAL = (
    "complex step",
    "richardson",
    "central",
    "one-sided",
    "interval",
)
# The relative error each rung may have, and of which analytic values are therefore allowed.
RTOL = {COMPLEX: 1e-9, RICHARDSON: 1e-6, CENTRAL: 1e-5, ONE_SIDED: 1e-4, INTERVAL: 1e-4}
REFERENCES = (COMPLEX, RICHARDSON, CENTRAL)
EPS = float(np.finfo(np.float64).eps)
_TINY = 1e-30


@dataclass
class Slope:
    """The derivative of a curve at 0, a vector, and how far to trust it.

    Attributes:
        value: the derivative; NaN where there is none.
        low, high: the interval of acceptable values; equal to ``value`` except at a kink.
        noise: what rounding alone can do to an entry.
        reference: the rung of the ladder.
        kink: names of the operations that switch within the smallest stencil.
    """

    value: Array
    low: Array
    high: Array
    noise: float
    reference: str
    kink: tuple[str, ...] = ()

    @classmethod
    def of(cls, value: Array, noise: float, reference: str, kink: tuple[str, ...] = ()) -> Slope:
        return cls(value, value, value, noise, reference, kink)


def complex_slope(curve: Curve) -> Slope:
    """Im f(ih) / h, on a curve that takes complex steps."""
    y, _ = curve(1j * _TINY)
    return Slope.of(y.imag / _TINY, _floor(y), COMPLEX)


def _floor(y: Array) -> float:
    """What the rounding of intermediate results does to any derivative of y, per unit step: seen
    where a derivative is nearly zero because large terms cancel, as behind a batch norm."""
    return 64 * EPS * float(np.abs(y).max(initial=0.0))


def real_slope(curve: Curve, lowest: str = RICHARDSON) -> Slope:
    """The derivative by differences, from the rung ``lowest`` of the ladder on."""
    y0, here = curve(0.0)
    size = float(np.abs(y0).max(initial=0.0))
    if lowest == RICHARDSON:
        best = _richardson(curve, here, size)
        if best is not None:
            return best
    h = EPS ** (1 / 3)
    (above, up), (below, down) = curve(h), curve(-h)
    if up == here == down and _finite(above, below):
        return Slope.of((above - below) / (2 * h), EPS * size / h, CENTRAL)
    kink = _names(here, up) or _names(here, down)
    for h in (1e-4, 1e-5, 1e-6):
        for side in (1, -1):
            ends = [curve(side * h * k) for k in (1, 2, 3)]
            if all(switches == here for _, switches in ends) and _finite(*(y for y, _ in ends)):
                y1, y2, y3 = (y for y, _ in ends)
                value = side * (-11 * y0 + 18 * y1 - 9 * y2 + 2 * y3) / (6 * h)
                return Slope.of(value, 8 * EPS * size / h, ONE_SIDED, kink)
    return _interval(curve, y0, size, kink)


def _richardson(curve: Curve, here: Switches, size: float) -> Slope | None:
    best, smallest = None, np.inf
    for h in (3e-3, 3e-4, 3e-5):
        ends = [curve(t) for t in (h, -h, h / 2, -h / 2)]
        if any(switches != here for _, switches in ends) or not _finite(*(y for y, _ in ends)):
            continue
        far, near = (ends[0][0] - ends[1][0]) / (2 * h), (ends[2][0] - ends[3][0]) / h
        value, noise = (4 * near - far) / 3, 8 * EPS * size / h
        # the h² error of `near`, which the combination removes: a generous bound of what is left
        doubt = float(np.abs(value - near).max(initial=0.0)) + noise
        if doubt < smallest:
            best, smallest = Slope.of(value, noise, RICHARDSON), doubt
        if doubt <= 1e-5 * np.abs(value).max(initial=0.0) + 2 * noise:
            break
    return best


def _interval(curve: Curve, y0: Array, size: float, kink: tuple[str, ...]) -> Slope:
    h = 1e-6
    slopes, stable = [], True
    for side in (1, -1):
        (y, far), (_, near) = curve(side * h), curve(side * h / 2)
        slopes.append(side * (y - y0) / h)
        stable &= far == near
    noise = 8 * EPS * size / h
    low, high = np.minimum(*slopes), np.maximum(*slopes)
    apart = high - low > RTOL[INTERVAL] * np.abs(high) + noise
    value = np.where(apart, np.nan, (low + high) / 2)
    if not stable:  # more than one switch on a side: its slope is no one-sided derivative
        low = high = value
    return Slope(
        value, np.where(apart, low, value), np.where(apart, high, value), noise, INTERVAL, kink
    )


def _finite(*ys: Array) -> bool:
    return all(bool(np.isfinite(y).all()) for y in ys)


def _names(one: Switches, other: Switches) -> tuple[str, ...]:
    if len(one) != len(other):
        return ("control flow",)
    return tuple(dict.fromkeys(a[0] for a, b in zip(one, other) if a != b))


def scales(value: Array) -> Array:
    """By how much each entry of an input may naturally move: its size, at least the average one."""
    return np.maximum(np.abs(value), typical(value))


class Ladder:
    """Derivatives at one point, each by the best reference that can be had there.

    Attributes:
        reason: why the complex step was not taken, or "".
        fault: what is wrong with the value of the function itself, or "".
    """

    def __init__(self, point: Point, y: Array, asked: str | None, rng: np.random.Generator) -> None:
        self.point, self.asked, self.fault = point, asked, ""
        self.reason = "" if asked is None or asked == COMPLEX else f"{asked} was asked for"
        if not self.reason:
            self.reason = self._why_not_complex(y, rng)
        self.complex = not self.reason

    def _why_not_complex(self, y: Array, rng: np.random.Generator) -> str:
        """Try a complex step along a random direction, and hold it against differences."""
        point = self.point
        directions = [rng.standard_normal(v.shape) * typical(v) for v in point.values]
        try:
            z, _, unsafe = point.at(
                [v + 1j * _TINY * d for v, d in zip(point.values, directions)], complex_step=True
            )
        except (MiniresError, TypeError, ValueError, np.exceptions.ComplexWarning) as error:
            return f"the function does not take complex numbers ({str(error).splitlines()[0]})"
        if unsafe:
            return f"{', '.join(sorted(unsafe))} not marked complex_safe"
        if z.dtype.kind != "c" or z.shape != y.shape:
            return "the result of a complex step is real: the imaginary part was lost on the way"
        size = np.abs(y).max(initial=0.0)
        if not np.allclose(z.real, y, rtol=1e-9, atol=1e-11 * size + 1e-30):
            self.fault = (
                "the kernels give another value than the NumPy references: off by "
                f"{np.abs(z.real - y).max():.1e}"
            )
            return "the kernels disagree with the references on which it would run"
        exact = z.imag.reshape(-1) / _TINY
        rough = real_slope(point.along(directions))
        allowed = 1e3 * RTOL[rough.reference] * np.abs(exact).max(initial=0.0) + 1e3 * rough.noise
        off = np.maximum(rough.low - exact, exact - rough.high)
        if rough.kink == () and bool((off > allowed).any()):
            return "it disagrees with differences, so some part of the path is not analytic"
        return ""

    def slope(self, directions: Sequence[Array | None]) -> Slope:
        """The derivative along a direction."""
        if self.complex:
            return complex_slope(self.point.along(directions, complex_step=True))
        return real_slope(
            self.point.along(directions), CENTRAL if self.asked == CENTRAL else RICHARDSON
        )

    def columns(self, index: int) -> Iterator[Slope]:
        """The derivatives with respect to each entry of one tensor, in row-major order."""
        value = self.point.values[index]
        if self.complex:
            batched = _Batched.of(self.point, index)
            if batched is not None:
                yield from batched.columns()
                return
        scale = scales(value)
        directions: list[Array | None] = [None] * len(self.point.values)
        for place in np.ndindex(value.shape):
            step = np.zeros(value.shape)
            step[place] = scale[place]
            directions[index] = step
            slope = self.slope(directions)
            yield Slope(
                slope.value / scale[place],
                slope.low / scale[place],
                slope.high / scale[place],
                slope.noise / float(scale[place]),
                slope.reference,
                slope.kink,
            )


def typical(value: Array) -> float:
    """The root mean square of an input, or 1 where that says nothing."""
    return float(np.sqrt(np.mean(np.square(value)))) or 1.0 if value.size else 1.0


class _Batched:
    """Many columns by one evaluation: copies of an input stacked along its first dimension, for
    functions that treat the images of a batch independently. Whether ``f`` does is found out by
    a trial; batch norm in training does not."""

    _ENTRIES = 200_000  # of one stack

    def __init__(self, point: Point, index: int, rows: int, y: Array) -> None:
        self.point, self.index, self.rows, self.y = point, index, rows, y

    @classmethod
    def of(cls, point: Point, index: int) -> _Batched | None:
        value = point.values[index]
        if value.ndim < 2 or value.size < 16:
            return None
        y, _, _ = point.at(point.values, complex_step=True)
        if y.ndim == 0 or y.shape[0] != value.shape[0]:
            return None
        batched = cls(point, index, value.shape[0], y)
        other = value[::-1] + 0.5 * np.sin(np.arange(value.size)).reshape(value.shape)
        both = batched._stacked(np.concatenate([value, other]))
        if both is None:
            return None
        values = list(point.values)
        values[index] = other
        alone, _, _ = point.at(values, complex_step=True)
        apart = np.concatenate([y, alone])
        close = np.allclose(both, apart, rtol=1e-12, atol=1e-12 * np.abs(apart).max(initial=0.0))
        return batched if close else None

    def _stacked(self, stack: Array) -> Array | None:
        values = list(self.point.values)
        values[self.index] = stack
        try:
            y, _, _ = self.point.at(values, complex_step=True)
        except (MiniresError, ValueError, IndexError):  # the batch size is fixed by something else
            return None
        copies = len(stack) // self.rows
        return y if y.shape == (copies * self.rows, *self.y.shape[1:]) else None

    def columns(self) -> Iterator[Slope]:
        value = self.point.values[self.index]
        scale = scales(value).reshape(-1)
        most = max(1, self._ENTRIES // max(value.size, self.y.size))
        for start in range(0, value.size, most):
            count = min(most, value.size - start)
            stack = np.repeat(value[None].astype(np.complex128), count, axis=0)
            stack.reshape(count, -1)[np.arange(count), start + np.arange(count)] += 1j * _TINY
            y = self._stacked(stack.reshape(-1, *value.shape[1:]))
            if y is None:
                raise MiniresError("check: the result of a stack of inputs has another shape.")
            floor = _floor(self.y)
            for k, slope in enumerate(y.imag.reshape(count, -1) / _TINY):
                yield Slope.of(slope, floor / scale[start + k], COMPLEX)
