"""The float32 kernels, held against float64 in units of the rounding error they must make.

A sum of n products computed in float32 is off by about ``sqrt(n) * eps * sum(|products|)``: the
rounding errors are independent, and add up like a random walk (Higham, Accuracy and Stability of
Numerical Algorithms, 2002, sec. 2.8). For the gradient g = vᵀJ the products are the J_ij v_i, all
of them known here; for the value, to first order, the J_ij x_j. Differences would see nothing of
this: their own error in float32 is ten thousand times larger.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..autograd import watch
from .analytic import Array, Backward
from .compare import Comparison
from .numeric import scales
from .point import Point, host
from .report import ROUNDING_LIMIT

EPS32 = float(np.finfo(np.float32).eps)


class Float32:
    """One float32 pass at the point, judged by the float64 pass ``backward``.

    Attributes:
        notes: why some of it could not be judged.
    """

    def __init__(
        self,
        point: Point,
        backward: Backward,
        comparisons: Sequence[Comparison | None],
        rng: np.random.Generator,
    ) -> None:
        self.notes: list[str] = []
        self._units: list[float | None] = [None] * len(point.varied)
        whole = [c for c in comparisons if c is not None and not c.probes]
        if len(whole) < len(comparisons):
            self.notes.append("float32 not judged: that needs every entry of the Jacobian")
            return
        jacobians = [np.nan_to_num(c.analytic) for c in whole]
        v = rng.standard_normal(backward.y.numel()).astype(np.float32).astype(np.float64)
        exact = backward.products(v)
        with watch() as seen64:
            y64 = host(point.forward()._array).reshape(-1)
        with point.own_precision():
            if {t.dtype for t in point.varied} != {np.dtype(np.float32)}:
                self.notes.append("float32 not judged: some inputs are float64")
                return
            with watch() as seen32:
                single = Backward(point)
            y32 = host(single.y._array).reshape(-1)
            found = single.products(v)
        if seen32.switches != seen64.switches:
            self.notes.append("float32 not judged: it switches another way at a kink")
            return
        joint = np.concatenate(jacobians, axis=1)
        reach = np.abs(joint) @ np.abs(np.concatenate([x.reshape(-1) for x in point.values]))
        worst = units(y32, y64, reach + np.abs(y64), (joint != 0).sum(axis=1))
        if not worst <= ROUNDING_LIMIT:
            backward.faults.append(
                f"the float32 result is off by {worst:.1f} units of accumulated rounding error"
            )
        # where large terms cancel (a bias in front of a batch norm) J does not show their size:
        # a gradient that makes y of its size out of x of its size would
        natural = float(np.linalg.norm(v)) * float(np.abs(y64).max(initial=0.0))
        for index, (g32, g64, j, x) in enumerate(zip(found, exact, jacobians, point.values)):
            assert j is not None
            products = np.abs(v) @ np.abs(j) + natural / scales(x).reshape(-1)
            self._units[index] = units(g32, g64, products, (j != 0).sum(axis=0))

    def error(self, index: int) -> float | None:
        """The worst error of one argument's gradient, in units of rounding."""
        return self._units[index]


def units(found: Array, exact: Array, products: Array, count: Array) -> float:
    """The worst |found - exact| over ``sqrt(count) * eps * (products + their largest)``.

    Args:
        products: the sum of the products' absolute values, per entry.
        count: how many products there are, per entry.
    """
    if not found.size:
        return 0.0
    unit = EPS32 * np.sqrt(np.maximum(count, 1)) * (products + products.max())
    error = np.abs(found.astype(np.float64) - exact)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(error == 0, 0.0, error / unit)
    return float(np.where(np.isnan(ratio), np.inf, ratio).max())
