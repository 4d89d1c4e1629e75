"""The float32 kernels, held against float64 in units of the rounding error they must make.

A sum of n products computed in float32 is off by about ``sqrt(n) * eps * sum(|products|)``: the
rounding errors are independent, and add up like a random walk (Higham, Accuracy and Stability of
Numerical Algorithms, 2002, sec. 2.8). For the gradient g = vᵀJ the products are the J_ij v_i, all
of them known here; for the value, to first order, the J_ij x_j. Differences would see nothing of
this: their own error in float32 is ten thousand times larger.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .analytic import Backward
from .compare import Comparison
from .numeric import Ladder, scales
from .point import EPS, Array, Point, host
from .report import ROUNDING_LIMIT

UNKNOWN = 10  # by how much a network's products may exceed their sum
EPS32 = float(np.finfo(np.float32).eps)


class Uncertainty:
    """How well a derivative is determined at all: how far numbers and backward move when the point
    moves by an ulp or two. Where large terms cancel, as in the gradient of a bias in front of a
    batch norm, that is far more than the rounding of what is left."""

    def __init__(self, point: Point, backward: Backward, ladder: Ladder) -> None:
        self.point, self.backward, self.ladder = point, backward, ladder
        self._analytic: dict[int, Array] = {}

    def of(self, index: int, columns: Any) -> Array:
        """For one tensor, in the columns where the mask is set; 0 elsewhere."""
        value = self.point.values[index]
        scale = scales(value)
        moved = np.where(columns, self._of_backward(index), 0.0)
        for k, place in enumerate(np.ndindex(value.shape)):
            if columns[k]:
                direction = self.ladder.direction(index, place, scale)
                moved[k] = max(moved[k], self.ladder.rounding(direction) / scale[place])
        return moved

    def _of_backward(self, index: int) -> Array:
        if index not in self._analytic:
            here = self._jacobian(self.backward, index)
            moved = np.zeros(self.point.values[index].size)
            for values in self.point.nearby(2):
                with self.point.moved(values):
                    near = self._jacobian(Backward(self.point), index)
                moved = np.maximum(moved, np.abs(near - here).max(axis=0, initial=0.0))
            self._analytic[index] = np.nan_to_num(moved)
        return self._analytic[index]

    def of_products(self, index: int, upstreams: Sequence[Array]) -> Array:
        """How far vᵀJ by backward moves, the furthest for any of the upstream gradients."""
        here = [self.backward.products(v)[index] for v in upstreams]
        moved = np.zeros(self.point.values[index].size)
        for values in self.point.nearby(2):
            with self.point.moved(values):
                near = Backward(self.point)
                for v, product in zip(upstreams, here):
                    moved = np.maximum(moved, np.abs(near.products(v)[index] - product))
        return np.nan_to_num(moved)

    def of_dense(self, v: Array) -> float:
        """What rounding may do to vᵀJ where its terms cancel to less than the result is worth, as
        those of a saturated softmax: they are of the size of v y."""
        size = float(np.abs(host(self.backward.y._array)).max(initial=0.0))
        return EPS * float(np.abs(v).max(initial=0.0)) * size

    def _jacobian(self, backward: Backward, index: int) -> Any:
        return backward.jacobians([i == index for i in range(len(self.point.varied))])[index]


class Float32:
    """One float32 pass at the point, judged by the float64 pass ``backward``.

    Attributes:
        notes: why some of it could not be judged.
    """

    def __init__(
        self,
        point: Point,
        backward: Backward,
        comparisons: Sequence[Comparison],
        uncertainty: Uncertainty,
        rng: np.random.Generator,
    ) -> None:
        self.notes: list[str] = []
        self._units: list[float | None] = [None] * len(point.varied)
        v = rng.standard_normal(backward.y.numel()).astype(np.float32).astype(np.float64)
        exact = backward.products(v)
        y64 = host(backward.y._array).reshape(-1)
        with point.own_precision():
            single = Backward(point)
            y32 = host(single.y._array).reshape(-1)
            found = single.products(v)
        if {g.dtype for g in found} != {np.dtype(np.float32)}:
            self.notes.append("float32 not judged: some inputs are float64")
            return
        if single.switches != backward.switches:
            self.notes.append("float32 not judged: it switches another way at a kink")
            return
        whole = [c.analytic for c in comparisons if not c.probes]
        if len(whole) == len(comparisons):
            joint = np.nan_to_num(np.concatenate(whole, axis=1))
            reach = np.abs(joint) @ np.abs(np.concatenate([x.reshape(-1) for x in point.values]))
            count = (joint != 0).sum(axis=1)
        else:  # the products are not known: the size of the results stands for them
            reach, count = np.abs(y64), np.full(y64.shape, y64.size)
        worst = float(units(y32, y64, reach + np.abs(y64), count).max(initial=0.0))
        if not worst <= ROUNDING_LIMIT:
            backward.faults.append(
                f"the float32 result is off by {worst:.1f} units of accumulated rounding error"
            )
        for index, (g32, g64, c) in enumerate(zip(found, exact, comparisons)):
            if c.probes:  # the products are not known, and the sum has cancelled
                sizes, count = UNKNOWN * np.abs(g64), np.full(g64.shape, y64.size)
            else:
                j = np.nan_to_num(c.analytic)
                sizes, count = np.abs(v) @ np.abs(j), (j != 0).sum(axis=0)
            error = units(g32, g64, sizes, count)
            bad = ~(error <= ROUNDING_LIMIT)
            if bad.any():
                # where large terms cancel (a bias in front of a batch norm) J does not show their
                # size; how far an ulp of float64 moves it does
                more = 4 * EPS32 / EPS * uncertainty.of_products(index, [v]).max(initial=0.0)
                if not c.probes:
                    of_columns = uncertainty.of(index, bad) * np.linalg.norm(v)
                    more = np.maximum(more, 4 * EPS32 / EPS * of_columns)
                error[bad] = units(g32, g64, sizes, count, more)[bad]
            self._units[index] = float(error.max(initial=0.0))

    def error(self, index: int) -> float | None:
        """The worst error of one argument's gradient, in units of rounding."""
        return self._units[index]


def units(
    found: Array, exact: Array, products: Array, count: Array, more: Array | float = 0.0
) -> Array:
    """|found - exact| over ``sqrt(count) * eps * (products + their largest) + more``.

    Args:
        products: the sum of the products' absolute values, per entry.
        count: how many products there are, per entry.
    """
    unit = EPS32 * np.sqrt(np.maximum(count, 1)) * (products + products.max(initial=0.0)) + more
    error = np.abs(found.astype(np.float64) - exact)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(error == 0, 0.0, error / unit)
    return np.where(np.isnan(ratio), np.inf, ratio)
