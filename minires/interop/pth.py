"""PyTorch's checkpoints (``torch.save``, 1.6 and newer), read without PyTorch.

Such a file is a zip archive of uncompressed records: ``<name>/data.pkl`` describes the object,
``<name>/data/<key>`` are the bytes of its storages, ``<name>/byteorder`` says how they lie. A
tensor in the pickle is a call of ``_rebuild_tensor_v2`` with a storage, an offset, sizes and
strides. All of these come from the file, so all of them are checked before memory is looked at.
"""

from __future__ import annotations

import io
import math
import sys
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minires.errors import CheckpointError, message
from minires.files import open_to_read
from minires.interop.dtypes import CODES, HALVES, decode, itemsize
from minires.interop.unpickle import Global, Malformed, Refused, unpickle
from minires.tensor import Tensor, from_numpy

_LEGACY = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."  # a pickled magic number

# The classes of typed storages, and the dtype of their entries (a name of dtypes.py).
_STORAGES = {
    "torch.DoubleStorage": "float64",
    "torch.FloatStorage": "float32",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.ComplexFloatStorage": "complex64",
    "torch.ComplexDoubleStorage": "complex128",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
}
_UNTYPED = ("torch.storage.UntypedStorage", "torch.UntypedStorage")
_DTYPES = {f"torch.{name}" for name in (*CODES, "uint64")}
_NAMES = frozenset({*_STORAGES, *_UNTYPED, *_DTYPES})

# Entries of all tensors together, beyond so many for each byte of the file: strides of 0 and
# storages that are seen again and again could otherwise make a few bytes more than any memory as
# soon as they are copied.
_MOST_EXPANDED = 2**28
_MOST_SEEN = 8

# Bytes that conversions may make, for each byte of the file: 16-bit floats become twice as large.
# But a storage could be viewed under every dtype there is, each view converted.
_MOST_CONVERTED = 2
_CONVERTED_FREELY = 2**20
_MOST_AXES = 64  # NumPy's limit
_MOST_BITS = 128  # of a number, so that products of them stay cheap

_AGAIN = "Restore the file from a copy, or download it again."
_RESAVE = (
    "With a newer PyTorch, torch.save(torch.load(path), path) writes today's format, which can be "
    "loaded here."
)
# What zipfile raises on bad archives; its NotImplementedError is about flags nobody sets.
_ZIP_ERRORS = (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError)


class _Unreadable(Exception):
    """A file of another kind, and what to do with it; never leaves this module."""

    def __init__(self, got: str, fix: str) -> None:
        super().__init__(got)
        self.fix = fix


class _Damaged(Exception):
    """Records or numbers that do not fit together; never leaves this module."""


class _Storage(NamedTuple):
    """What a persistent identifier of the pickle stands for."""

    key: str
    dtype: str  # "" for untyped bytes


def read_pth(path: Path, op: str) -> tuple[Any, list[str]]:
    """The object in a checkpoint, its tensors being :class:`~minires.Tensor`.

    Returns:
        The object, and the dtypes of tensors that became float32 (see :mod:`.dtypes`).

    Raises:
        CheckpointError: no such file, not PyTorch's zip format, damaged, or a pickle that asks for
            more than tensors, containers, numbers and text. The text begins with ``op``.
    """
    what = f"a PyTorch checkpoint at {path}"
    with open_to_read(path, op) as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        try:
            _check_kind(file.read(512))
            with zipfile.ZipFile(file) as archive:
                checkpoint = _Checkpoint(archive, size)
                return checkpoint.load(), sorted(checkpoint.widened)
        except _Unreadable as error:
            raise CheckpointError(message(op, what, error, fix=error.fix)) from error
        except Refused as error:
            raise CheckpointError(
                message(
                    op,
                    f"only tensors, containers, numbers and text in {path}",
                    f"{error.what}; nothing of it was run",
                    fix="If you trust the file, open it with PyTorch and save the tensors alone: "
                    "torch.save(model.state_dict(), path).",
                )
            ) from error
        except (Malformed, _Damaged, *_ZIP_ERRORS) as error:
            got = f"a truncated or damaged file of {size:,} bytes ({error})"
            raise CheckpointError(message(op, what, got, fix=_AGAIN)) from error


def _check_kind(start: bytes) -> None:
    """Say what a file is, by its first bytes, if it is not a zip archive."""
    if start[:4] == b"PK\x03\x04":
        return
    if start[: len(_LEGACY)] == _LEGACY:
        raise _Unreadable("the format from before PyTorch 1.6, which is no zip archive", _RESAVE)
    if start[257:262] == b"ustar":
        raise _Unreadable("a tar archive, as the first versions of PyTorch wrote them", _RESAVE)
    if start[8:9] == b"{":
        raise _Unreadable("what looks like a safetensors file", "Name it .safetensors.")
    if start[:1] == b"\x80":
        fix = "With the program that wrote it, save a state dict by torch.save or as .safetensors."
        raise _Unreadable("a bare pickle", fix)
    raise _Unreadable("something else" if start else "an empty file", _AGAIN)


class _Checkpoint:
    """An open archive, and what was read of it so far."""

    def __init__(self, archive: zipfile.ZipFile, size: int) -> None:
        self.archive = archive
        self.size = size
        self.to_convert = _MOST_CONVERTED * size + _CONVERTED_FREELY  # bytes left to be made
        self.left = size  # records are not compressed: no honest file holds more than its size
        self.to_see = _MOST_SEEN * size + _MOST_EXPANDED  # entries left
        self.widened: set[str] = set()
        self._records: dict[str, bytearray] = {}
        self._arrays: dict[_Storage, np.ndarray[Any, Any]] = {}

    def load(self) -> Any:
        names = set(self.archive.namelist())
        if len(names) < len(self.archive.namelist()):  # programs differ in which one they read
            raise _Damaged("two records of one name")
        if any(name.endswith("/constants.pkl") for name in names):
            raise _Unreadable(
                "a TorchScript program",
                "With PyTorch: torch.save(torch.compiler.load(path).state_dict(), new_path).",
            )
        pickles = [name for name in names if name.endswith("/data.pkl")]
        if not pickles:
            raise _Unreadable(
                "a zip archive without a data.pkl", "Unpack it: the checkpoint may be inside."
            )
        self.root = min(pickles, key=lambda name: name.count("/")).removesuffix("data.pkl")
        self.byteorder = "little"  # of files from before it was recorded
        if f"{self.root}byteorder" in names:
            self.byteorder = self._read("byteorder").decode("ascii", "replace")
            if self.byteorder not in ("little", "big"):
                raise _Damaged(f"byte order {self.byteorder[:20]!r}")
        return unpickle(
            bytes(self._read("data.pkl")),
            functions={
                "collections.OrderedDict": _dict,
                "collections.Counter": _dict,  # in the state of PyTorch's MultiStepLR
                "torch.Size": _size,
                "torch.device": _device,
                "torch._utils._rebuild_tensor_v2": self._tensor,
                "torch._utils._rebuild_tensor_v3": self._tensor_of,
                "torch._utils._rebuild_parameter": _parameter,
            },
            names=_NAMES,
            persistent=self._storage,
            size=self.size,
        )

    def _read(self, name: str) -> bytearray:
        """A record, its CRC verified."""
        try:
            info = self.archive.getinfo(self.root + name)
        except KeyError:
            raise _Damaged(f"no record {name}") from None
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise _Damaged(f"record {name} is compressed or encrypted")
        if info.file_size != info.compress_size:  # a record of one byte could be read as millions
            raise _Damaged(f"record {name} has two sizes")
        self.left -= info.file_size
        if self.left < 0:
            raise _Damaged("its records claim to be larger than the file")
        return bytearray(self.archive.read(info))

    # -- what the pickle calls

    def _storage(self, identifier: Any) -> _Storage:
        """The storage of ``("storage", class, key, device, entries)``."""
        tag, kind, key, _, entries = identifier
        if tag != "storage" or not isinstance(kind, Global) or not isinstance(key, str):
            raise _Damaged("an object outside the pickle that is not a storage")
        dtype = "" if kind in _UNTYPED else _STORAGES[kind]  # "": untyped, the tensor says it
        if key not in self._records:
            self._records[key] = self._read(f"data/{key}")
        size = _whole(entries, "a storage's length") * (itemsize(dtype) or 1)
        if size > len(self._records[key]):
            raise _Damaged(f"storage {key} has {len(self._records[key])} bytes instead of {size}")
        return _Storage(key, dtype)

    def _tensor(
        self, storage: Any, offset: Any, size: Any, stride: Any, *_flags_and_hooks: Any
    ) -> Tensor:
        if not isinstance(storage, _Storage) or not storage.dtype:
            raise _Damaged("a tensor without a typed storage")
        return self._view(storage, offset, size, stride)

    def _tensor_of(
        self, storage: Any, offset: Any, size: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Any
    ) -> Tensor:
        if not isinstance(storage, _Storage) or storage.dtype or not isinstance(dtype, Global):
            raise _Damaged("a tensor without an untyped storage or a dtype")
        name = dtype.removeprefix("torch.")
        if itemsize(name) is None:
            raise _Unreadable(
                f"a tensor of {dtype}, which minires does not have",
                "Convert it with PyTorch, for instance to torch.int64 or torch.float32.",
            )
        return self._view(storage._replace(dtype=name), offset, size, stride)

    def _view(self, storage: _Storage, offset: Any, size: Any, stride: Any) -> Tensor:
        """The entries of a storage that a tensor consists of; views of one storage share memory."""
        if storage.dtype in HALVES:
            self.widened.add(storage.dtype)
        if storage not in self._arrays:
            raw = self._records[storage.key]
            entry = itemsize(storage.dtype) or 1
            whole = len(raw) - len(raw) % entry
            halves = storage.dtype in HALVES
            if halves or (entry > 1 and self.byteorder != sys.byteorder):
                self.to_convert -= whole * (2 if halves else 1)
            if self.to_convert < 0:
                raise _Damaged(
                    f"storage {storage.key} is seen under several dtypes, and would become many "
                    "times as large as the file"
                )
            self._arrays[storage] = decode(memoryview(raw)[:whole], storage.dtype, self.byteorder)
        array = self._arrays[storage]
        offset = _whole(offset, "an offset")
        shape = _size(size)
        steps = _size(stride, "a stride")
        if len(shape) != len(steps):
            raise _Damaged(f"{len(shape)} sizes and {len(steps)} strides")
        if math.prod(shape) == 0:
            return from_numpy(np.empty(shape, array.dtype))
        last = offset + sum((n - 1) * step for n, step in zip(shape, steps))
        if last >= array.size:
            raise _Damaged(
                f"a tensor reaches entry {last} of storage {storage.key}, which has {array.size}"
            )
        if math.prod(shape) > array.size + _MOST_EXPANDED:
            raise _Damaged(
                f"a tensor of shape {shape} repeats the {array.size} of storage {storage.key}"
            )
        self.to_see -= math.prod(shape)
        if self.to_see < 0:
            raise _Damaged(
                f"its tensors see storage {storage.key} and others so often that they would be "
                "many times as large as the file"
            )
        # the stride of an axis of one entry is never used, and may be anything
        inner = [array.itemsize * (step if n > 1 else 1) for n, step in zip(shape, steps)]
        return from_numpy(np.lib.stride_tricks.as_strided(array[offset:], shape, inner))


def _dict(content: Any = ()) -> dict[Any, Any]:
    """What OrderedDict and Counter are rebuilt as: empty at first, or a copy of a dict."""
    if content != () and not isinstance(content, dict):
        raise _Damaged(f"a dict made of a {type(content).__name__}")
    return dict(content)


def _size(sizes: Any, what: str = "a size") -> tuple[int, ...]:
    if isinstance(sizes, tuple | list) and len(sizes) > _MOST_AXES:
        raise _Damaged(f"{what} for each of {len(sizes)} axes")
    return tuple(_whole(n, what) for n in sizes)


def _device(kind: Any, index: Any = None) -> str:
    if not isinstance(kind, str):
        raise _Damaged(f"a device named by a {type(kind).__name__}")
    return kind if index is None else f"{kind}:{_whole(index, 'a device')}"


def _parameter(data: Any, requires_grad: Any, hooks: Any) -> Any:
    """The tensor of a Parameter; like every other, it does not require grad here."""
    return data


def _whole(value: Any, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _Damaged(f"{what} that is a {type(value).__name__}")
    if value < 0:
        raise _Damaged(f"{what} below 0")
    if value.bit_length() > _MOST_BITS:
        raise _Damaged(f"{what} of {value.bit_length()} bits")
    return value
