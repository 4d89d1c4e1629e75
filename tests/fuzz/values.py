"""What is put in place of an argument: values of every kind that users pass by mistake."""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import pathlib
import types
from collections.abc import Callable
from typing import Any

import numpy as np

import minires as mr


class Broken:
    """Each of its special methods raises."""

    def _raise(self, *args: Any) -> Any:
        raise RuntimeError("broken on purpose")

    __index__ = __int__ = __float__ = __bool__ = __len__ = __iter__ = _raise
    __repr__ = __str__ = __array__ = __getitem__ = _raise


class Liar:
    """Says that it is an integer, an array and a sequence, and gives none."""

    shape = "wide"
    dtype = "float32"

    def __index__(self) -> Any:
        return "three"

    def __array__(self, *args: Any, **options: Any) -> Any:
        return "no array"

    def __len__(self) -> Any:
        return -1


class Sparse:
    """Looks like an array, and has no entries."""

    shape, dtype, ndim = (2, 3), np.dtype("float32"), 2

    def numel(self) -> int:
        return 6


def a_function(*args: Any, **options: Any) -> None:
    return None


def _read_only() -> Any:
    array = np.ones((2, 3), np.float32)
    array.flags.writeable = False
    return array


def _loop() -> list[Any]:
    loop: list[Any] = []
    loop.append(loop)
    return loop


def _deep() -> list[Any]:
    deep: list[Any] = []
    for _ in range(200):
        deep = [deep]
    return deep


def _deeper() -> list[Any]:
    deep: list[Any] = []
    for _ in range(100_000):  # more than Python recurses
        deep = [deep]
    return deep


BAD: dict[str, Callable[[], Any]] = {
    # none, flags, integers
    "None": lambda: None,
    "True": lambda: True,
    "False": lambda: False,
    "0": lambda: 0,
    "-1": lambda: -1,
    "3": lambda: 3,
    "-2**63": lambda: -(2**63),
    "2**31": lambda: 2**31,
    "2**63": lambda: 2**63,
    "2**64": lambda: 2**64,
    "10**400": lambda: 10**400,
    # floats and what else is a number
    "1.5": lambda: 1.5,
    "0.0": lambda: 0.0,
    "-0.5": lambda: -0.5,
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "-inf": lambda: float("-inf"),
    "1e308": lambda: 1e308,
    "complex": lambda: 1 + 2j,
    "Decimal": lambda: decimal.Decimal("0.5"),
    "Fraction": lambda: fractions.Fraction(1, 3),
    # text and bytes
    "''": lambda: "",
    "text": lambda: "no such thing",
    "long text": lambda: "x" * 5000,
    "surrogates": lambda: "\udcff\ud800",
    "NUL": lambda: "a\0b",
    "bytes": lambda: b"\x00\xff",
    "bytearray": lambda: bytearray(3),
    # containers
    "[]": lambda: [],
    "()": lambda: (),
    "{}": lambda: {},
    "set": lambda: {1, 2},
    "[1, 2]": lambda: [1, 2],
    "(1, 2, 3)": lambda: (1, 2, 3),
    "(-1, 0)": lambda: (-1, 0),
    "(2**70, 1)": lambda: (2**70, 1),
    "(1.5, None)": lambda: (1.5, None),
    "nested": lambda: [[1, 2], [3]],
    "['a', None]": lambda: ["a", None],
    "200 levels": _deep,
    "100,000 levels": _deeper,
    "in itself": _loop,
    "10,000 numbers": lambda: list(range(10_000)),
    "{1: 2}": lambda: {1: 2},
    "{'a': object}": lambda: {"a": object()},
    "deque": lambda: collections.deque([1]),
    "range": lambda: range(3),
    "generator": lambda: (n for n in (1, 2)),
    "iterator of nothing": lambda: iter(()),
    # things
    "object": object,
    "class": lambda: Broken,
    "function": lambda: a_function,
    "module": lambda: types,
    "Ellipsis": lambda: Ellipsis,
    "slice": lambda: slice(None, "x"),
    "NotImplemented": lambda: NotImplemented,
    "path": lambda: pathlib.Path("no/such/file"),
    "date": lambda: datetime.date(2020, 1, 1),
    "exception": lambda: ValueError("x"),
    "broken": Broken,
    "liar": Liar,
    "sparse": Sparse,
    # NumPy scalars
    "int8": lambda: np.int8(-3),
    "int64": lambda: np.int64(2),
    "uint64": lambda: np.uint64(2**64 - 1),
    "float16": lambda: np.float16(0.5),
    "float32": lambda: np.float32(0.5),
    "float64 nan": lambda: np.float64("nan"),
    "longdouble": lambda: np.longdouble("0.1"),
    "complex128": lambda: np.complex128(1j),
    "bool_": lambda: np.True_,
    "str_": lambda: np.str_("a"),
    "bytes_": lambda: np.bytes_(b"a"),
    "datetime64": lambda: np.datetime64("2020-01-01"),
    "void": lambda: np.void(b"abc"),
    "dtype": lambda: np.dtype("float16"),
    # arrays
    "0-d int array": lambda: np.array(2),
    "0-d float array": lambda: np.array(0.5),
    "0-d object array": lambda: np.array(None),
    "empty array": lambda: np.zeros((0, 3), np.float32),
    "int array": lambda: np.arange(6).reshape(2, 3),
    "float array": lambda: np.ones((2, 3), np.float32),
    "bool array": lambda: np.ones((2, 3), bool),
    "float16 array": lambda: np.ones((2, 3), np.float16),
    "complex array": lambda: np.ones((2, 3), np.complex64),
    "object array": lambda: np.array([None, "a"], object),
    "str array": lambda: np.array(["a", "b"]),
    "datetime array": lambda: np.zeros(2, "datetime64[s]"),
    "structured array": lambda: np.zeros(2, [("a", "f4"), ("b", "i4")]),
    "big-endian array": lambda: np.ones((2, 3), ">f4"),
    "read-only array": _read_only,
    "reversed array": lambda: np.ones((2, 3), np.float32)[::-1, ::-1],
    "large view": lambda: np.broadcast_to(np.float32(0), (2**7, 2**7, 2**6)),
    "32 dims": lambda: np.ones((1,) * 32, np.float32),
    "nan array": lambda: np.full((2, 3), np.nan, np.float32),
    # tensors
    "0-d tensor": lambda: mr.tensor(2.0),
    "0-d int tensor": lambda: mr.tensor(2),
    "tensor (2, 3)": lambda: mr.ones(2, 3),
    "float64 tensor": lambda: mr.ones(2, 3, dtype="float64"),
    "int tensor": lambda: mr.ones(2, 3, dtype="int64"),
    "uint8 tensor": lambda: mr.ones(2, 3, dtype="uint8"),
    "bool tensor": lambda: mr.ones(2, 3, dtype="bool"),
    "complex tensor": lambda: mr.ones(2, 3, dtype="complex64"),
    "complex images": lambda: mr.ones(2, 4, 6, 6, dtype="complex128"),
    "int8 images": lambda: mr.ones(2, 4, 6, 6, dtype="int8"),
    "empty tensor": lambda: mr.zeros(0),
    "empty images": lambda: mr.zeros(0, 4, 6, 6),
    "images": lambda: mr.ones(2, 4, 6, 6, requires_grad=True),
    "5-d tensor": lambda: mr.ones(1, 2, 1, 2, 1),
    "reversed tensor": lambda: mr.from_numpy(np.ones((2, 3), np.float32)[::-1, ::-1]),
    "large tensor": lambda: mr.ones(1).expand(2**20),
    "result": lambda: mr.ones(2, 3, requires_grad=True) * 2,
    "module of nn": lambda: mr.nn.Linear(2, 3),
    "parameter": lambda: mr.nn.Parameter(np.ones((3, 2), np.float32)),
}
