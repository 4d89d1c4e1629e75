"""Analytic against numeric derivatives, entry by entry or probe by probe."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import arguments
from .numeric import RTOL, Slope
from .point import EPS, Array
from .report import ArgumentResult


@dataclass
class Comparison:
    """Two Jacobians of one argument, (output size, argument size), or two tables of probes.

    Attributes:
        noise: what rounding may do to each entry.
        rtol: the relative tolerance of each column.
        skipped: the entries that could not be judged, at a kink or without convergence.
        ratio: the error over what is allowed.
        kinks: the columns at a kink, with the operations that switch there.
        dense: in words, where a dense upstream gradient gave something else than the rows do.
        probes: in words, what probes can miss; "" for entries.
    """

    analytic: Array
    numeric: Array
    skipped: np.ndarray
    ratio: Array
    noise: Array
    rtol: Array
    reference: str
    kinks: dict[int, tuple[str, ...]] = field(default_factory=dict)
    dense: str = ""
    probes: str = ""

    @property
    def wrong(self) -> np.ndarray:
        """The entries that disagree."""
        return (self.ratio > 1) & ~self.skipped

    @property
    def entries(self) -> int:
        return self.numeric.size - int(self.skipped.sum())

    @property
    def numeric_is_zero(self) -> bool:
        return not np.nan_to_num(self.numeric).any()

    def add_dense(self, v: Array, product: Array, moved: float = 0.0) -> None:
        """Hold vᵀJ of one backward pass with a dense v against the rows, each of a pass alone:
        backward must be linear in its upstream gradient, up to ``moved`` of rounding."""
        expected = v @ self.analytic
        allowed = 1e-9 * (np.abs(v) @ np.abs(self.analytic)) + np.abs(v) @ self.noise + moved
        off = ~(np.abs(product - expected) <= allowed)
        if off.any():
            self.ratio = np.where(off, np.inf, self.ratio)
            self.dense = (
                "backward is not linear in its upstream gradient: a dense one gives another "
                "result than its entries one by one"
            )

    def result(self, name: str, shape: tuple[int, ...], output: tuple[int, ...]) -> ArgumentResult:
        """The summary; with a pattern still to be found."""
        place: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
        analytic = numeric = error = relative = 0.0
        judged = np.where(self.skipped, -1.0, self.ratio)
        if judged.size and judged.max() >= 0:
            row, column = np.unravel_index(int(judged.argmax()), judged.shape)
            analytic, numeric = float(self.analytic[row, column]), float(self.numeric[row, column])
            error = float(judged[row, column])
            relative = float((judged * self.rtol).max())
            if not self.probes:
                place = _index(row, output), _index(column, shape)
        return ArgumentResult(
            name, shape, self.entries, int(self.wrong.sum()), int(self.skipped.sum()), *place,
            analytic, numeric, error, relative, self.reference, probes=self.probes,
        )  # fmt: skip


def _index(flat: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(flat, shape)) if shape else ()


def compare_entries(
    analytic: Array, columns: Iterable[Slope], rtol: float | None, atol: float | None
) -> Comparison:
    """Every entry of a Jacobian against its numerical columns."""
    numeric, low, high, noise = (np.empty_like(analytic) for _ in range(4))
    relative = np.empty(analytic.shape[1])
    kinks, used = {}, []
    for k, slope in enumerate(columns):
        numeric[:, k], low[:, k], high[:, k] = slope.value, slope.low, slope.high
        relative[k], noise[:, k] = RTOL[slope.reference], slope.noise
        used.append(slope.reference)
        if slope.kink:
            kinks[k] = slope.kink
    size = np.abs(np.nan_to_num(numeric))
    noise += 4 * EPS * size.max(initial=0.0)  # an entry this small is 1 - 1 (a saturated tanh)
    near = np.minimum.outer(size.max(axis=1, initial=0.0), size.max(axis=0, initial=0.0))
    allowed = _allowed(size, relative, noise, near, rtol, atol)
    away = np.maximum(np.maximum(low - analytic, analytic - high), 0.0)
    ratio = _over(away, allowed)
    unsure = np.isnan(numeric)  # any value of the interval will do, and no other is judged
    skipped = unsure & ~(ratio <= 1) & np.isfinite(analytic)
    ratio = np.where(skipped, 0.0, np.where(np.isnan(ratio), np.inf, ratio))
    return Comparison(
        analytic,
        numeric,
        skipped,
        ratio,
        noise,
        relative if rtol is None else np.full_like(relative, rtol),
        _summary(used),
        kinks,
    )


def _allowed(
    size: Array, relative: Array, noise: Array, near: Array,
    rtol: float | None, atol: float | None,
) -> Array:  # fmt: skip
    """Per entry, from its size and that of the entries near it (the largest of its row or of its
    column, whichever is smaller); not from how many entries there are."""
    of_entry = (relative if rtol is None else rtol) * size
    return of_entry + (relative / 100 * near + noise if atol is None else atol)


def _over(away: Array, allowed: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(away == 0, 0.0, away / allowed)  # NaN stays NaN


def _summary(used: Sequence[str]) -> str:
    """ "richardson (2 one-sided)": the reference of most columns, and how many had another."""
    if not used:
        return "none"
    counts = {name: used.count(name) for name in dict.fromkeys(used)}
    main = max(counts, key=lambda name: counts[name])
    rest = ", ".join(f"{n} {name}" for name, n in counts.items() if name != main)
    return f"{main} ({rest})" if rest else main


def compare_probes(
    products: Sequence[Array],
    upstreams: Sequence[Array],
    directions: Sequence[Array],
    slopes: Sequence[Slope],
    scale: float,
    rtol: float | None,
    atol: float | None,
    moved: Array | float = 0.0,
) -> Comparison:
    """vᵀ(Ju) by differences against (vᵀJ)u by backward, for each pair of v and u.

    Args:
        products: vᵀJ of each upstream gradient.
        moved: what rounding may do to the entries of vᵀJ.
        directions: the u; ``slopes`` are the derivatives along ``scale * u``.
    """
    analytic = np.array([[p @ u.reshape(-1) for u in directions] for p in products])
    numeric = np.array([[v @ s.value / scale for s in slopes] for v in upstreams])
    # E (vᵀJu)² is the squared Frobenius norm of J: one measure of size for all probes
    size = float(np.sqrt(np.mean([np.sum(np.square(v @ _columns(slopes)))
                                  for v in upstreams]) / len(slopes))) / scale  # fmt: skip
    relative = np.array([RTOL[s.reference] for s in slopes])
    noise = np.array([[np.abs(v) @ s.noise / scale for s in slopes] for v in upstreams])
    noise += [float(np.sum(moved * np.abs(u.reshape(-1)))) for u in directions]
    sizes = np.full_like(numeric, size)
    allowed = _allowed(sizes, relative, noise, sizes, rtol, atol)
    ratio = _over(np.abs(analytic - numeric), allowed)
    skipped = np.isnan(numeric)
    ratio = np.where(np.isnan(ratio), np.where(skipped, 0.0, np.inf), ratio)
    threshold = float(allowed.max()) / (size or 1.0)
    text = (
        f"{len(slopes)} random directions x {len(upstreams)} upstream gradients; errors of "
        f"Frobenius norm above {100 * threshold:.0e} of that of J are missed with probability "
        f"below {detection_bound(min(len(slopes), len(upstreams)), 100):.0e}"
    )
    return Comparison(
        analytic,
        numeric,
        skipped,
        ratio,
        noise,
        relative if rtol is None else np.full_like(relative, rtol),
        _summary([s.reference for s in slopes]),
        probes=text,
    )


def _columns(slopes: Sequence[Slope]) -> Array:
    return np.nan_to_num(np.stack([s.value for s in slopes], axis=1))


def detection_bound(probes: int, times: float) -> float:
    """An upper bound on the probability that ``probes`` independent normal probes all miss a
    Jacobian error whose Frobenius norm is ``times`` the tolerance, however it is spread.

    For an error E of norm 1 with singular values s_k, Z = vᵀEu has the characteristic function
    prod (1 + s_k² t²)^(-1/2) <= (1 + t²)^(-1/2), the one of rank one, since the s_k² sum to 1.
    The kernel sqrt(e) exp(-z² / 2ε²) is at least 1 for |z| <= ε and its Fourier transform is
    positive, so P(|Z| <= ε) <= sqrt(e) E exp(-Z² / 2ε²) is largest for rank one, Z = a b, where it
    is sqrt(e) E (1 + b² / ε²)^(-1/2), with b normal and ε = 1 / times.

    >>> detection_bound(8, 100) < 1e-8
    True
    """
    probes = arguments.integer("detection_bound", "probes", probes, 1)
    times = float(arguments.number("detection_bound", "times", times, above=0, most=1e100))
    # the integrand has a peak of width 1 / times at 0: integrate in s, where b = sinh(s) / times
    s = np.linspace(0, math.asinh(40 * times), 20001)
    b = np.sinh(s) / times
    density = np.exp(-(b**2) / 2) / math.sqrt(2 * math.pi)
    values = density * np.cosh(s) / times / np.sqrt(1 + (b * times) ** 2)
    single = math.sqrt(math.e) * 2 * float(np.trapezoid(values, s))
    return min(1.0, single) ** probes
