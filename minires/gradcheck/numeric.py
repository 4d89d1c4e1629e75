"""Numerical derivatives: a ladder of references, from the most exact one that can be had.

1. **Complex step** (Squire and Trapp 1998): for f analytic along a real line,
   ``f'(x) = Im f(x + ih) / h + O(h²)``, without any subtraction: with h = 1e-30 the result is as
   exact as f itself. The step has no real part, so no ReLU or maximum switches on the way. It
   needs every operation on the path to be ``complex_safe``, and runs on the NumPy references.
2. **Richardson's five points**: central differences at h and h / 2 combined so that their h²
   errors cancel, ``(4 D(h/2) - D(h)) / 3``, with h = 3e-3 of the input's scale, or ten times less
   and less where the function switches within the stencil or bends too much.
3. **Central difference** at h = cbrt(eps), where even that crosses a switch.
4. **One side** of a switch: the side on which the function takes the same branches as at the point
   itself, which is the branch whose derivative backward computes.
5. **The interval** between the slopes of both sides, where the point belongs to neither: any
   value within it is a sub-gradient and is accepted. What lies outside is not judged, and counted
   as skipped.

On the rungs 2 to 4 each entry is estimated twice. Where the two estimates do not agree the
differences have not converged, and only an interval around them is known, as in 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .. import arguments
from .point import EPS, Array, Curve, Point, Switches

COMPLEX, RICHARDSON, CENTRAL, ONE_SIDED, INTERVAL = (
    "complex step",
    "richardson",
    "central",
    "one-sided",
    "interval",
)
# The relative error each rung may have, and of which analytic values are therefore allowed.
RTOL = {COMPLEX: 1e-9, RICHARDSON: 1e-6, CENTRAL: 1e-5, ONE_SIDED: 1e-4, INTERVAL: 1e-4}
# How far apart two estimates may be for that: Richardson's error is about the square of it.
CONVERGED = {RICHARDSON: 1e-3, CENTRAL: 3e-5, ONE_SIDED: 1e-4}
REFERENCES = (COMPLEX, RICHARDSON, CENTRAL)
_TINY = 1e-30


def known_reference(reference: str | None) -> None:
    """Refuse a reference that does not exist; None is the best one possible."""
    if reference is not None:
        arguments.choice("reference", reference, REFERENCES)


@dataclass
class Slope:
    """The derivative of a curve at 0, a vector, and how far to trust it.

    Attributes:
        value: the derivative; NaN where it is not known well enough to compare with.
        low, high: the interval of acceptable values; equal to ``value`` where that is known.
        noise: what rounding alone can do to each entry.
        reference: the rung of the ladder.
        kink: names of the operations that switch within the smallest stencil.
    """

    value: Array
    low: Array
    high: Array
    noise: Array
    reference: str
    kink: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        value: Array,
        noise: Array,
        reference: str,
        doubt: Array | None = None,
        kink: tuple[str, ...] = (),
    ) -> Slope:
        """``doubt``: how far two estimates are apart. Where that is more than the rung's
        tolerance allows for, the differences have not converged, and only an interval is known."""
        if doubt is None:
            return cls(value, value, value, noise, reference, kink)
        unsure = doubt > CONVERGED[reference] * np.abs(value) + 10 * noise
        low, high = np.where(unsure, value - doubt, value), np.where(unsure, value + doubt, value)
        return cls(np.where(unsure, np.nan, value), low, high, noise, reference, kink)

    def over(self, scale: float) -> Slope:
        """The derivative per unit of a direction that was ``scale`` long."""
        return Slope(
            self.value / scale,
            self.low / scale,
            self.high / scale,
            self.noise / scale,
            self.reference,
            self.kink,
        )


def complex_slope(curve: Curve) -> Slope:
    """Im f(ih) / h, on a curve that takes complex steps."""
    y, _ = curve(1j * _TINY)
    return Slope.of(y.imag / _TINY, np.zeros(y.size), COMPLEX)


def real_slope(curve: Curve, lowest: str = RICHARDSON) -> Slope:
    """The derivative by differences, from the rung ``lowest`` of the ladder on."""
    y0, here = curve(0.0)
    if lowest == RICHARDSON:
        best = _richardson(curve, here)
        if best is not None:
            return best
    h = EPS ** (1 / 3)
    ends = [curve(t) for t in (h, -h, h / 2, -h / 2)]
    if all(switches == here for _, switches in ends) and _finite(*(y for y, _ in ends)):
        far, near = (ends[0][0] - ends[1][0]) / (2 * h), (ends[2][0] - ends[3][0]) / h
        return Slope.of(near, 8 * EPS * np.abs(y0) / h, CENTRAL, np.abs(near - far))
    kink = _names(here, ends[0][1]) or _names(here, ends[1][1])
    for h in (1e-4, 1e-5, 1e-6):
        for side in (1, -1):
            ends = [curve(side * h * k) for k in (0.5, 1, 1.5, 2, 3)]
            if all(switches == here for _, switches in ends) and _finite(*(y for y, _ in ends)):
                half, one, more, two, three = (y for y, _ in ends)
                far = _forward(y0, one, two, three, h)
                near = _forward(y0, half, one, more, h / 2)
                noise = 32 * EPS * np.abs(y0) / h
                return Slope.of(side * near, noise, ONE_SIDED, np.abs(near - far), kink)
    return _interval(curve, y0, kink)


def _forward(y0: Array, y1: Array, y2: Array, y3: Array, h: float) -> Array:
    return (-11 * y0 + 18 * y1 - 9 * y2 + 2 * y3) / (6 * h)


def _richardson(curve: Curve, here: Switches) -> Slope | None:
    """Each entry with the step at which its two estimates are closest; None if every step
    crosses a switch or leaves the domain."""
    best: tuple[Array, ...] | None = None
    crosses = False
    for h in (3e-3, 3e-4, 3e-5, 3e-6, 3e-7, 3e-8):
        if h < 1e-5 and best is None and crosses:
            break  # a switch so near by is for the lower rungs
        ends = [curve(t) for t in (h, -h, h / 2, -h / 2)]
        if any(switches != here for _, switches in ends):
            crosses = True
            continue
        if not _finite(*(y for y, _ in ends)):
            continue
        far, near = (ends[0][0] - ends[1][0]) / (2 * h), (ends[2][0] - ends[3][0]) / h
        value, noise = (4 * near - far) / 3, 8 * EPS * np.abs(ends[0][0]) / h
        # the h² error of `near`, which the combination removes: a generous bound of what is left
        doubt = np.abs(value - near) + noise
        if best is None:
            best = value, doubt, noise
        else:
            better = doubt < best[1]
            best = tuple(
                np.where(better, new, old) for new, old in zip((value, doubt, noise), best)
            )
        value, doubt, noise = best
        if (doubt <= 1e-5 * np.abs(value) + 2 * noise).all():
            break
    if best is None:
        return None
    value, doubt, noise = best
    return Slope.of(value, noise, RICHARDSON, doubt)


def _interval(curve: Curve, y0: Array, kink: tuple[str, ...]) -> Slope:
    h = 1e-6
    slopes, stable = [], True
    for side in (1, -1):
        (y, far), (_, near) = curve(side * h), curve(side * h / 2)
        slopes.append(side * (y - y0) / h)
        stable &= far == near
    noise = 8 * EPS * np.abs(y0) / h
    low, high = np.minimum(*slopes), np.maximum(*slopes)
    middle = (low + high) / 2
    apart = high - low > RTOL[INTERVAL] * np.abs(high) + noise
    value = np.where(apart, np.nan, middle)
    if not stable:  # more than one switch on a side: its slope is no one-sided derivative
        low, high = (np.where(apart, np.nan, middle) for _ in range(2))
    else:
        low, high = np.where(apart, low, middle), np.where(apart, high, middle)
    return Slope(value, low, high, noise, INTERVAL, kink)


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
        if point.draws_on_gpu:
            return "random draws on a GPU are others than on the CPU, where it would run"
        directions = [rng.standard_normal(v.shape) * typical(v) for v in point.values]
        try:
            z, _, unsafe = point.at(
                [v + 1j * _TINY * d for v, d in zip(point.values, directions)], complex_step=True
            )
        except Exception as error:  # a trial of code that never was to meet complex numbers
            text = (str(error).splitlines() or [type(error).__name__])[0]
            return f"the function does not take complex numbers ({text})"
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
        return self._why_not_analytic(directions, rng)

    def _why_not_analytic(self, directions: list[Array], rng: np.random.Generator) -> str:
        """Differences against complex step, here and, where a kink or a bend leaves differences
        in the dark, near by."""
        point = self.point
        for shift in (0.0, 1e-3, 1e-2):
            base = [
                v + shift * typical(v) * rng.standard_normal(v.shape) if shift else v
                for v in point.values
            ]
            rough = real_slope(point.along(directions, base=base))
            sure = ~np.isnan(rough.value)
            if rough.reference in (RICHARDSON, CENTRAL) and sure.any():
                exact = complex_slope(point.along(directions, complex_step=True, base=base)).value
                off = np.abs(rough.value - exact)[sure]
                allowed = 1e3 * (RTOL[rough.reference] * np.abs(exact) + rough.noise)[sure]
                largest = float(np.abs(exact).max(initial=0.0))
                bound = allowed + 1e-6 * largest
                if (off > bound).any():  # what do rounding inside f and plateaus do to differences?
                    others = [
                        real_slope(point.along(directions, base=near)).value
                        for near in point.nearby(2, base)
                    ]
                    for value in (*others, *_shorter(point, directions, base)):
                        moved = np.nan_to_num(np.abs(value - rough.value)[sure], nan=np.inf)
                        bound = bound + 64 * moved
                if (off > bound).any():
                    return "it disagrees with differences, so some part of the path is not analytic"
                if sure.all():
                    break
        return ""

    def rounding(self, directions: Sequence[Array | None]) -> float:
        """What rounding does to a derivative along a direction: how far any entry of it moves
        when the point does by an ulp or two, and differences when their steps are shorter."""
        exact = np.nan_to_num(self.slope(directions).value)
        moved = 0.0
        for base in self.point.nearby(3):
            near = np.nan_to_num(self.slope(directions, base).value)
            moved = max(moved, float(np.abs(near - exact).max(initial=0.0)))
        if not self.complex:
            for near in _shorter(self.point, directions):
                moved = max(moved, float(np.abs(near - exact).max(initial=0.0)))
        return moved

    def slope(
        self, directions: Sequence[Array | None], base: Sequence[Array] | None = None
    ) -> Slope:
        """The derivative along a direction, at the point or at another one."""
        curve = self.point.along(directions, self.complex, base)
        if self.complex:
            return complex_slope(curve)
        return real_slope(curve, CENTRAL if self.asked == CENTRAL else RICHARDSON)

    def columns(self, index: int) -> list[Slope]:
        """The derivatives with respect to each entry of one tensor, in row-major order."""
        value = self.point.values[index]
        if self.complex:
            together = _Batched.of(self.point, index)
            found = together.columns() if together is not None else None
            if found is not None:
                return found
        scale = scales(value)
        return [
            self.slope(self.direction(index, place, scale)).over(float(scale[place]))
            for place in np.ndindex(value.shape)
        ]

    def direction(self, index: int, place: tuple[int, ...], scale: Array) -> list[Array | None]:
        """Along one entry of one tensor, as far as :func:`scales` says it may naturally move."""
        step = np.zeros(scale.shape)
        step[place] = scale[place]
        return [step if i == index else None for i in range(len(self.point.values))]


def _shorter(
    point: Point, directions: Sequence[Array | None], base: Sequence[Array] | None = None
) -> list[Array]:
    """The same slope by differences from much shorter steps: a function may bend so sharply that
    the usual ones only see plateaus, flat on both sides."""
    values = []
    for factor in (1e-2, 1e-4):
        short = [None if d is None else d * factor for d in directions]
        values.append(np.nan_to_num(real_slope(point.along(short, base=base)).value / factor))
    return values


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
        except Exception:  # a trial: the batch size is fixed by something in the function
            return None
        copies = len(stack) // self.rows
        return y if y.shape == (copies * self.rows, *self.y.shape[1:]) else None

    def columns(self) -> list[Slope] | None:
        """All columns; None if, with so many copies, the images do act on one another."""
        value, slopes = self.point.values[self.index], []
        most = max(1, self._ENTRIES // max(value.size, self.y.size))
        for start in range(0, value.size, most):
            count = min(most, value.size - start)
            stack = np.repeat(value[None].astype(np.complex128), count, axis=0)
            stack.reshape(count, -1)[np.arange(count), start + np.arange(count)] += 1j * _TINY
            y = self._stacked(stack.reshape(-1, *value.shape[1:]))
            if y is None:
                return None
            rows = y.reshape(count, -1)
            alone = self.y.real.reshape(-1)
            if not np.allclose(rows.real, alone, rtol=1e-12, atol=1e-12 * np.abs(alone).max()):
                return None
            slopes += [Slope.of(row, np.zeros(row.size), COMPLEX) for row in rows.imag / _TINY]
        return slopes
