"""Files for PyTorch: ``save`` writes them, ``load`` and PyTorch's own reader read them back."""

from __future__ import annotations

import collections
import hashlib
import io
import pickletools
import zipfile

import numpy as np
import pytest

import minires as mr
from minires import files, nn, optim
from minires.errors import ArgumentError, CheckpointError, DTypeError, UninitializedError

DTYPES = [
    *("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"),
    *("complex64", "complex128", "uint16", "uint32"),
]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.pth"


def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 2))


def plain():
    """What a checkpoint has beside tensors."""
    return {
        "epoch": 3,
        "best": 0.5,
        "name": "ä\ud800\n",
        "none": None,
        "flags": [True, False],
        "numbers": [0, -1, 255, 256, 2**31 - 1, 2**31, -(2**31) - 1, -(2**100), 2**1999],
        "floats": [float("inf"), -0.0, 1e-320],
        "tuples": ((), (1,), (1, 2), (1, (2, ["x"]), {})),
        "empty": [{}, [], ""],
        7: "a number as key",
        None: {2.5: []},
    }


def test_plain_objects_come_back(path):
    mr.save(plain(), path)
    back = mr.load(path)
    assert back == plain()
    assert repr(back) == repr(plain())  # 1 and True are equal, and so are 0.0 and -0.0
    for value in ([], (), "text", 3, None, {}):
        mr.save(value, path)
        assert mr.load(path) == value


def test_numbers_of_numpy_become_pythons(path):
    given = [np.float32(0.5), np.float64(2), np.int8(-3), np.uint64(2**63), np.bool_(True)]
    mr.save(given, path)
    back = mr.load(path)
    assert back == [0.5, 2.0, -3, 2**63, True]
    assert [type(value) for value in back] == [float, float, int, int, bool]


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".ckpt", ".pth.tar"])
def test_a_module_stands_for_its_state(tmp_path, suffix):
    net, other = network(), network()
    mr.save(net, tmp_path / f"a{suffix}")
    other.load_state_dict(mr.load(tmp_path / f"a{suffix}"))
    for name, value in net.state_dict().items():
        np.testing.assert_array_equal(other.state_dict()[name].numpy(), value.numpy())


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(path, dtype):
    array = np.arange(-3, 9).astype(dtype).reshape(3, 4)
    mr.save({"x": array, "big endian": array.astype(array.dtype.newbyteorder(">"))}, path)
    if dtype == "float16":
        with pytest.warns(UserWarning, match="became float32"):
            back = mr.load(path)
    else:
        back = mr.load(path)
        assert back["x"].dtype == dtype
    for tensor in back.values():
        np.testing.assert_array_equal(tensor.numpy(), array)


ARRAYS = {
    "scalar": lambda: np.array(2.5, np.float32),
    "none": lambda: np.zeros((0, 3), np.float32),
    "one": lambda: np.ones((1, 1, 1), np.float32),
    "transposed": lambda: np.arange(6.0).reshape(2, 3).T,
    "channels last": lambda: np.arange(24.0).reshape(1, 2, 3, 4).transpose(0, 3, 1, 2),
    "every second": lambda: np.arange(20.0)[::2],
    "reversed": lambda: np.arange(6.0).reshape(2, 3)[::-1, ::-1],
    "expanded": lambda: np.broadcast_to(np.float64(3), (4, 5)),
    "unaligned": lambda: np.zeros(33, np.uint8)[1:].view(np.float64),
    "read-only": lambda: np.frombuffer(b"12345678", np.int32),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_memory_of_every_kind(path, kind):
    array = ARRAYS[kind]()
    before = array.copy()
    mr.save({"x": array, "y": [array]}, path)
    back = mr.load(path)
    np.testing.assert_array_equal(back["x"].numpy(), before)
    np.testing.assert_array_equal(back["y"][0].numpy(), before)
    np.testing.assert_array_equal(array, before)
    assert back["x"].shape == array.shape


def records(path):
    with zipfile.ZipFile(path) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def test_shared_memory_stays_shared_and_only_what_is_used_is_written(path):
    base, other = mr.arange(1000, dtype="float32"), mr.zeros(1000)
    parts = {"a": base[10:20], "b": base[15:30].reshape(3, 5), "c": base[10:20:2], "d": other[3:5]}
    mr.save({**parts, "again": parts["a"], "ints": mr.arange(3)}, path)
    sizes = [len(data) for name, data in records(path).items() if "/data/" in name]
    assert sorted(sizes) == [2 * 4, 3 * 8, 20 * 4], "no entry that no tensor has"
    back = mr.load(path)
    for name, part in parts.items():
        np.testing.assert_array_equal(back[name].numpy(), part.numpy())
    back["a"][5] = -1
    assert back["b"][0, 0].item() == back["again"][5].item() == -1
    assert back["d"][0].item() == 0
    mr.save(mr.arange(1000)[::100], path)
    assert len(records(path)["archive/data/0"]) == 10 * 8, "entries in between are nobody's"


def test_shared_containers_stay_shared_and_cost_nothing(path):
    deep = []
    for _ in range(10):  # 2**10 entries for who follows each
        deep = [deep, deep]
    mr.save(deep, path)
    back = mr.load(path)
    assert back[0] is back[1]
    assert path.stat().st_size < 10_000


def test_optimisers_schedules_and_random_states(path):
    net = network()
    optimizer = optim.Adam(net.parameters(), lr=0.1)
    schedule = optim.StepLR(optimizer, 2)
    for _ in range(3):
        optimizer.zero_grad()
        net(mr.randn(2, 3, 5, 5)).sum().backward()
        optimizer.step()
        schedule.step()
    state = {"model": net.state_dict(), "optimizer": optimizer.state_dict()}
    mr.save({**state, "schedule": schedule.state_dict()}, path)
    back, other = mr.load(path), network()
    other.load_state_dict(back["model"])
    again = optim.Adam(other.parameters())
    again.load_state_dict(back["optimizer"])
    optim.StepLR(again, 2).load_state_dict(back["schedule"])
    x = mr.randn(2, 3, 5, 5)
    for each, opt in ((net, optimizer), (other, again)):
        opt.zero_grad()
        each(x).sum().backward()
        opt.step()
    for one, two in zip(net.parameters(), other.parameters()):
        np.testing.assert_array_equal(one.detach().numpy(), two.detach().numpy())


def test_the_same_object_gives_the_same_bytes(path):
    digests = set()
    for _ in range(2):
        mr.manual_seed(0)
        mr.save({"net": network().state_dict(), **plain()}, path)
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(digests) == 1


def test_the_pickle_is_a_plain_one_and_records_are_aligned(path):
    mr.save({"net": network().state_dict(), "plain": plain()}, path)
    pickletools.dis(records(path)["archive/data.pkl"], out=io.StringIO())
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        assert archive.testzip() is None
        for info in archive.infolist():
            assert info.compress_type == zipfile.ZIP_STORED
            file.seek(info.header_offset + 26)
            name, extra = np.frombuffer(file.read(4), "<u2")
            assert (info.header_offset + 30 + name + extra) % 64 == 0


class Surprise:
    pass


def itself():
    value = [1]
    value.append({"x": value})
    return value


def deep():
    value: list = []
    for _ in range(1000):
        value = [value]
    return value


REFUSED = {
    "object": (
        lambda: {"a": [Surprise()]},
        r"numbers and text, got .*object at 0x.*the object\['a'\]\[0\]",
    ),
    "module": (
        lambda: {"net": nn.ReLU()},
        r"got ReLU\(\) \(the object\['net'\]\)\. Save its state_dict",
    ),
    "optimiser": (lambda: [optim.SGD(network().parameters())], r"Save its state_dict\(\)\."),
    "set": (lambda: {"a": {1}}, r"Make it a list\."),
    "bytes": (lambda: b"12", "numbers and text, got b'12'"),
    "function": (lambda: [print], "built-in function print"),
    "complex": (lambda: 1j, "numbers and text, got 1j"),
    "date": (lambda: np.datetime64("2020-01-01"), "numbers and text, got"),
    "huge": (lambda: [2**3000], "integers of at most 2000 bits"),
    "tuple as key": (
        lambda: {(1, 2): 3},
        r"keys of text, or of numbers below 2\*\*61, got \(1, 2\)",
    ),
    "huge key": (lambda: {2**61: 3}, r"numbers below 2\*\*61, got 2305843009213693952"),
    "itself": (itself, "none within itself, got list"),
    "deep": (deep, "containers at most 100 deep"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_written_says_where_it_is_and_the_old_file_stays(path, kind):
    make, words = REFUSED[kind]
    mr.save({"old": 1}, path)
    with pytest.raises(ArgumentError, match=rf"(?s)save: expected .*{words}"):
        mr.save(make(), path)
    assert mr.load(path) == {"old": 1}
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_other_mistakes(path):
    with pytest.raises(DTypeError, match=r"tensors of numbers, got object \(the object\['a'\]\)"):
        mr.save({"a": np.array([None])}, path)
    with pytest.raises(DTypeError, match="tensors of numbers, got <U3"):
        mr.save(np.array(["abc"]), path)
    with pytest.raises(
        ArgumentError, match=r"metadata only in \.safetensors.*Save it in the object"
    ):
        mr.save({}, path, metadata={"a": 1})
    with pytest.raises(UninitializedError, match="Call the network once"):
        mr.save(nn.LazyLinear(3), path)
    (path.parent / "file").write_text("")
    with pytest.raises(CheckpointError, match="to be able to write"):
        mr.save({}, path.parent / "file" / "x.pth")
    assert not path.exists()


def test_a_full_disk_keeps_the_old_file(path, monkeypatch):
    mr.save({"old": 1}, path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        mr.save({"new": mr.ones(1000)}, path)
    monkeypatch.undo()
    assert mr.load(path) == {"old": 1}


# **** with PyTorch ****


def test_pytorch_loads_it_with_weights_only(path):
    torch = pytest.importorskip("torch")
    ml_dtypes = pytest.importorskip("ml_dtypes")
    net = network()
    state = {
        "model": net.state_dict(),
        "ordered": collections.OrderedDict(x=mr.ones(2)),
        "plain": plain(),
        "trained": mr.ones(2, requires_grad=True),
        "parameter": net[0].weight,
        "half": np.arange(3, dtype=np.float16),
        "brain": np.arange(3).astype(ml_dtypes.bfloat16),
        **{dtype: np.arange(4).astype(dtype) for dtype in (*DTYPES, "uint64")},
    }
    mr.save(state, path)
    for mapped in (False, True):
        back = torch.load(path, weights_only=True, mmap=mapped)
        assert back["plain"] == plain()
        for dtype in (*DTYPES, "uint64"):
            assert back[dtype].dtype is getattr(torch, dtype)
            np.testing.assert_array_equal(back[dtype].numpy(), np.arange(4).astype(dtype))
        assert back["brain"].dtype is torch.bfloat16
        assert back["brain"].tolist() == [0, 1, 2]
        assert back["trained"].requires_grad
        assert isinstance(back["parameter"], torch.nn.Parameter)
        assert back["parameter"].requires_grad
        for name, value in net.state_dict().items():
            assert not back["model"][name].requires_grad
            np.testing.assert_array_equal(back["model"][name].numpy(), value.numpy())
    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3),
        torch.nn.BatchNorm2d(4),
        torch.nn.Flatten(),
        torch.nn.Linear(36, 2),
    )
    theirs.load_state_dict(back["model"])
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 5)).astype("float32")
    expected = net.eval()
    with pytest.warns(UserWarning, match="never been updated"):
        ours = expected(mr.tensor(x)).detach().numpy()
    np.testing.assert_allclose(
        ours, theirs.eval()(torch.tensor(x)).detach().numpy(), rtol=1e-5, atol=1e-6
    )


def test_pytorch_sees_what_is_shared_and_every_kind_of_memory(path):
    torch = pytest.importorskip("torch")
    base = mr.arange(40, dtype="float32")
    arrays = {kind: make() for kind, make in ARRAYS.items()}
    mr.save({"a": base[:30].reshape(5, 6), "b": base[20:], **arrays}, path)
    back = torch.load(path, weights_only=True)
    for kind, array in arrays.items():
        np.testing.assert_array_equal(back[kind].numpy(), array)
    back["a"][4, 5] = -1
    assert back["b"][9] == -1
    assert back["channels last"].stride()[1:] == (1, 12, 4)


def test_pytorch_goes_on_with_an_optimiser(path):
    torch = pytest.importorskip("torch")
    w = mr.tensor([1.0, -2.0], requires_grad=True)
    optimizer = optim.RMSprop([w], lr=0.1, momentum=0.9, centered=True)
    for _ in range(3):
        optimizer.zero_grad()
        (w * w).sum().backward()
        optimizer.step()
    mr.save({"w": w.detach(), "optimizer": optimizer.state_dict()}, path)
    back = torch.load(path, weights_only=True)
    v = back["w"].clone().requires_grad_()
    theirs = torch.optim.RMSprop([v], lr=3.0)
    theirs.load_state_dict(back["optimizer"])
    for p, opt in ((w, optimizer), (v, theirs)):
        opt.zero_grad()
        (p * p).sum().backward()
        opt.step()
    np.testing.assert_allclose(w.detach().numpy(), v.detach().numpy(), rtol=1e-6)
