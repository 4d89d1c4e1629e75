"""Files that PyTorch's ``torch.load`` reads, ``weights_only=True`` included, without PyTorch.

The counterpart of :mod:`.pth`, which says what such a file is. Its pickle is written opcode by
opcode here, because Python's own pickler would have to import what a file names
(``torch._utils._rebuild_tensor_v2``), and because of all that pickles can say only a few words are
needed: containers, numbers, text and tensors. Protocol 2, PyTorch's.

A pickle is a program for a stack machine. ``{"n": 3}`` is::

    }          push an empty dict
    (          push a mark
    X "n"      push a text
    J 3        push an integer
    u          add the pairs above the mark to the dict below it
    .          the end: what is on the stack is the object
"""

from __future__ import annotations

import ctypes
import io
import struct
import sys
import zipfile
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from minires.device import CPU, device_of, is_array, move
from minires.errors import ArgumentError, DTypeError, message, quoted
from minires.nn.parameter import Parameter
from minires.tensor import Tensor

# The class of a typed storage for each dtype; those that are newer than these classes are named by
# their dtype beside an untyped storage.
_STORAGES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "complex64": "ComplexFloatStorage",
    "complex128": "ComplexDoubleStorage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}
_NEWER = ("uint16", "uint32", "uint64")
_DEEPEST = 100  # containers within each other
_LARGEST = 2**2000  # of integers: what one byte can tell the length of
_LARGEST_KEY = 2**61 - 1  # of those, what our reader takes as a key
_ALIGNMENT = 64  # bytes: where PyTorch wants storages to begin, to map them into memory
_HEADER = 30  # bytes of a zip archive before the name of a record
_BYTE_ORDER = sys.byteorder.encode()


def write_pth(content: Any) -> bytes:
    """The bytes of a file that holds ``content``.

    Args:
        content: tensors and arrays, in dicts, lists and tuples, with numbers, text, True, False and
            None. Tensors of one dtype that share memory share it in the file, too.

    Raises:
        ArgumentError: anything else, or containers that hold themselves; says where it is.
        DTypeError: an array of a dtype that PyTorch does not have.
    """
    writer = _Writer()
    writer.find(content, "the object", 0)
    storages = writer.place()
    writer.put(content)
    records = {"data.pkl": b"\x80\x02" + writer.out.getvalue() + b".", "byteorder": _BYTE_ORDER}
    records |= {f"data/{key}": storage for key, storage in enumerate(storages)}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, data in {**records, "version": b"3\n"}.items():
            info = zipfile.ZipInfo(f"archive/{name}")  # dated 1980: the same bytes every time
            # an extra field of the zip format, FB as PyTorch calls it, moves a record to its place
            padding = -(file.tell() + _HEADER + len(info.filename) + 4) % _ALIGNMENT
            info.extra = struct.pack("<2sH", b"FB", padding) + bytes(padding)
            archive.writestr(info, data)
    return file.getvalue()


class _Place(NamedTuple):
    """Where a tensor is in the file."""

    storage: int
    entries: int  # of the storage
    offset: int  # of its first entry
    strides: tuple[int, ...]  # in entries


class _Writer:
    """What was found in an object, and its pickle so far.

    Tensors are found before anything is written, since several may share a storage.
    """

    def __init__(self) -> None:
        self.out = io.BytesIO()
        self.arrays: dict[int, Any] = {}  # on the host, by the id of the tensor or array
        self.places: dict[int, _Place] = {}
        self._open: set[int] = set()  # containers that are being looked at, by id
        self._seen: list[Any] = []  # what ids belong to: no other object gets them meanwhile
        self._known: set[int] = set()
        self._from_gpu: dict[Any, Any] = {}
        self._memo: dict[int, int] = {}  # numbers of the containers that were written

    def find(self, value: Any, where: str, depth: int) -> None:
        """Note every tensor, and refuse what cannot be written."""
        if isinstance(value, str | int | float | np.generic | None):
            if isinstance(value, np.generic) and value.dtype.kind not in "biuf":
                raise _unknown(value, where)
            if isinstance(value, int) and abs(value) > _LARGEST:
                raise ArgumentError(message("save", "integers of at most 2000 bits", value, where))
            return
        if id(value) in self._open or depth > _DEEPEST:
            expected = f"containers at most {_DEEPEST} deep, none within itself"
            raise ArgumentError(message("save", expected, type(value).__name__, where))
        if id(value) in self._known:
            return
        self._known.add(id(value))
        self._seen.append(value)
        if isinstance(value, Tensor) or is_array(value):
            self.arrays[id(value)] = self._on_host(value, where)
        elif isinstance(value, Mapping | list | tuple):
            self._open.add(id(value))
            for key, item in _items(value):
                if isinstance(value, Mapping) and not _is_key(key):
                    expected = "keys of text, or of numbers below 2**61"
                    raise ArgumentError(message("save", expected, quoted(key), where))
                self.find(item, f"{where[-120:]}[{quoted(key)}]", depth + 1)
            self._open.remove(id(value))
        else:
            raise _unknown(value, where)

    def _on_host(self, value: Any, where: str) -> Any:
        array = value.detach()._array if isinstance(value, Tensor) else value
        if array.dtype.name not in (*_STORAGES, *_NEWER):
            raise DTypeError(message("save", "tensors of numbers", str(array.dtype), where))
        if device_of(array) != CPU:
            # tied parameters stay tied: the same memory of a GPU is copied once
            key = array.data.ptr, array.shape, array.strides, array.dtype, device_of(array)
            if key not in self._from_gpu:
                self._from_gpu[key] = move(array, CPU)
            return self._from_gpu[key]
        if not array.dtype.isnative or min(array.strides, default=0) < 0:
            return array.astype(array.dtype.newbyteorder("="), order="C")
        return array

    def place(self) -> list[bytes]:
        """Decide about the storages; returns their bytes. Arrays of one dtype whose memory overlaps
        have one storage, which reaches from the first byte of them to the last."""
        extents = sorted(
            ((array.dtype.name, *_extent(array), name) for name, array in self.arrays.items()),
            key=lambda extent: extent[:3],
        )
        groups: list[tuple[int, int, list[int]]] = []  # first byte, end, names of the arrays
        while extents:
            dtype, low, high, _ = extents[0]
            size = self.arrays[extents[0][3]].itemsize
            names: list[int] = []
            for other, begin, end, name in extents:
                if other != dtype or (names and begin >= high) or (begin - low) % size:
                    break
                high = max(high, end)
                names.append(name)
            del extents[: len(names)]
            if len(names) == 1 and high - low > self.arrays[names[0]].nbytes:
                # the entries in between are nobody's
                self.arrays[names[0]] = np.ascontiguousarray(self.arrays[names[0]])
                low, high = _extent(self.arrays[names[0]])
            groups.append((low, high, names))
        found = {name: number for number, name in enumerate(self.arrays)}
        groups.sort(key=lambda group: min(map(found.__getitem__, group[2])))  # not by address
        for number, (low, high, names) in enumerate(groups):
            for name in names:
                array = self.arrays[name]
                offset = (array.ctypes.data - low) // array.itemsize if array.size else 0
                strides = tuple(step // array.itemsize for step in array.strides)
                entries = (high - low) // array.itemsize
                self.places[name] = _Place(number, entries, offset, strides)
        return [ctypes.string_at(low, high - low) for low, high, _ in groups]

    # -- the pickle

    def put(self, value: Any) -> None:
        """Push an object."""
        if value is None or isinstance(value, bool | np.bool_):
            self.out.write(b"N" if value is None else b"\x88" if value else b"\x89")
        elif isinstance(value, int | np.integer):
            self._put_integer(int(value))
        elif isinstance(value, float | np.floating):
            self.out.write(b"G" + struct.pack(">d", float(value)))
        elif isinstance(value, str):
            data = value.encode("utf-8", "surrogatepass")
            self.out.write(b"X" + struct.pack("<I", len(data)) + data)
        elif id(value) in self._memo:
            self.out.write(b"j" + struct.pack("<I", self._memo[id(value)]))
        else:
            if id(value) in self.arrays:
                self._put_tensor(value)
            elif isinstance(value, tuple):
                self._put_tuple(*value)
            else:
                # noted before it is filled, as by Python's pickler
                self.out.write(b"}" if isinstance(value, Mapping) else b"]")
                self._note(value)
                self._fill(value)
                return
            self._note(value)

    def _note(self, value: Any) -> None:
        """Give what was pushed a number, by which it can be pushed again."""
        self._memo[id(value)] = len(self._memo)
        self.out.write(b"r" + struct.pack("<I", self._memo[id(value)]))

    def _fill(self, value: Any) -> None:
        self.out.write(b"(")
        for key, item in _items(value):
            if isinstance(value, Mapping):
                self.put(key)
            self.put(item)
        self.out.write(b"u" if isinstance(value, Mapping) else b"e")

    def _put_integer(self, value: int) -> None:
        if -(2**31) <= value < 2**31:
            self.out.write(b"J" + struct.pack("<i", value))
        else:
            data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            self.out.write(b"\x8a" + struct.pack("B", len(data)) + data)

    def _put_tuple(self, *items: Any) -> None:
        self.out.write(b"(")
        for item in items:
            self.put(item)
        self.out.write(b"t")

    def _put_global(self, module: str, name: str) -> None:
        self.out.write(f"c{module}\n{name}\n".encode())

    def _put_tensor(self, value: Any) -> None:
        """The call that makes it: ``_rebuild_tensor_v2(storage, offset, sizes, strides, ...)``."""
        array, place = self.arrays[id(value)], self.places[id(value)]
        dtype, trained = array.dtype.name, isinstance(value, Tensor) and value.requires_grad
        if isinstance(value, Parameter):
            self._put_global("torch._utils", "_rebuild_parameter")
            self.out.write(b"(")
        newer = dtype in _NEWER
        self._put_global("torch._utils", "_rebuild_tensor_v3" if newer else "_rebuild_tensor_v2")
        self.out.write(b"((")
        self.put("storage")
        if newer:
            self._put_global("torch.storage", "UntypedStorage")
        else:
            self._put_global("torch", _STORAGES[dtype])
        for part in (str(place.storage), "cpu", place.entries * (array.itemsize if newer else 1)):
            self.put(part)
        self.out.write(b"tQ")
        self._put_integer(place.offset)
        self._put_tuple(*array.shape)
        self._put_tuple(*place.strides)
        self.put(trained and not isinstance(value, Parameter))
        self._put_no_hooks()
        if newer:
            self._put_global("torch", dtype)
        self.out.write(b"tR")
        if isinstance(value, Parameter):
            self.put(trained)
            self._put_no_hooks()
            self.out.write(b"tR")

    def _put_no_hooks(self) -> None:
        self._put_global("collections", "OrderedDict")
        self.out.write(b")R")


def _items(value: Any) -> Iterable[tuple[Any, Any]]:
    return value.items() if isinstance(value, Mapping) else enumerate(value)


def _is_key(key: Any) -> bool:
    if isinstance(key, int):
        return abs(key) < _LARGEST_KEY
    return isinstance(key, str | float | None)


def _extent(array: Any) -> tuple[int, int]:
    """Where the memory of an array begins and ends."""
    begin: int = array.ctypes.data
    if not array.size:
        return begin, begin
    steps = [(n - 1) * step for n, step in zip(array.shape, array.strides)]
    return begin, begin + sum(steps) + array.itemsize


def _unknown(value: Any, where: str) -> ArgumentError:
    fix = ""
    if hasattr(value, "state_dict"):
        fix = "Save its state_dict()."
    elif isinstance(value, set | frozenset):
        fix = "Make it a list."
    expected = "tensors, dicts, lists, tuples, numbers and text"
    return ArgumentError(message("save", expected, quoted(value), where, fix))
