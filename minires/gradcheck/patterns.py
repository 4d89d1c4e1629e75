"""What the failing entries of a Jacobian have in common, in words.

A wrong derivative rarely looks random: a forgotten minus turns every sign, a mistake at the padding
touches the borders only, a batch norm without its x̂ term lacks a matrix of rank one in every
channel. :func:`describe` looks for such signatures, the most telling first, and says *how* the
values differ and *where*. Each recogniser asks for enough evidence to make an accident unlikely,
and compares with a tolerance far above the error of the numerical derivative.

J[i, j] = ∂output[i] / ∂argument[j], both flattened row by row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .places import ENOUGH, axis_names, where

Matrix = NDArray[np.float64]
Mask = NDArray[np.bool_]

TOLERANCE = 1e-6  # of the largest entry: above the error of every reference, below any real mistake


def describe(
    analytic: Matrix,
    numeric: Matrix,
    wrong: Mask,
    output_shape: tuple[int, ...],
    shape: tuple[int, ...],
    name: str,
    others: Mapping[str, tuple[Matrix, Matrix]] | None = None,
) -> str:
    """The pattern of the failing entries, in one line.

    Args:
        analytic, numeric: the two Jacobians, (m, n). Entries of ``numeric`` that are not finite
            (not determined) are left out.
        wrong: (m, n), which entries failed.
        output_shape, shape: of the output (m entries) and of the argument (n entries).
        name: of the argument. Axes are called (c_out, c_in, kh, kw) and (out, in) if its last
            part is ``w`` or ``weight``, else (n, c, h, w) and (n, c).
        others: the (analytic, numeric) Jacobians of the other arguments, by name.

    Returns:
        One line; "" if the failing entries do not differ (they failed for another reason).

    >>> numeric = np.array([[1.0, 2.0], [0.5, 3.0]])
    >>> describe(-numeric, numeric, numeric != 0, (2,), (2,), "x")
    'opposite sign'
    """
    if not np.isfinite(analytic).all():
        return f"NaN or infinity at {int((~np.isfinite(analytic)).sum()):,} entries"
    numeric = np.where(np.isfinite(numeric), numeric, analytic)
    wrong = wrong & (np.abs(analytic - numeric) > 1e-12 * np.abs(numeric).max())
    if not wrong.any():
        return ""
    jacobian = _Failure(analytic, numeric, wrong, output_shape, shape, name, others or {})
    for recognise in _WHOLE:
        if found := recognise(jacobian):
            return found
    how = next(filter(None, (recognise(jacobian) for recognise in _PARTIAL)), "")
    place = where(wrong, jacobian.support, shape, output_shape, name)
    if how == _ZERO and place:
        return f"the gradient is zero, {place}"
    if how and place:
        return f"{place}: {how}" if place.startswith("all failures") else f"{how}; {place}"
    share = f"{100 * wrong.mean():.3g} % of the entries"
    return how or place or f"no simple pattern ({share}, spread over all)"


@dataclass(frozen=True, eq=False)
class _Failure:
    """The two Jacobians, and what several recognisers ask about them."""

    analytic: Matrix
    numeric: Matrix
    wrong: Mask
    output_shape: tuple[int, ...]
    shape: tuple[int, ...]
    name: str
    others: Mapping[str, tuple[Matrix, Matrix]]

    @cached_property
    def tolerance(self) -> float:
        """What counts as rounding: small beside the entries, and beside the differences too."""
        scale = max(np.abs(self.analytic).max(), np.abs(self.numeric).max())
        return float(min(TOLERANCE * scale, 0.01 * np.abs(self.difference[self.wrong]).max()))

    @cached_property
    def difference(self) -> Matrix:
        return self.analytic - self.numeric

    @cached_property
    def support(self) -> Mask:
        """Where either Jacobian says that the output depends on the argument."""
        return self.is_some(self.analytic) | self.is_some(self.numeric)

    @cached_property
    def axes(self) -> tuple[str, ...]:
        return axis_names(self.shape, self.name)

    @cached_property
    def output_axes(self) -> tuple[str, ...]:
        return axis_names(self.output_shape)

    def is_some(self, values: Matrix) -> Mask:
        return np.abs(values) > self.tolerance

    def same(self, a: Matrix, b: Matrix) -> bool:
        return a.shape == b.shape and not self.is_some(a - b).any()

    @property
    def images(self) -> bool:
        """From a batch of images to a batch of images."""
        return self.axes == self.output_axes == ("n", "c", "h", "w")


# --------------------------------------------------------- findings that concern the whole Jacobian


def _all_zero(j: _Failure) -> str:
    return "" if j.is_some(j.analytic).any() else "the gradient is zero everywhere"


def _exchanged(j: _Failure) -> str:
    for other, (analytic, numeric) in j.others.items():
        if j.same(j.analytic, numeric):
            both = " (the two are exchanged)" if j.same(analytic, j.numeric) else ""
            return f"this is the gradient of {other}{both}"
    return ""


def _single(j: _Failure) -> str:
    if j.wrong.sum() != 1:
        return ""
    analytic, numeric = j.analytic[j.wrong][0], j.numeric[j.wrong][0]
    if abs(numeric) <= j.tolerance:
        return "one single entry, where the output does not depend on the input"
    return f"one single entry, off by the factor {analytic / numeric:.6g}"


def _turned(j: _Failure) -> str:
    """Kernels (or a weight matrix) read in another order."""
    if j.axes[-2:] in (("kh", "kw"), ("out", "in")):
        analytic = j.analytic.reshape(-1, *j.shape)
        numeric = j.numeric.reshape(-1, *j.shape)
        if j.same(analytic, numeric.swapaxes(-1, -2)):
            if j.axes[-1] == "in":
                return f"rows and columns of {j.name} exchanged (transposed)"
            return "kernel rows and columns exchanged (transposed)"
        if j.axes[-1] == "kw" and j.same(analytic, numeric[..., ::-1, ::-1]):
            return "kernel rotated by 180°"
    if not j.images:
        return ""
    # An image's gradient holds the kernel at every pixel. Exchanging its rows and columns is
    # exchanging those of both images, which only the square part of them allows.
    size, output_size = min(j.shape[2:]), min(j.output_shape[2:])
    full = (*j.output_shape, *j.shape)
    outer, inner, every = slice(output_size), slice(size), slice(None)
    square = (every, every, outer, outer, every, every, inner, inner)
    analytic, numeric = j.analytic.reshape(full)[square], j.numeric.reshape(full)[square]
    exchanged = numeric.swapaxes(2, 3).swapaxes(6, 7)
    some = j.is_some(analytic - numeric).sum() >= ENOUGH
    if some and j.same(analytic, exchanged):
        return "kernel rows and columns exchanged (transposed)"
    if j.same(j.analytic.reshape(full), j.numeric.reshape(full)[:, :, ::-1, ::-1, ..., ::-1, ::-1]):
        return "kernel rotated by 180°"
    return ""


def _all_scaled(j: _Failure) -> str:
    """One factor, and no entry without it."""
    factor = _ratio(j)
    return "" if factor is None or j.is_some(j.analytic - factor * j.numeric).any() else _factor(j)


def _upstream(j: _Failure) -> str:
    m, n = j.analytic.shape
    if m == n >= ENOUGH and j.same(j.analytic, np.eye(n)):
        return "the gradient is the upstream gradient itself: the chain rule was forgotten"
    return ""


def _identity(j: _Failure) -> str:
    """The skip of a residual block: ∂F/∂x + I, or D (∂F/∂x + S) with a ReLU behind."""
    places = j.is_some(j.difference)
    m, n = places.shape
    if places.sum() < ENOUGH or places.sum(axis=0).max() > 1 or places.sum(axis=1).max() > 1:
        return ""
    delta = float(np.median(j.difference[places]))
    if j.is_some(j.difference[places] - delta).any():
        return ""
    unit = abs(abs(delta) - 1) <= j.tolerance
    on_diagonal = m == n and bool(places.diagonal().sum() == places.sum())
    if not on_diagonal and (m == n or not unit):
        return ""
    rows = places.any(axis=1)
    numeric = j.is_some(j.numeric)
    if unit and delta > 0 and not numeric[rows].any():
        return (
            f"∂{j.name} has the identity where the output is switched off: "
            "was the skip added after the ReLU?"
        )
    if not (numeric & ~places)[rows].any():  # nothing but a diagonal: no F beside the identity
        return ""
    # An output that depends on nothing is closed by a ReLU: the identity cannot fail there.
    open_ = np.diag(numeric.any(axis=1)) if on_diagonal else places
    place = where(places, open_, j.shape, j.output_shape, j.name)
    place = place.removeprefix("only ").removesuffix(f" of {j.name}")
    if unit and delta < 0 and not place:
        return f"∂{j.name} is missing the identity (the skip was dropped)"
    what = f"scaled by {1 + delta:.6g}"
    if unit:
        what = "missing" if delta < 0 else "counted twice"
    return f"∂{j.name}: the identity is {what}" + (f" for {place}" if place else "")


def _batch_statistics(j: _Failure) -> str:
    """What batch norm subtracts: per channel a constant and a matrix of rank one,
    -γ/σ (1/m + x̂ x̂ᵀ/m) (Ioffe and Szegedy, 2015, arXiv:1502.03167, algorithm 1)."""
    if j.shape != j.output_shape or j.axes not in (("n", "c"), ("n", "c", "h", "w")):
        return ""
    channels = np.indices(j.shape)[1].reshape(-1)
    if j.is_some(j.difference[channels[:, None] != channels]).any():
        return ""
    ranks = []
    for c in range(j.shape[1]):
        block = j.difference[np.ix_(channels == c, channels == c)]
        some = j.is_some(block)
        if not some.any():
            continue
        if some.any(axis=0).sum() < ENOUGH or some.any(axis=1).sum() < ENOUGH:
            return ""
        ranks.append(0 if not j.is_some(block - block[0, 0]).any() else _rank(block, j.tolerance))
    if ranks and max(ranks) == 0:
        return "the same difference for all entries of a channel: a batch average is missing"
    if ranks and max(ranks) == 1:
        return "a product of rank one is missing in each channel (as the x̂ term of batch norm)"
    if ranks and max(ranks) == 2 and j.shape[0] * np.prod(j.shape[2:]) > ENOUGH:
        return (
            "differences of rank two in each channel: were the batch's mean and variance taken "
            "for constants?"
        )
    return ""


def _rank(block: Matrix, tolerance: float) -> int:
    """The numerical rank up to 2 (3 for more), by taking away the largest row and column."""
    for rank in range(3):
        row, column = np.unravel_index(np.abs(block).argmax(), block.shape)
        if abs(block[row, column]) <= 2**rank * tolerance:  # each step may double the rounding
            return rank
        block = block - np.outer(block[:, column], block[row]) / block[row, column]
    return 3


# ----------------------------------------------------------- findings that concern failing entries

_ZERO = "analytic is zero at the failing entries"


def _wrong_places(j: _Failure) -> str:
    analytic, numeric = j.is_some(j.analytic[j.wrong]), j.is_some(j.numeric[j.wrong])
    missing, extra = int((numeric & ~analytic).sum()), int((analytic & ~numeric).sum())
    if missing == len(analytic):
        return _ZERO
    if extra == len(analytic):
        return "a gradient where the output does not depend on the input (e.g. a tie sent twice)"
    if missing and extra and 2 * (missing + extra) >= len(analytic):
        return "the gradient lands in the wrong places (stride, dilation or padding mixed up?)"
    return ""


def _ratio(j: _Failure) -> float | None:
    """analytic / numeric, if it is constant over the failing entries."""
    analytic, numeric = j.analytic[j.wrong], j.numeric[j.wrong]
    if len(numeric) < ENOUGH or not j.is_some(numeric).all():
        return None
    ratio = float(analytic @ numeric / (numeric @ numeric))
    return None if j.is_some(analytic - ratio * numeric).any() else ratio


def _factor(j: _Failure) -> str:
    ratio = _ratio(j)
    if ratio is None:
        return ""
    if abs(ratio + 1) < TOLERANCE:
        return "opposite sign"
    if abs(ratio - 2) < TOLERANCE:
        return "counted twice"
    return f"all off by the same factor {ratio:.6g}{_size_hint(j, ratio)}"


def _size_hint(j: _Failure, ratio: float) -> str:
    if ratio <= 0:
        return ""
    size = round(max(ratio, 1 / ratio))
    if size < 3 or abs(max(ratio, 1 / ratio) / size - 1) > TOLERANCE:
        return ""
    if ratio > 1 and (j.support.sum(axis=1) == size).all():
        return f" (each output depends on {size} entries of {j.name}, a missing mean?)"
    for what, count in _sizes(j):
        if count == size and ratio > 1:
            return f" ({size} = {what}, a missing mean?)"
        if count == size:
            return f" (1/{size} = 1/{what}, a missing sum, or a mean too many?)"
    return ""


def _sizes(j: _Failure) -> Iterator[tuple[str, int]]:
    """The numbers of entries that sums and means run over, with their names."""
    for shape, axes, name in ((j.shape, j.axes, j.name), (j.output_shape, j.output_axes, "output")):
        sizes = dict(zip(axes, shape))
        groups = [[axis] for axis in axes] + [["h", "w"], ["kh", "kw"], ["n", "h", "w"], list(axes)]
        for group in groups:
            if set(group) <= set(axes):
                yield f"{'·'.join(group)} of {name}", math.prod(sizes[axis] for axis in group)


_Recogniser = Callable[[_Failure], str]
_WHOLE: tuple[_Recogniser, ...] = (
    _all_zero,
    _exchanged,
    _single,
    _turned,
    _all_scaled,
    _upstream,
    _identity,
    _batch_statistics,
)
_PARTIAL: tuple[_Recogniser, ...] = (_wrong_places, _factor)
