"""The derivative by backward, and whether backward keeps the rules of the house."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from ..autograd import grad
from ..device import array_module
from ..tensor import Tensor
from ..watcher import watch
from .point import Array, Point, host, kept_arrays


class Backward:
    """One recorded forward pass at a point, and as many backward passes as are asked for.

    Attributes:
        y: the result.
        switches: how the forward pass chose at its kinks.
        reached: for each varied tensor, whether the tape leads from ``y`` to it.
        faults: what is wrong besides numbers; filled by :meth:`inspect`.
    """

    def __init__(self, point: Point) -> None:
        self.point = point
        with watch() as seen:
            self.y = point.forward()
        self.switches = seen.switches
        self.faults: list[str] = []
        self.reached = [False] * len(point.varied)
        self._kept: list[tuple[str, Any, Any]] = []
        self._spoils = False
        if self.y.requires_grad:
            zero = self.y.detach() * 0
            self._kept = [(name, a, a.copy()) for name, a in kept_arrays(self.y)]
            self.reached = [g is not None for g in self._gradients(zero)]
            self._put_back()

    def _gradients(self, v: Tensor) -> tuple[Any, ...]:
        return grad(self.y, self.point.varied, v, retain_graph=True, allow_unused=True)

    def products(self, v: Array) -> list[Array]:
        """vᵀJ for each varied tensor, flat; zeros for one that the tape does not lead to."""
        if not self.y.requires_grad:
            return [np.zeros(t.numel(), self.y.dtype) for t in self.point.varied]
        array = v.reshape(self.y.shape).astype(self.y.dtype)
        found = self._gradients(Tensor(self._on_device(array)))
        result = [
            np.zeros(t.numel(), self.y.dtype) if g is None else host(g._array).reshape(-1).copy()
            for g, t in zip(found, self.point.varied)
        ]
        if self._spoils:
            self._put_back()
        return result

    def _on_device(self, array: Array) -> Any:
        return Tensor(array).to(self.y.device)._array

    def jacobians(self, wanted: list[bool]) -> list[Array | None]:
        """(output size, size) for each wanted tensor: one backward pass per output entry, with an
        upstream gradient of random size and sign there and zeros elsewhere."""
        rng = np.random.default_rng(self.y.numel())
        size = self.y.numel()
        result: list[Array | None] = [
            np.zeros((size, t.numel())) if want else None
            for t, want in zip(self.point.varied, wanted)
        ]
        if not (self.y.requires_grad and any(wanted)):
            return result
        for row in range(size):
            v = np.zeros(size)
            v[row] = rng.choice([-1, 1]) * rng.uniform(0.5, 2)
            for jacobian, product in zip(result, self.products(v)):
                if jacobian is not None:
                    jacobian[row] = product / v[row]
        return result

    def inspect(self, v: Array, again: Backward) -> None:
        """What must hold for every backward pass, tried with the dense upstream gradient ``v``.

        ``again`` is a second, fresh pass at the same point. Fills :attr:`faults`.
        """
        if not self.y.requires_grad:
            return
        point, names = self.point, self.point.labels
        upstream = Tensor(self._on_device(v.reshape(self.y.shape).astype(self.y.dtype)))
        before = upstream._array.copy()
        found = self._gradients(upstream)
        first = [None if g is None else g._array.copy() for g in found]
        if not _same(upstream._array, before):
            self.faults.append("backward writes into its upstream gradient")
        self._look_for_changes()
        arrays = [
            (f"the gradient of {name}", g._array) for name, g in zip(names, found) if g is not None
        ]
        others = [("the upstream gradient", upstream._array)]
        others += [(name, t._array) for name, t in zip(names, point.varied)]
        for (name, a), (other, b) in [
            *itertools.product(arrays, others),
            *itertools.combinations(arrays, 2),
        ]:
            if a.size and b.size and array_module(a).shares_memory(a, b):
                self.faults.append(f"{name} shares memory with {other}")
        for what, other_pass in (("a second backward pass", self), ("a second call", again)):
            repeated = other_pass._gradients(Tensor(before.copy()))
            for name, one, two in zip(names, first, repeated):
                if one is not None and not _same(one, two._array):
                    self.faults.append(f"{what} gives other bits for the gradient of {name}")
            other_pass._put_back()
        unclean = [name for name, g in zip(names, first) if g is not None and not _finite(g)]
        if unclean:
            self.faults += [f"the gradient of {name} has NaN or infinity" for name in unclean]
            return
        zero = self._gradients(Tensor(before * 0))
        for name, g in zip(names, zero):
            if g is not None and g._array.any():
                self.faults.append(
                    f"a zero upstream gradient gives a gradient of {name} that is not zero: "
                    "backward does not multiply by what comes from above"
                )
        self._put_back()

    def _look_for_changes(self) -> None:
        changed = sorted({name for name, a, copy in self._kept if not _same(a, copy)})
        if changed:
            self._spoils = True
            self.faults.append(f"backward changes an array that {' and '.join(changed)} saved")
            self._put_back()
        point = self.point
        for name, tensor, value in zip(point.labels, point.varied, point.values):
            if not np.array_equal(host(tensor._array), value.astype(tensor.dtype)):
                self.faults.append(f"backward writes into {name}")
                tensor._array[...] = Tensor(value).to(tensor.device)._array

    def _put_back(self) -> None:
        for _, array, copy in self._kept:
            if not _same(array, copy):
                array[...] = copy


def _finite(array: Any) -> bool:
    return bool(array_module(array).isfinite(array).all())


def _same(one: Any, other: Any) -> bool:
    return bool(((one == other) | ((one != one) & (other != other))).all())
