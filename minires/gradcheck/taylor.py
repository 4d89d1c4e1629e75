"""The Taylor test: how fast the remainder of the linear model falls.

With g the gradient at x, ``|φ(x + hd) - φ(x) - h <g, d>|`` falls like h² as h falls, and only
like h if g is wrong: a slope of 2 in a log-log plot, or of 1. No tolerance and no best step is
involved (Farrell, Ham, Funke and Rognes 2013, arXiv:1204.5577, sec. 6).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .. import arguments, markup
from ..report.figures import DASHED, GREY, KIND_COLOURS, heading, layout, styled, to_bytes
from ..tensor import Tensor
from .analytic import Backward
from .check import labels_of
from .demands import as_list, check_inputs, check_result, seed_of
from .numeric import scales
from .point import EPS, Point
from .report import Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class TaylorReport(Verdict):
    """Remainders along one random direction.

    Attributes:
        steps: the h, each half the one before.
        remainders: of the linear model at each of them.
        slopes: log2 of the quotient of neighbours; 2 (or more) for a right gradient.
        exact: the function is linear as far as rounding can tell: there is no remainder.
    """

    function: str
    steps: tuple[float, ...]
    remainders: tuple[float, ...]
    slopes: tuple[float, ...]
    exact: bool

    @property
    def ok(self) -> bool:
        return self.exact or (bool(self.slopes) and float(np.median(self.slopes[-3:])) > 1.8)

    @property
    def figure(self) -> Figure:
        """The remainders against the steps, beside the line along which h² falls."""
        return _figure(self)

    def table_html(self) -> str:
        return "" if self.exact else markup.picture(to_bytes(self.figure, "svg"), "remainders")

    def __str__(self) -> str:
        verdict = "ok" if self.ok else "the remainder does not fall with the square of the step"
        lines = [f"{self.function}: {verdict}"]
        if self.exact:
            lines.append("  linear: no remainder above rounding error")
        slopes = ("", *(f"{s:.3f}" for s in self.slopes))
        for h, remainder, slope in zip(self.steps, self.remainders, slopes):
            lines.append(f"  h {h:.2e}  remainder {remainder:.3e}  slope {slope}".rstrip())
        return "\n".join(lines)


@styled
def _figure(report: TaylorReport) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.7, 3.4), layout=layout())
    axis = figure.subplots()
    h, r = np.array(report.steps), np.array(report.remainders)
    above = r > 0
    axis.loglog(h[above], r[above], color=KIND_COLOURS["residual"], marker="o", ms=4)
    if above.any():
        start = int(above.argmax())
        axis.loglog(h, r[start] * (h / h[start]) ** 2, color=GREY, lw=1, ls=DASHED)
    axis.set_xlabel("step h")
    axis.set_ylabel("remainder")
    heading(figure, f"Taylor test of {report.function}", ["dashed: falls like h²"])
    return figure


def taylor(
    f: Callable[..., Tensor],
    inputs: Sequence[Tensor] | Tensor,
    *,
    steps: int = 10,
    seed: int = 0,
) -> TaylorReport:
    """The Taylor test of ``f`` along a random direction of all inputs, in float64.

    The scalar is φ = vᵀf with v drawn at random. The first step is the largest one of 1/8, 1/16,
    ... along which the function does not switch (no ReLU opens, no maximum moves).

    Args:
        f: takes the inputs, returns one tensor.
        inputs: leaves that require grad.
        steps: how many halvings.

    Raises:
        DTypeError, GraphError, NaNError, ArgumentError: as :func:`minires.gradcheck.check`.

    >>> import minires as mr
    >>> from minires.gradcheck import taylor
    >>> x = mr.tensor([0.5, -1.5], dtype="float64", requires_grad=True)
    >>> [round(slope, 1) for slope in taylor(mr.exp, x).slopes]
    [2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]
    """
    steps = arguments.integer("taylor", "steps", steps, 1, 60)
    seed = seed_of("taylor", seed)
    xs = as_list(inputs)
    check_inputs(labels_of(f, xs), xs)
    arguments.takes("taylor", "f", f, len(xs))
    rng = np.random.default_rng(seed)
    with Point(f, xs, xs) as point:
        backward = Backward(point)
        check_result(point.name, backward.y, Backward(point).y)
        v = rng.standard_normal(backward.y.numel())
        d = [rng.standard_normal(x.shape) * scales(x) for x in point.values]
        gradients = backward.products(v)
        slope = float(sum(g @ u.reshape(-1) for g, u in zip(gradients, d)))
        curve = point.along(d)
        y0, here = curve(0.0)
        h = 1 / 8
        while h > 1e-6 and any(curve(t)[1] != here for t in (h, h / 2)):
            h /= 2
        hs = [h / 2**k for k in range(steps + 1)]
        remainders = [abs(float(v @ (curve(t)[0] - y0)) - t * slope) for t in hs]
    noise = 64 * EPS * float(np.abs(v) @ np.abs(y0) + abs(slope) * h)
    above = [r > noise for r in remainders]
    count = above.index(False) if False in above else len(above)
    clear = remainders[:count]
    slopes = tuple(float(np.log2(a / b)) for a, b in itertools.pairwise(clear))
    return TaylorReport(point.name, tuple(hs), tuple(remainders), slopes, not clear)
