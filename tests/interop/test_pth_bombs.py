"""Small checkpoints that would become large, slow, or endless for what walks through them.

Each is loaded by a process that may take a small multiple of the file's size and a few seconds.
"""

from __future__ import annotations

import random
import struct
import sys
import time
import zipfile

import numpy as np
import pytest
from bounded import MIB, Bounded

import minires as mr
from minires.errors import CheckpointError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")

N = 500_000  # bytes of a pickle
FREE = 24 * MIB  # bytes that a file of any size may cost


@pytest.fixture(scope="module")
def bounded():
    with Bounded() as running:
        yield running


def call(p, name, arguments, times):
    """The same call again and again, by five bytes each time."""
    start = p.name(*name.rsplit(".", 1)) + b"q\x00" + arguments + b"q\x01"
    return start + b"](" + b"h\x00h\x01R" * times + b"e"


def rebuilt(p, size, stride, *more, entries=6):
    parts = (
        p.storage("FloatStorage", "0", entries),
        p.whole(0),
        size,
        stride,
        b"\x89",
        b"}",
        *more,
    )
    return p.tuple(*parts)


def tensors(p, size, stride, times, *more):
    return call(p, "torch._utils._rebuild_tensor_v2", rebuilt(p, size, stride, *more), times)


def wide(p):
    """A tensor of 300,000 dimensions."""
    many = p.tuple(*[p.whole(1)] * 300_000)
    return p.name("torch._utils", "_rebuild_tensor_v2") + rebuilt(p, many, many) + b"R"


def large_dict(p):
    return b"}(" + b"".join(p.whole(i) + b"N" for i in range(20_000)) + b"u\x85"


def one(p, n):
    return p.tuple(p.whole(n))


ITSELF = b"](h\x00h\x00eq\x00"  # a list of the last list, twice
MUCH, WALK = "too many for its size", "so often that there are over"
BOMBS = {
    "OrderedDict": (lambda p: call(p, "collections.OrderedDict", large_dict(p), 16_000), MUCH),
    "Size": (
        lambda p: call(p, "torch.Size", p.tuple(p.tuple(*[p.whole(2**120)] * 64)), N // 5), MUCH
    ),
    "dimensions": (wide, "a size for each of 300000 axes"),
    "sets": (lambda p: b"(" + b"\x8f" * N + b"l", MUCH),
    "frozen sets": (lambda p: b"(" + b"(\x91" * N + b"l", MUCH),
    "dicts": (lambda p: b"(" + b"}NNs" * N + b"l", MUCH),
    "lists": (lambda p: b"(" + b"]Na" * N + b"l", MUCH),
    "tuples": (lambda p: b")" + b"\x85" * N, MUCH),
    "tensors": (lambda p: tensors(p, one(p, 2), one(p, 1), N // 5), MUCH),
    "calls with many arguments": (
        lambda p: tensors(p, one(p, 2), one(p, 1), N // 5, b"N" * N), MUCH
    ),
    "far memo": (lambda p: b"N" + b"".join(b"r" + struct.pack("<I", i) for i in range(9, N)), MUCH),
    "persistent": (
        lambda p: p.storage("FloatStorage", "0", 6)[:-1] + b"q\x00](" + b"h\x00Q" * N + b"e", MUCH
    ),
    "marks": (lambda p: b"(" * N + b"t" * N, "more than 10,000 marks within each other"),
    "deep lists": (lambda p: b"]" * 100_000 + b"a" * 99_999, "more than 200 containers within"),
    "deep dicts": (
        lambda p: b"}" + b"N}" * 60_000 + b"s" * 60_000, "more than 200 containers within each"
    ),
    "a list in itself": (lambda p: b"]q\x00h\x00a", "a container that is within itself"),
    "doubled": (lambda p: b"]q\x00" + ITSELF * 60, WALK),
    "doubled by tuples": (lambda p: b")q\x00" + b"h\x00h\x00\x86q\x00" * 60, WALK),
    "one list in many": (
        lambda p: b"](" + b"N" * N + b"eq\x00](" + b"h\x00" * N + b"e", WALK
    ),
    "text without end": (lambda p: b"\x8d" + b"\xff" * 8 + b"x", "damaged file of"),
    "bytes without end": (lambda p: b"\x8e" + b"\x00" * 7 + b"\x40" + b"x", "damaged file of"),
    "digits": (lambda p: b"L" + b"1" * N + b"L\n", "digits"),
    "no digits": (lambda p: b"I" + b"\xff" * N + b"\n", "damaged file of"),
    "expanded": (
        lambda p: tensors(p, p.tuple(*[p.whole(2**14)] * 2), p.tuple(*[p.whole(0)] * 2), 2),
        "its tensors see storage 0 and others so often",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(bounded, opcodes, make_pth, name):
    make, words = BOMBS[name]
    path = make_pth(make(opcodes), {"0": bytes(24)})
    size = path.stat().st_size
    found = bounded.read("load", path, memory=40 * size + 3 * FREE, seconds=10)
    assert (found.kind, found.text[:36]) == (
        "CheckpointError",
        "load: expected a PyTorch checkpoint ",
    )
    assert words in found.text
    assert found.text.isprintable()
    assert found.peak < 20 * size + FREE
    assert found.seconds < 5


REFERENCES = {
    "doubled on the stack": lambda p: b"](" + b"N2" + b"2" * N + b"e",
    "memoised": lambda p: b"N" + b"\x94" * N,
    "globals": lambda p: (
        p.text("torch") + b"q\x00" + p.text("Size") + b"q\x01]("
        + b"h\x00h\x01\x93" * (N // 5) + b"e"
    ),
    "short texts": lambda p: b"](" + b"\x8c\x02ab" * (N // 4) + b"e",
    "numbers": lambda p: b"](" + b"M\xe8\x03" * (N // 3) + b"e",
    "a large number": lambda p: b"\x8b" + struct.pack("<i", N) + b"\x7f" * N,
    "a long number": lambda p: b"F" + b"1" * N + b"\n",
    "keys": lambda p: (
        b"}(" + b"".join(b"J" + struct.pack("<i", i) + b"N" for i in range(N // 6)) + b"u"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFERENCES)
def test_what_is_allowed_is_cheap(bounded, opcodes, make_pth, name):
    path = make_pth(REFERENCES[name](opcodes))
    found = bounded.read("load", path, memory=8 * FREE, seconds=10)
    assert found.kind == ""
    assert found.peak < 36 * path.stat().st_size + FREE / 2
    assert found.seconds < 4


# -- the archive


def two_sizes(archive):
    """Thousands of records of one byte, each of which is stored as all the bytes of the file."""
    archive.writestr("archive/big", bytes(10**6))
    big = archive.getinfo("archive/big")
    for key in range(3000):
        twin = zipfile.ZipInfo("archive/big")
        twin.CRC, twin.header_offset = big.CRC, big.header_offset
        twin.file_size, twin.compress_size = 1, big.compress_size
        twin.filename = f"archive/data/{key}"
        archive.filelist.append(twin)
    archive._didModify = True


def many(archive):
    for key in range(30_000):
        archive.writestr(f"archive/data/x{key}", b"")


ARCHIVES = {
    "two sizes": (two_sizes, "record data/0 has two sizes"),
    "many records": (many, "no record data/0"),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives(bounded, opcodes, tmp_path, name):
    fill, words = ARCHIVES[name]
    p, path = opcodes, tmp_path / "x.pth"
    body = b"](" + b"".join(p.storage("ByteStorage", str(k), 1) for k in range(3000)) + b"e"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", p.whole_pickle(body))
        fill(archive)
    found = bounded.read("load", path, memory=8 * FREE, seconds=20)
    assert words in found.text
    assert found.peak < 20 * path.stat().st_size + FREE
    assert found.seconds < 10


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_records_of_one_name(opcodes, make_pth):
    path = make_pth(b"N", {"0": b"1"}, extra=[])
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/data/0", b"2")
    with pytest.raises(CheckpointError, match="two records of one name"):
        mr.load(path)


def test_names_in_errors_are_printable(opcodes, make_pth):
    body = opcodes.storage("ByteStorage", "\x1b[2J\x9b", 1)
    with pytest.raises(CheckpointError, match="no record data/") as caught:
        mr.load(make_pth(body))
    assert str(caught.value).isprintable()


# -- too little memory


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_limit_of_memory_is_an_error_of_ours(bounded, opcodes, make_pth, tmp_path, suffix):
    n = 12 * MIB
    path = tmp_path / "x.safetensors"
    if suffix == "pth":
        body = opcodes.tensor("FloatStorage", "0", n // 4, 0, (n // 4,), (1,))
        path = make_pth(body, {"0": bytes(n)})
    else:
        mr.save({"w": np.zeros(n // 4, np.float32)}, path)
    found = bounded.read("load", path, memory=8 * MIB, seconds=10)
    assert found.kind == "CheckpointError"
    size = path.stat().st_size
    assert found.text.startswith(f"load: expected memory for the {size:,} bytes of {path}, got too")
    assert found.text.endswith("Close other programs, or raise the limit of this one (ulimit -v)")


def test_small_objects_that_find_no_memory(bounded, opcodes, make_pth):
    path = make_pth(b"](" + b"M\xe8\x03" * N + b"e")
    for memory in range(14, 20):
        found = bounded.read("load", path, memory=memory * MIB, seconds=10)
        assert found.kind == "CheckpointError"
        assert "load: expected memory for the 1,50" in found.text


# -- honest files


def test_what_is_shared_honestly_is_read(opcodes, make_pth):
    """A thousand groups of an optimiser that share their settings, each a tuple of two numbers."""
    p = opcodes
    group = b"}(" + p.text("betas") + b"h\x07" + p.text("params") + b"](" + b"K\x01" * 50 + b"eu"
    body = b"](" + p.tuple(p.whole(1), p.whole(2)) + b"q\x07" + group * 1000 + b"e"
    read = mr.load(make_pth(body))
    assert len(read) == 1001
    assert read[5]["betas"] is read[700]["betas"]
    nest = mr.load(make_pth(b"]" * 200 + b"a" * 199))
    for _ in range(199):
        (nest,) = nest
    assert nest == []


def test_moving_keeps_what_is_shared(opcodes, make_pth, monkeypatch):
    p = opcodes
    tensor = p.tensor("FloatStorage", "0", 6, 0, (6,), (1,)) + b"q\x05"
    path = make_pth(b"](" + tensor + b"h\x05](h\x05eq\x06h\x06e", {"0": bytes(24)})
    monkeypatch.setattr("minires.interop.weights.CPU", None)  # so that all are moved
    first, again, inner, same = mr.load(path)
    assert first is again is inner[0]
    assert inner is same


# -- mutations


def test_mutated_files_are_read_or_refused(opcodes, tmp_path):
    """Bytes changed, doubled and cut at random: an error of ours or an object, and soon."""
    p = opcodes
    body = p.dict(
        w=p.tensor("FloatStorage", "0", 6, 0, (2, 3), (3, 1)),
        shape=p.name("torch", "Size") + p.tuple(p.tuple(p.whole(2), p.whole(3))) + b"R",
        text=b"S'a\\x41'\n" + b"0" + p.text("ä"),
        items=b"](K\x01M\x00\x02J\x00\x00\x01\x00I7\nL8L\nF1.5\nNe",
        sets=b"\x8f(K\x01K\x02\x90",
    )
    whole, draw, outcomes = p.whole_pickle(body), random.Random(7), {True: 0, False: 0}
    end = time.process_time() + 20
    for _ in range(1000):
        changed = bytearray(whole)
        for _ in range(draw.randrange(1, 4)):
            at = draw.randrange(len(changed))
            kind = draw.randrange(4)
            if kind == 0:
                changed[at] = draw.randrange(256)
            elif kind == 1:
                changed[at] ^= 1 << draw.randrange(8)
            elif kind == 2:
                part = changed[at : at + draw.randrange(1, 30)]
                changed[at:at] = part * draw.randrange(1, 50)
            else:
                del changed[at : at + draw.randrange(1, 5)]
        path = tmp_path / "x.pth"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", changed)
            archive.writestr("archive/data/0", bytes(24))
        try:
            mr.load(path)
        except CheckpointError:
            outcomes[False] += 1
        else:
            outcomes[True] += 1
    assert min(outcomes.values()) > 30
    assert time.process_time() < end
