"""Operands on a GPU: the families of kernels that read them, and how one is written out."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..operand import GRADIENT, PLAIN, Operand
from .kernel import Kernel
from .packs import MANY, THREADS, cut, pack_of, split
from .source import c_type

_SOURCE = Path(__file__).with_name("operand.cu")
FAMILIES = ("AS_IS", "AFFINE", "BACKWARD")


def family_of(kind: int) -> str:
    """The family of prologues that a kernel is compiled for (prologue.cuh), by the kind."""
    if kind == PLAIN:
        return "AS_IS"
    return "AFFINE" if kind < GRADIENT else "BACKWARD"


@functools.cache
def _write(dtype: Any, family: str, pack: int) -> Kernel:
    return Kernel(_SOURCE, f"write_operand<{c_type(dtype)}, {family}, {pack}>", THREADS)


def instances() -> Iterator[Kernel]:
    """Every kernel that this module may ask for."""
    for dtype in (np.dtype("float32"), np.dtype("float64")):
        for family in FAMILIES:
            yield from (_write(dtype, family, pack) for pack in (1, 16 // dtype.itemsize))


def write(operand: Operand, out: Any) -> None:
    """Fill ``out`` (..., c) with the values of an operand."""
    c, k = max(out.shape[-1], 1), operand.coefficients
    x, result = operand.x.reshape(-1, c), out.reshape(-1, c)
    y = None if operand.y is None else operand.y.reshape(-1, c)
    pack = pack_of(c, x, y, k, result)
    kernel, kind = _write(x.dtype, family_of(operand.kind), pack), np.int32(operand.kind)
    for x_, y_, out_ in split(1, x, y, result):
        way = cut(len(x_), c, pack, MANY)
        kernel(way.grid, x_, y_, k, kind, way.rows, out_)
