"""Reading PyTorch's checkpoints without PyTorch: values, layouts, damage and other formats.

The files are made by hand (conftest.py); test_parity_weights.py has files that PyTorch wrote.
"""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
import zipfile

import numpy as np
import pytest

import minires as mr
from minires.errors import ArgumentError, CheckpointError

SIX = np.arange(6, dtype=np.float32)


def test_a_state_dict_comes_back(opcodes, make_pth):
    p = opcodes
    weight = p.tensor("FloatStorage", "0", 6, 0, (2, 3), (3, 1))
    count = p.tensor("LongStorage", "1", 1, 0, (), ())
    named = p.name("collections", "OrderedDict") + b")R("
    body = named + p.text("fc.weight") + weight + p.text("bn.num_batches_tracked") + count + b"u"
    # what torch.save adds to a state dict: an attribute with the versions of its modules
    body += p.dict(_metadata=p.dict(version=p.whole(2))) + b"b"
    state = mr.load(make_pth(body, {"0": SIX.tobytes(), "1": struct.pack("<q", -7)}))
    assert type(state) is dict
    assert list(state) == ["fc.weight", "bn.num_batches_tracked"]
    np.testing.assert_array_equal(state["fc.weight"].numpy(), SIX.reshape(2, 3))
    assert state["fc.weight"].dtype == np.float32
    assert not state["fc.weight"].requires_grad
    assert state["bn.num_batches_tracked"].dtype == np.int64
    assert state["bn.num_batches_tracked"].item() == -7


def test_whole_checkpoints_are_plain_containers(opcodes, make_pth):
    p = opcodes
    sizes = p.tuple(p.whole(2), p.whole(3))
    body = p.dict(
        epoch=p.whole(3),
        loss=b"G" + struct.pack(">d", 0.25),
        best=b"\x88",
        none=b"N",
        text=p.text("ä"),
        raw=b"C\x02\x00\xff",
        items=b"](" + p.whole(1) + p.text("a") + b"e",
        shape=p.name("torch", "Size") + p.tuple(sizes) + b"R",
        dtype=p.name("torch", "float16"),
        device=p.name("torch", "device") + p.tuple(p.text("cuda"), p.whole(1)) + b"R",
        milestones=p.name("collections", "Counter") + p.tuple(b"}" + p.whole(5) * 2 + b"s") + b"R",
        set=b"\x8f(" + p.whole(4) + b"\x90",
        state_dict=p.dict(w=p.tensor("FloatStorage", "0", 6, 0, (6,), (1,))),
    )
    content = mr.load(make_pth(body, {"0": SIX.tobytes()}))
    assert content.pop("state_dict")["w"].tolist() == SIX.tolist()
    assert content == {
        "epoch": 3,
        "loss": 0.25,
        "best": True,
        "none": None,
        "text": "ä",
        "raw": b"\x00\xff",
        "items": [1, "a"],
        "shape": (2, 3),
        "dtype": "torch.float16",
        "device": "cuda:1",
        "milestones": {5: 5},
        "set": {4},
    }


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_of_plain_data_is_read(tmp_path, protocol):
    shared = [1.5, -(2**40), 2**70, True, None, "ä"]
    if protocol >= 3:  # before that, bytes were made by a call
        shared.append(b"\xff")
    if protocol >= 5:
        shared.append(bytearray(b"x"))
    value = {"a": shared, "b": (shared, (), (1,), {}, []), 3: {"c": float("inf"), "d": "x" * 300}}
    if protocol >= 4:
        value["e"] = ({1, 2}, frozenset({"f"}))
    path = tmp_path / "x.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("run/data.pkl", pickle.dumps(value, protocol))
    read = mr.load(path)
    assert read == value
    assert read["a"] is read["b"][0]


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("DoubleStorage", "f8"),
        ("FloatStorage", "f4"),
        ("LongStorage", "i8"),
        ("IntStorage", "i4"),
        ("ShortStorage", "i2"),
        ("CharStorage", "i1"),
        ("ByteStorage", "u1"),
        ("BoolStorage", "?"),
        ("ComplexFloatStorage", "c8"),
        ("ComplexDoubleStorage", "c16"),
    ],
)
@pytest.mark.parametrize("order", ["little", "big"])
def test_storages_of_every_kind_and_byte_order(opcodes, make_pth, kind, dtype, order):
    values = np.array([0, 1, 100, 0, 1, 2]).astype(dtype)
    raw = values.astype(values.dtype.newbyteorder("<" if order == "little" else ">")).tobytes()
    body = opcodes.tensor(kind, "0", 6, 1, (2, 2), (2, 1))
    tensor = mr.load(make_pth(body, {"0": raw}, byteorder=order.encode()))
    assert tensor.dtype == values.dtype
    assert tensor.dtype.isnative
    np.testing.assert_array_equal(tensor.numpy(), values[1:5].reshape(2, 2))
    tensor.fill_(1)  # the memory is the tensor's own, and may be written


def test_no_byte_order_means_little(opcodes, make_pth):
    body = opcodes.tensor("FloatStorage", "0", 6, 0, (6,), (1,))
    path = make_pth(body, {"0": SIX.astype("<f4").tobytes()}, byteorder=None)
    assert mr.load(path).tolist() == SIX.tolist()
    with pytest.raises(CheckpointError, match=r"byte order 'middle'"):
        mr.load(make_pth(body, {"0": SIX.tobytes()}, byteorder=b"middle"))


@pytest.mark.parametrize("order", ["little", "big"])
def test_halves_become_float32_and_it_is_said(opcodes, make_pth, order):
    p = opcodes
    sign = "<" if order == "little" else ">"
    half = np.array([0.1, -2, 6e-8, np.inf], sign + "f2")
    rounded = np.array([0x3E20_0000, 0xC040_0000, 0x0001_0000, 0x7FC0_0000], "u4")
    brain = (rounded >> 16).astype(sign + "u2")
    body = p.dict(
        h=p.tensor("HalfStorage", "0", 4, 0, (4,), (1,)),
        b=p.tensor("BFloat16Storage", "1", 4, 0, (4,), (1,)),
    )
    storages = {"0": half.tobytes(), "1": brain.tobytes()}
    with pytest.warns(UserWarning, match=r"x\.pth has tensors of bfloat16 and float16, .* float32"):
        read = mr.load(make_pth(body, storages, byteorder=order.encode()))
    np.testing.assert_array_equal(read["h"].numpy(), half.astype("f4"))
    assert read["b"].dtype == np.float32
    np.testing.assert_array_equal(read["b"].numpy(), rounded.view("f4"))
    assert read["b"].tolist()[:2] == [0.15625, -3]


def test_newer_dtypes_come_in_untyped_storages(opcodes, make_pth):
    p = opcodes

    def body(dtype):
        kind = p.name("torch.storage", "UntypedStorage")
        parts = (p.text("storage"), kind, p.text("0"), p.text("cpu"), p.whole(6))
        hooks = p.name("collections", "OrderedDict") + b")R"
        layout = (p.whole(1), p.tuple(p.whole(2)), p.tuple(p.whole(1)), b"\x89", hooks)
        arguments = p.tuple(p.tuple(*parts) + b"Q", *layout, p.name("torch", dtype))
        return p.name("torch._utils", "_rebuild_tensor_v3") + arguments + b"R"

    raw = {"0": struct.pack("<3H", 1, 2, 60000)}
    assert mr.load(make_pth(body("uint16"), raw)).tolist() == [2, 60000]
    with pytest.raises(CheckpointError, match=r"torch\.uint64, which minires does not have\. Con"):
        mr.load(make_pth(body("uint64"), raw))
    with pytest.raises(CheckpointError, match=r"got torch\.float8_e5m2; nothing of it was run"):
        mr.load(make_pth(body("float8_e5m2"), raw))


def test_views_of_one_storage_still_share_memory(opcodes, make_pth):
    p = opcodes
    body = p.dict(
        whole=p.tensor("FloatStorage", "0", 6, 0, (2, 3), (3, 1)),
        turned=p.tensor("FloatStorage", "0", 6, 0, (3, 2), (1, 3)),
        column=p.tensor("FloatStorage", "0", 6, 1, (2, 1), (3, 12345)),
        spread=p.tensor("FloatStorage", "0", 6, 5, (4,), (0,)),
        empty=p.tensor("FloatStorage", "0", 6, 6, (0, 3), (3, 1)),
        parameter=p.name("torch._utils", "_rebuild_parameter")
        + p.tuple(p.tensor("FloatStorage", "0", 6, 2, (), ()), b"\x88", b"}")
        + b"R",
    )
    read = mr.load(make_pth(body, {"0": SIX.tobytes()}))
    array = SIX.reshape(2, 3)
    np.testing.assert_array_equal(read["turned"].numpy(), array.T)
    np.testing.assert_array_equal(read["column"].numpy(), array[:, 1:2])
    assert read["spread"].tolist() == [5, 5, 5, 5]
    assert read["empty"].shape == (0, 3)
    assert read["parameter"].item() == 2
    assert not read["parameter"].requires_grad
    read["whole"].mul_(2)
    np.testing.assert_array_equal(read["turned"].numpy(), 2 * array.T)


# -- numbers that would lead outside


@pytest.mark.parametrize(
    ("entries", "offset", "size", "stride", "words"),
    [
        (6, 0, (7,), (1,), "reaches entry 6 of storage 0, which has 6"),
        (6, 1, (6,), (1,), "reaches entry 6 of"),
        (6, 6, (1,), (1,), "reaches entry 6 of"),
        (6, 0, (2, 3), (4, 1), "reaches entry 6 of"),
        (6, 2**62, (1,), (1,), "reaches entry 4611686018427387904 of"),
        (6, 0, (2,), (2**62,), "reaches entry 4611686018427387904 of"),
        (6, 0, (2**40, 2**40), (2**70, 1), "reaches entry"),
        (6, 5, (6,), (-1,), "a stride below 0"),
        (6, -1, (1,), (1,), "an offset below 0"),
        (6, 0, (-1,), (1,), "a size below 0"),
        (6, 0, (2, 3), (1,), "2 sizes and 1 strides"),
        (-1, 0, (6,), (1,), "a storage's length below 0"),
        (7, 0, (6,), (1,), "storage 0 has 24 bytes instead of 28"),
        (2**61, 0, (6,), (1,), "storage 0 has 24 bytes instead of"),
        (6, 0, (1,) * 100, (1,) * 100, "truncated or damaged"),  # more axes than NumPy has
        (6, 0, (2**40, 2**40), (0, 0), "truncated or damaged"),  # more entries than memory has
        (6, 0, (0, 2**70), (1, 1), "truncated or damaged"),
    ],
)
def test_no_tensor_reaches_out_of_its_storage(
    opcodes, make_pth, entries, offset, size, stride, words
):
    body = opcodes.tensor("FloatStorage", "0", entries, offset, size, stride)
    with pytest.raises(CheckpointError, match="truncated or damaged file of") as caught:
        mr.load(make_pth(body, {"0": SIX.tobytes()}))
    assert words in str(caught.value)


def test_expanded_tensors_are_views_up_to_a_size(opcodes, make_pth):
    def load(*shape):
        body = opcodes.tensor("FloatStorage", "0", 6, 2, shape, (0,) * len(shape))
        return mr.load(make_pth(body, {"0": SIX.tobytes()}))

    x = load(2**14, 2**14)
    assert x.shape == (2**14, 2**14)
    assert x.data.strides == (0, 0)
    assert x[-1, 5].item() == 2
    words = r"damaged file of .*a tensor of shape \(16385, 16384\) repeats the 6 of storage 0"
    with pytest.raises(CheckpointError, match=words):
        load(2**14 + 1, 2**14)


def test_arguments_of_the_wrong_kind(opcodes, make_pth):
    p = opcodes
    rebuild = p.name("torch._utils", "_rebuild_tensor_v2")
    storage = p.storage("FloatStorage", "0", 6)
    sizes = p.tuple(p.whole(1))
    kind = p.name("torch", "FloatStorage")
    bad = [
        rebuild + b")R",
        rebuild + p.tuple(p.text("0"), p.whole(0), sizes, sizes, b"\x89", b"}") + b"R",
        rebuild + p.tuple(storage, b"\x88", sizes, sizes, b"\x89", b"}") + b"R",
        rebuild + p.tuple(storage, p.whole(0), p.text("1"), sizes, b"\x89", b"}") + b"R",
        rebuild + p.tuple(storage, p.whole(0), p.whole(1), sizes, b"\x89", b"}") + b"R",
        p.tuple(p.text("module"), kind, p.text("0"), p.text("cpu"), p.whole(6)) + b"Q",
        p.tuple(p.text("storage"), p.text("x"), p.text("0"), p.text("cpu"), p.whole(6)) + b"Q",
        p.tuple(p.text("storage"), kind, p.whole(0), p.text("cpu"), p.whole(6)) + b"Q",
        p.tuple(p.text("storage"), kind) + b"Q",
        p.storage("FloatStorage", "../../x", 6),
        p.name("collections", "OrderedDict") + p.tuple(b"]") + b"R",
        p.name("torch", "device") + p.tuple(p.whole(0)) + b"R",
        p.name("torch", "Size") + p.tuple(p.tuple(p.text("a"))) + b"R",
        b"}" + p.tuple(p.whole(1)) + b"Ns",  # a tuple as key
        b"]N" + b"Ns",  # an item set in a list
        b"R",
        b"Nt",
        b"h\x05",
        b"",
    ]
    for body in bad:
        with pytest.raises(CheckpointError, match="truncated or damaged file"):
            mr.load(make_pth(body, {"0": SIX.tobytes()}))


# -- archives that are damaged, or meant to harm


@pytest.fixture
def good(opcodes, make_pth):
    body = opcodes.dict(w=opcodes.tensor("FloatStorage", "0", 6, 0, (6,), (1,)))
    return make_pth(body, {"0": SIX.tobytes()})


def test_truncated_anywhere(good):
    whole = good.read_bytes()
    for keep in range(4, len(whole), 3):
        good.write_bytes(whole[:keep])
        with pytest.raises(CheckpointError, match=rf"truncated or damaged file of {keep:,} bytes"):
            mr.load(good)


def test_every_flipped_bit_is_noticed_or_harmless(good):
    whole = good.read_bytes()
    noticed = 0
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 1 << position % 8
        good.write_bytes(changed)
        try:
            read = mr.load(good)
        except CheckpointError:
            noticed += 1
        else:  # a date, an attribute, the name of a record that nobody asks for
            assert read["w"].tolist() == SIX.tolist()
    assert noticed > len(whole) / 2


def test_a_wrong_checksum_is_named(good):
    changed = good.read_bytes().replace(SIX.tobytes(), (SIX + 1).tobytes())
    good.write_bytes(changed)
    with pytest.raises(CheckpointError, match=r"Bad CRC-32.*Restore the file from a copy, or down"):
        mr.load(good)


def test_a_missing_storage(opcodes, make_pth):
    body = opcodes.tensor("FloatStorage", "0", 6, 0, (6,), (1,))
    with pytest.raises(CheckpointError, match=r"\(no record data/0\)"):
        mr.load(make_pth(body))


def test_compressed_records_cannot_be_bombs(opcodes, make_pth):
    body = opcodes.tensor("ByteStorage", "0", 10**7, 0, (10**7,), (1,))
    path = make_pth(body, {"0": bytes(10**7)}, method=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 20_000
    with pytest.raises(CheckpointError, match=r"record (byteorder|data\.pkl) is compressed"):
        mr.load(path)


def test_records_that_lie_over_each_other_cannot_be_bombs(opcodes, make_pth):
    """A hundred names for the same bytes: each is honest, all together are not."""
    p = opcodes
    n = 10**5
    tensors = [p.tensor("ByteStorage", str(key), n, 0, (n,), (1,)) for key in range(100)]
    path = make_pth(b"(" + b"".join(tensors) + b"l", {"0": bytes(n)})
    with zipfile.ZipFile(path, "a") as archive:
        first = archive.getinfo("archive/data/0")
        for key in range(1, 100):
            twin = zipfile.ZipInfo("archive/data/0")
            for name in ("CRC", "file_size", "compress_size", "header_offset", "flag_bits"):
                setattr(twin, name, getattr(first, name))
            twin.filename = f"archive/data/{key}"
            archive.filelist.append(twin)
        archive._didModify = True
    with pytest.raises(CheckpointError, match="truncated or damaged file"):
        mr.load(path)


# -- other formats


def test_other_formats_are_told_apart(tmp_path):
    path = tmp_path / "x.pth"

    def refused(content, words):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=words) as caught:
            mr.load(path)
        assert str(path) in str(caught.value)

    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
    refused(magic + b"...", r"before PyTorch 1\.6.*With a newer PyTorch, torch\.save\(torch\.load")
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    refused(tar.getvalue(), r"a tar archive, as the first versions of PyTorch wrote them")
    refused(pickle.dumps({"w": 1}), "got a bare pickle. With the program that wrote it")
    refused(
        b"\x02" + bytes(7) + b"{}", r"what looks like a safetensors file. Name it \.safetensors"
    )
    refused(b"<html>404</html>", "got something else. Restore the file from a copy, or download")
    refused(b"", "got an empty file")


def test_archives_that_are_no_checkpoints(make_pth, tmp_path):
    script = make_pth(b"N", extra={"archive/constants.pkl": b"", "archive/code/x.py": b""})
    with pytest.raises(CheckpointError, match=r"got a TorchScript program.*\.state_dict\(\), new"):
        mr.load(script)
    with zipfile.ZipFile(tmp_path / "y.pth", "w") as archive:
        archive.writestr("readme.txt", "")
    with pytest.raises(CheckpointError, match=r"a zip archive without a data\.pkl\. Unpack it"):
        mr.load(tmp_path / "y.pth")


def test_names_of_files(good, tmp_path):
    with pytest.raises(ArgumentError, match=r"ends in \.safetensors or \.pth, .*got .*w\.h5\. Ren"):
        mr.load(tmp_path / "w.h5")
    with pytest.raises(CheckpointError, match=r"a file at .*none\.pth, got no such file"):
        mr.load(tmp_path / "none.pth")
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(CheckpointError, match="got a folder"):
        mr.load(str(tmp_path / "folder.pt"))
    for name in ("best.pth.tar", "x.pt", "pytorch_model.bin", "x.ckpt"):
        good.rename(tmp_path / name)
        assert mr.load(tmp_path / name)["w"].tolist() == SIX.tolist()
        (tmp_path / name).rename(good)
