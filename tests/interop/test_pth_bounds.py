"""What a checkpoint may cost: memory and time in proportion to the size of the file.

Sizes are counted and memory is traced, since times depend on what else a machine does.
"""

from __future__ import annotations

import pickle
import time
import tracemalloc
import zipfile

import numpy as np
import pytest

import minires as mr
from minires.errors import CheckpointError
from minires.interop.unpickle import Malformed, unpickle

FREE = 24 * 2**20  # bytes that a file of any size may cost


def cost(path):
    """Bytes that loading needed at most, and the error or the object."""
    tracemalloc.start()
    try:
        outcome = mr.load(path)
    except CheckpointError as error:
        outcome = error
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return peak, outcome


def twice(opcodes):
    """A tensor made again and again, by five bytes each time."""
    p = opcodes
    storage = p.storage("FloatStorage", "0", 6)
    entries = p.tuple(storage, p.whole(0), p.tuple(p.whole(2)), p.tuple(p.whole(1)), b"\x89", b"}")
    made = p.name("torch._utils", "_rebuild_tensor_v2") + b"q\x00" + entries + b"q\x01"
    return made + b"](" + b"h\x00h\x01R" * 20_000 + b"e"


def copied(opcodes):
    """A large dict, copied again and again."""
    p = opcodes
    large = b"}(" + b"".join(p.whole(i) + b"N" for i in range(20_000)) + b"uq\x01"
    made = p.name("collections", "OrderedDict") + b"q\x00" + large + b"\x85q\x02"
    return made + b"](" + b"h\x00h\x02R" * 20_000 + b"e"


BOMBS = {
    "nested tuples": lambda p: b")" + b"\x85" * 600_000,
    "nested lists": lambda p: b"]" * 600_000 + b"a" * 599_999,
    "open marks": lambda p: b"(" * 600_000 + b"t" * 600_000,
    "empty sets": lambda p: b"(" + b"\x8f" * 200_000 + b"l",
    "empty dicts": lambda p: b"(" + b"}" * 300_000 + b"l",
    "frozen sets": lambda p: b"(" + b"(\x91" * 100_000 + b"l",
    "one tensor again": twice,
    "one dict again": copied,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_cannot_make_much(opcodes, make_pth, name):
    path = make_pth(BOMBS[name](opcodes), {"0": bytes(24)})
    size = path.stat().st_size
    peak, outcome = cost(path)
    assert isinstance(outcome, CheckpointError)
    words = ["damaged file of", "for its size" if name != "open marks" else "within each other"]
    assert all(word in str(outcome) for word in words)
    assert peak < 20 * size + FREE


@pytest.mark.slow
def test_references_are_cheap(make_pth):
    """A byte of these pushes what is there already: eight bytes of a list."""
    for body in (b"](" + b"N2" + b"2" * 150_000 + b"e", b"N" + b"\x94" * 150_000):
        path = make_pth(body)
        peak, outcome = cost(path)
        assert not isinstance(outcome, CheckpointError)
        assert peak < 40 * path.stat().st_size + FREE


@pytest.mark.slow
@pytest.mark.parametrize("entries", [10_000, 20_000, 40_000])
def test_honest_files_are_far_from_the_bounds(opcodes, make_pth, entries):
    p = opcodes
    rows = p.dict(epoch=p.whole(1), loss=b"G" + bytes(8), best=b"\x88", sizes=b"](NNe")
    assert len(mr.load(make_pth(b"](" + rows * entries + b"e"))) == entries
    one = p.tensor("FloatStorage", "0", 6, 0, (2, 3), (3, 1))
    assert len(mr.load(make_pth(b"](" + one * (entries // 10) + b"e", {"0": bytes(24)}))) > 0


@pytest.mark.slow
@pytest.mark.parametrize("protocol", range(2, 6))
def test_what_python_writes_is_never_too_much(protocol):
    values = [
        [{"epoch": i, "loss": i / 7, "lrs": [0.1, 0.2], "best": (1, None)} for i in range(30_000)],
        [[str(i)] for i in range(50_000)],
        {str(i): (i, i + 1) for i in range(50_000)},
    ]
    for value in values:
        assert unpickle(pickle.dumps(value, protocol), functions={}) == value


def test_the_size_of_the_file_counts(opcodes):
    body = opcodes.whole_pickle(b"(" + b"}" * 100_000 + b"l")
    with pytest.raises(Malformed, match=r"more than 287,1\d\d containers and calls, too many for"):
        unpickle(body, functions={})
    assert len(unpickle(body, functions={}, size=len(body) + 500_000)) == 100_000


KINDS = {
    "DoubleStorage": 8, "FloatStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2,
    "ComplexFloatStorage": 8, "ComplexDoubleStorage": 16, "LongStorage": 8, "IntStorage": 4,
    "ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1, "BoolStorage": 1,
}  # fmt: skip
BYTES = 4_000_000


def views(opcodes, kinds):
    p = opcodes
    tensors = [p.tensor(k, "0", BYTES // KINDS[k], 0, (BYTES // KINDS[k],), (1,)) for k in kinds]
    return b"](" + b"".join(tensors) + b"e"


@pytest.mark.parametrize("order", ["little", "big"])
def test_one_storage_under_every_dtype_is_not_converted_to_each(opcodes, make_pth, order):
    path = make_pth(views(opcodes, KINDS), {"0": bytes(BYTES)}, byteorder=order.encode())
    peak, outcome = cost(path)
    assert isinstance(outcome, CheckpointError)
    assert "storage 0 is seen under several dtypes, and would become many times as" in str(outcome)
    assert peak < 6 * path.stat().st_size


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:load. x.pth has tensors of")
def test_every_dtype_alone_is_read_in_any_order(opcodes, make_pth, order, kind):
    path = make_pth(views(opcodes, [kind, kind]), {"0": bytes(BYTES)}, byteorder=order.encode())
    peak, outcome = cost(path)
    assert not isinstance(outcome, CheckpointError)
    assert all(tensor.shape == (BYTES // KINDS[kind],) for tensor in outcome)
    assert np.shares_memory(outcome[0].data, outcome[1].data)
    assert peak < 5 * path.stat().st_size


def test_numbers_without_end(opcodes, make_pth):
    """Products and comparisons of them would take longer than their bytes are many."""
    p = opcodes
    rebuild = p.name("torch._utils", "_rebuild_tensor_v2") + b"("
    many = p.tuple(*[p.whole(2**64)] * 10_000)
    storage = p.storage("FloatStorage", "0", 6)
    sizes = rebuild + storage + p.whole(0) + many + many + b"\x89}tR"
    large = p.tensor("FloatStorage", "0", 6, 0, (2**200,), (0,))
    shape = p.name("torch", "Size") + p.tuple(many) + b"R"
    keys = b"}(" + b"".join(p.whole(i * (2**61 - 1)) + b"N" for i in range(1, 100)) + b"u"
    for body, words in (
        (sizes, "a size for each of 10000 axes"),
        (large, "a size of 201 bits"),
        (shape, "a size for each of 10000 axes"),
        (keys, "an integer of more than 61 bits as a key"),
    ):
        path = make_pth(body, {"0": bytes(24)})
        begin = time.process_time()
        with pytest.raises(CheckpointError, match="damaged file of") as caught:
            mr.load(path)
        assert words in str(caught.value)
        assert time.process_time() - begin < 2


@pytest.mark.slow
def test_many_records_take_time_in_proportion(tmp_path):
    def seconds(records):
        path = tmp_path / f"{records}.pth"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", b"\x80\x02N.")
            for index in range(records):
                archive.writestr(f"archive/data/{index}", b"")
        begin = time.process_time()
        assert mr.load(path) is None
        return time.process_time() - begin

    few = min(seconds(3_000) for _ in range(3))
    assert seconds(30_000) < 40 * few + 0.5
