"""``save`` and ``load`` with safetensors, and what ``load_state_dict`` says."""

from __future__ import annotations

import io
import json
import os

import numpy as np
import pytest
import safetensors
import safetensors.numpy

import minires as mr
from minires.errors import ArgumentError, CheckpointError, DeviceError, DTypeError
from minires.interop import strip_prefix


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.safetensors"


def net():
    mr.manual_seed(0)
    return mr.nn.Sequential(mr.nn.Conv2d(3, 4, 3, bias=False), mr.nn.BatchNorm2d(4))


def same(a, b):
    assert list(a) == list(b)
    for name in a:
        assert a[name].dtype == b[name].dtype
        np.testing.assert_array_equal(a[name].detach().numpy(), b[name].detach().numpy())


# -- save and load


def test_a_module_comes_back(path):
    one, two = net(), net()
    with mr.no_grad():
        one(mr.randn(2, 3, 5, 5))
    mr.save(one, path)
    state = mr.load(path)
    same(state, {name: one.state_dict()[name] for name in state})
    assert all(type(t) is mr.Tensor and not t.requires_grad for t in state.values())
    state["0.weight"].mul_(1.0)  # the memory is the tensors' own
    assert two.load_state_dict(state) == ([], [])
    same(two.state_dict(), one.state_dict())


def test_every_dtype_layout_and_kind_of_value(path):
    base = np.arange(24.0).reshape(2, 3, 4)
    shared = mr.tensor(base)
    values = {
        "turned": base.transpose(2, 0, 1),
        "part": base[:, ::-2],
        "scalar": np.array(3, np.int64),
        "empty": np.zeros((0, 3), np.float32),
        "one": shared,
        "two": shared,
        "parameter": mr.nn.Parameter(mr.ones(2)),
        "computed": mr.ones(2, requires_grad=True) * 3,
        "numpy scalar": np.float32(1.5),
        "names may be anything: ä/\n": np.ones(1),
    }
    for dtype in "f4 f8 ? u1 u2 u4 i1 i2 i4 i8".split():  # noqa: SIM905
        values[dtype] = np.array([0, 1, 1]).astype(dtype)
    mr.save(values, str(path))
    read = mr.load(str(path))
    assert read.keys() == values.keys()
    for name, value in values.items():
        value = value.detach().numpy() if isinstance(value, mr.Tensor) else value
        assert read[name].dtype == value.dtype, name
        assert read[name].shape == value.shape, name
        np.testing.assert_array_equal(read[name].numpy(), value)
    assert safetensors.numpy.load_file(path).keys() == read.keys()  # others read it, too


def test_an_empty_state_and_new_folders(tmp_path):
    mr.save(mr.nn.ReLU(), tmp_path / "a" / "b" / "x.safetensors")
    assert mr.load(tmp_path / "a" / "b" / "x.safetensors") == {}


def test_metadata(path):
    config = {"depth": 20, "lr": 0.1, "tags": ["a", None]}
    mr.save({}, path, metadata={"config": config, "note": "ä", "accuracy": 0.5, "number": "1"})
    expected = {"config": config, "note": "ä", "accuracy": 0.5, "number": "1"}
    assert mr.load_metadata(path) == {**expected, "minires_version": mr.__version__}
    with safetensors.safe_open(path, "numpy") as file:
        seen = file.metadata()
    assert json.loads(seen["config"]) == config
    assert seen["note"] == "ä"
    assert seen["minires_version"] == mr.__version__
    safetensors.numpy.save_file({}, path, {"format": "pt", "x": "{"})
    assert mr.load_metadata(path) == {"format": "pt", "x": "{"}
    safetensors.numpy.save_file({}, path)
    assert mr.load_metadata(path) == {}
    safetensors.numpy.save_file({}, path, {"minires_json": '["gone"]'})
    with pytest.raises(CheckpointError, match=r"metadata that minires wrote in .*got KeyError"):
        mr.load_metadata(path)


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"a": {1, 2}}, r"metadata\['a'\] that JSON can hold, got Object of type set"),
        ({"a": float("nan")}, r"metadata\['a'\] that JSON can hold, got Out of range"),
        ({3: "a"}, 'keys that are text without "minires_", got 3'),
        ({"minires_version": "9"}, "got 'minires_version'"),
    ],
)
def test_metadata_that_cannot_be_kept(path, metadata, words):
    with pytest.raises(ArgumentError, match=words):
        mr.save({}, path, metadata=metadata)
    assert not path.exists()


@pytest.mark.parametrize(
    ("state", "kind", "words"),
    [
        ({"epoch": 3}, ArgumentError, r"got the number 3 under 'epoch'\. Pass it as metadata="),
        ({"note": "x"}, ArgumentError, "expected names and tensors, got 'x' under 'note'"),
        ({"bias": None}, ArgumentError, "got None under 'bias'"),
        (
            {"model": {"w": np.ones(1)}},
            ArgumentError,
            r"got a dict of 1 entries under 'model'\. If .* pass checkpoint\['model'\]",
        ),
        ({3: np.ones(1)}, ArgumentError, "names that are text, got 3"),
        ({"__metadata__": np.ones(1)}, ArgumentError, "got '__metadata__'"),
        ([np.ones(1)], ArgumentError, "a dict of names and tensors, got a list"),
        ({"w": np.ones(2, np.float16)}, DTypeError, r"got float16 under 'w'\. Convert it first"),
        ({"w": np.array(["a"])}, DTypeError, "got <U1 under 'w'"),
        ({"w": object()}, DTypeError, "got object under 'w'"),
        ({"w": np.ones(2, np.complex64)}, DTypeError, "or bool tensors, got complex64 under 'w'"),
    ],
)
def test_what_cannot_be_saved(path, state, kind, words):
    mr.save({"old": np.ones(1)}, path)
    with pytest.raises(kind, match=words):
        mr.save(state, path)
    assert list(mr.load(path)) == ["old"]


def test_names_of_files(tmp_path):
    with pytest.raises(
        ArgumentError, match=r"\.safetensors, \.pth or \.pt, got .*w\. Save to w\.safetens.* w\.pth"
    ):
        mr.save({}, tmp_path / "w")
    with pytest.raises(
        ArgumentError, match=r"expected save\(state, path\), got Sequential as path"
    ):
        mr.save("x.safetensors", net())
    with pytest.raises(
        ArgumentError, match=r"load_metadata: expected .*\.safetensors, got .*w\.pt"
    ):
        mr.load_metadata(tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"a file at .*none\.safetensors, got no such file"):
        mr.load(tmp_path / "none.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_keeps_the_old_file(path, monkeypatch):
    mr.save({"old": np.ones(1)}, path)

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(CheckpointError, match="No space left on device"):
        mr.save({"new": np.ones(1)}, path)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert list(mr.load(path)) == ["old"]


def test_weights_of_a_training_checkpoint(tmp_path):
    one = net()
    optimizer = mr.optim.SGD(one.parameters(), lr=0.1, momentum=0.9)
    one(mr.randn(2, 3, 5, 5)).sum().backward()
    optimizer.step()
    path = tmp_path / "checkpoint.safetensors"
    mr.train.save_checkpoint(path, model=one, optimizer=optimizer, progress={})
    two = net()
    two.load_state_dict(mr.load(path))
    same(two.state_dict(), one.state_dict())


# -- damage


def test_truncated_anywhere(path):
    mr.save(net(), path, metadata={"a": "b"})
    whole = path.read_bytes()
    for keep in range(0, len(whole), 7):
        path.write_bytes(whole[:keep])
        with pytest.raises(CheckpointError, match=rf"truncated or damaged file of {keep:,} bytes"):
            mr.load(path)


def test_every_flipped_bit_is_noticed(path):
    mr.save(net(), path, metadata={"a": "b"})
    whole = path.read_bytes()
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 1 << position % 8
        path.write_bytes(changed)
        with pytest.raises(CheckpointError):
            mr.load(path)


def test_damage_is_named(path):
    mr.save(net(), path)
    whole = bytearray(path.read_bytes())
    whole[-3] ^= 0x10
    path.write_bytes(whole)
    with pytest.raises(
        CheckpointError, match=r"its checksum does not match its contents\. Restore"
    ):
        mr.load(path)
    with pytest.raises(CheckpointError, match="load_metadata: expected a whole file"):
        mr.load_metadata(path)


def test_other_files_under_that_name(path, opcodes, make_pth):
    pth = make_pth(b"}")
    pth.rename(path)
    with pytest.raises(
        CheckpointError, match=r"got a zip archive\. If PyTorch wrote it, name it \."
    ):
        mr.load(path)
    path.write_text("<html>not found</html>")
    with pytest.raises(CheckpointError, match="truncated or damaged file of 22 bytes"):
        mr.load(path)


def handmade(dtype, shape, raw):
    header = json.dumps({"w": {"dtype": dtype, "shape": shape, "data_offsets": [0, len(raw)]}})
    return len(header).to_bytes(8, "little") + header.encode() + raw


def test_halves_become_float32_and_it_is_said(path):
    path.write_bytes(handmade("BF16", [2], b"\x80\x3f\x20\xc0"))
    with pytest.warns(
        UserWarning, match=r"x\.safetensors has tensors of bfloat16, which .*float32"
    ):
        assert mr.load(path)["w"].tolist() == [1, -2.5]
    path.write_bytes(handmade("F16", [], np.float16(0.1).tobytes()))
    with pytest.warns(UserWarning, match="tensors of float16"):
        assert mr.load(path)["w"].item() == np.float16(0.1)


def test_dtypes_that_minires_does_not_have(path):
    path.write_bytes(handmade("U64", [1], bytes(8)))
    with pytest.raises(
        CheckpointError, match=r"floats, integers or bool, got U64 in w .*Convert it"
    ):
        mr.load(path)
    path.write_bytes(handmade("C64", [1], np.complex64(1 + 2j).tobytes()))
    assert mr.load(path)["w"].tolist() == [1 + 2j]


# -- load_state_dict


def test_the_prefix_is_found_whatever_it_is():
    for prefix in ("module.", "_orig_mod.", "net.encoder."):
        state = {prefix + name: value for name, value in net().state_dict().items()}
        with pytest.raises(CheckpointError) as caught:
            net().load_state_dict(state)
        assert f'every key starts with "{prefix}"' in str(caught.value)
        assert (
            f'stripping it matches 6 of 6. Use minires.interop.strip_prefix(state, "{prefix}")'
            in (str(caught.value))
        )
        assert net().load_state_dict(strip_prefix(state, prefix)) == ([], [])


def test_no_prefix_is_proposed_that_would_not_help():
    state = {f"other.{name}": value for name, value in enumerate("ab")}
    with pytest.raises(CheckpointError) as caught:
        net().load_state_dict({name: np.ones(1) for name in state})
    assert "starts with" not in str(caught.value)


def test_strip_prefix_wants_it_everywhere():
    with pytest.raises(ArgumentError, match=r"1 of 2 that do not: b\. Select them first: \{k: v"):
        strip_prefix({"module.a": 1, "b": 2})
    assert strip_prefix({}) == {}


def test_batch_norm_without_a_count_is_loaded():
    one, two = net(), net()
    with mr.no_grad():
        one(mr.randn(2, 3, 5, 5))
    state = one.state_dict()
    del state["1.num_batches_tracked"]
    assert two.load_state_dict(state) == ([], [])
    np.testing.assert_array_equal(two[1].running_mean.numpy(), one[1].running_mean.numpy())
    assert two[1].num_batches_tracked.item() == 0
    del state["1.running_mean"]  # now the statistics themselves are missing
    with pytest.raises(CheckpointError, match=r"missing \(2\): 1\.running_mean, 1\.num_batches_tr"):
        two.load_state_dict(state)


@pytest.mark.parametrize(
    ("state", "kind", "words"),
    [
        (
            "x.pth",
            ArgumentError,
            r"a dict .*, got a str\. Read the file first: minires\.load\(path",
        ),
        (net(), ArgumentError, r"got a Sequential\. Pass its state_dict\(\)"),
        (
            {"state_dict": {"a": 1}, "epoch": 3},
            ArgumentError,
            r"load_state_dict: .*under 'state_dict'\. If .* pass checkpoint\['state_dict'\]",
        ),
        ({"0.weight": np.ones(1, np.float16)}, DTypeError, "got float16 under '0.weight'"),
    ],
)
def test_values_that_are_no_state_dict(state, kind, words):
    with pytest.raises(kind, match=words):
        net().load_state_dict(state)


@pytest.mark.parametrize("path", [None, 3, b"n.pth", ["n.pth"], io.BytesIO()])
def test_what_is_no_path(path):
    said = r"expected a path, as text or pathlib.Path, got "
    for call in (mr.load, mr.load_metadata, lambda p: mr.save({"a": mr.ones(1)}, p)):
        with pytest.raises(ArgumentError, match=said + type(path).__name__):
            call(path)


@pytest.mark.parametrize("names", [{1: mr.ones(1)}, {None: mr.ones(1), "a": mr.ones(1)}])
def test_names_that_are_no_text(names, tmp_path):
    for call in (
        lambda: mr.save(names, tmp_path / "x.safetensors"),
        lambda: mr.nn.Linear(1, 1).load_state_dict(names),
        lambda: mr.interop.strip_prefix(names, "a"),
    ):
        with pytest.raises(ArgumentError, match="text"):
            call()
    assert not [*tmp_path.iterdir()]


def test_names_and_metadata_that_no_file_can_hold(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(ArgumentError, match=r"names that are text, got '\\ud800'"):
        mr.save({"\ud800": mr.ones(1)}, path)
    with pytest.raises(ArgumentError, match="metadata as a dict, got int"):
        mr.save({"a": mr.ones(1)}, path, metadata=3)
    assert not path.exists()


def test_arguments_of_torch_load(tmp_path):
    path = tmp_path / "x.safetensors"
    mr.save({"a": mr.ones(2)}, path)
    for device in (None, "cpu", mr.device("cpu")):
        assert mr.load(path, map_location=device, weights_only=True)["a"].tolist() == [1, 1]
    with pytest.raises(ArgumentError, match="expected weights_only=True, got False"):
        mr.load(path, weights_only=False)
    with pytest.raises(ArgumentError, match="unknown device 'gpu'"):
        mr.load(path, map_location="gpu")
    with pytest.raises(DeviceError):
        mr.load(path, map_location="cuda")
