"""Packed weights: an array of weights, together with the forms that kernels brought it into.

Kernels do not read weights as they are stored. They pack them into panels, or transform them first,
which for one image takes as long as using them. Whoever keeps :class:`PackedWeights` between two
calls keeps these forms too; they are made when they are first asked for.
(:func:`minires.autograd.memo` keeps them until one of their tensors is written.)
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from ..autograd.engine import call, current
from ..device import array_module


class PackedWeights:
    """``array`` (c_out, c_in / groups, k_h, k_w) and ``bias`` (c_out,) or None, which must not
    change any more, and their forms."""

    __slots__ = ("_forms", "array", "bias")

    def __init__(self, array: Any, bias: Any = None):
        self.array, self.bias = array, bias
        self._forms: dict[Hashable, Any] = {}

    def form(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The form of this name, made by ``make`` when it is first asked for."""
        if key not in self._forms:
            self._forms[key] = current().part(self, make)
        return self._forms[key]


def contiguous(w: Any) -> Any:
    """Weights in contiguous memory: the array itself if it is contiguous, else a copy."""
    return w if w.flags.c_contiguous else call(array_module(w).ascontiguousarray, w)


def as_packed(w: Any) -> PackedWeights:
    """An array as packed weights without bias, of this call alone; packed weights as they are."""
    return w if isinstance(w, PackedWeights) else PackedWeights(w)
