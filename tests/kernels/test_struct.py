"""Structs: names for the words that a kernel gets."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minires.kernels.numba.kernel import kernel
from minires.kernels.numba.struct import Table, struct


class Inner(NamedTuple):
    first: int
    table: Table


class Outer(NamedTuple):
    height: int
    rows: Table
    width: int


outer_at, inner_at = struct(Outer), struct(Inner)


@kernel
def _read(task, words, at, out):
    outer = outer_at(words, at)
    inner = inner_at(outer, 5)
    out[0], out[1], out[2] = outer.height, outer.width, outer.rows[1]
    out[3], out[4], out[5] = inner.first, inner.table[0], inner.table[1]


def test_fields_and_tables_are_read_by_name():
    tables = [80, 81]
    words = [-1, *Outer(height=5, rows=3, width=7), *tables, *Inner(first=9, table=2), 90, 91]
    out = np.zeros(6, np.int64)
    _read(1, np.array(words), 1, out)
    assert out.tolist() == [5, 7, 81, 9, 90, 91]
