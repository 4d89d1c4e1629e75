"""PyTorch checkpoints made by hand, byte by byte: no PyTorch needed, and nothing forbidden."""

from __future__ import annotations

import struct
import zipfile

import pytest


class Pickle:
    """Writes the opcodes of a protocol 2 pickle, as ``torch.save`` uses them."""

    @staticmethod
    def text(value):
        raw = value.encode()
        return b"X" + struct.pack("<I", len(raw)) + raw

    @staticmethod
    def whole(value):
        raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8a" + bytes([len(raw)]) + raw

    @staticmethod
    def name(module, name):
        return f"c{module}\n{name}\n".encode()

    @classmethod
    def tuple(cls, *items):
        return b"(" + b"".join(items) + b"t"

    @classmethod
    def dict(cls, **items):
        return b"}(" + b"".join(cls.text(key) + value for key, value in items.items()) + b"u"

    @classmethod
    def storage(cls, kind, key, entries):
        parts = (cls.text("storage"), cls.name("torch", kind), cls.text(key), cls.text("cpu"))
        return cls.tuple(*parts, cls.whole(entries)) + b"Q"

    @classmethod
    def tensor(cls, kind, key, entries, offset, size, stride):
        sizes = cls.tuple(*map(cls.whole, size))
        strides = cls.tuple(*map(cls.whole, stride))
        hooks = cls.name("collections", "OrderedDict") + b")R"
        storage = cls.storage(kind, key, entries)
        arguments = cls.tuple(storage, cls.whole(offset), sizes, strides, b"\x89", hooks)
        return cls.name("torch._utils", "_rebuild_tensor_v2") + arguments + b"R"

    @staticmethod
    def whole_pickle(body):
        return b"\x80\x02" + body + b"."


@pytest.fixture
def opcodes():
    return Pickle


@pytest.fixture
def make_pth(tmp_path):
    """Writes a checkpoint of a pickle's body and its storages; returns the path."""

    def make(body, storages=(), *, name="x.pth", byteorder=b"little", extra=(), method=0):
        path = tmp_path / name
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr("archive/data.pkl", Pickle.whole_pickle(body))
            if byteorder is not None:
                archive.writestr("archive/byteorder", byteorder)
            for key, raw in dict(storages).items():
                archive.writestr(f"archive/data/{key}", raw)
            for key, raw in dict(extra).items():
                archive.writestr(key, raw)
            archive.writestr("archive/version", b"3\n")
        return path

    return make
