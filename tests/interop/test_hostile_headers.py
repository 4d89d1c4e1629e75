"""Headers of safetensors, and JSON, that no honest program wrote: an error of ours, or values."""

import json
import struct

import pytest

import minires as mr
from minires.errors import ArgumentError, CheckpointError
from minires.study import store
from minires.train import save_checkpoint, write_json_atomic

DEEP = 100_000


def file(folder, header, data=b"\0" * 4):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path = folder / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def one(shape, nbytes=4):
    return {"dtype": "F32", "shape": shape, "data_offsets": [0, nbytes]}


def test_metadata_may_be_null(tmp_path):
    path = file(tmp_path, {"__metadata__": None, "w": one([1])})
    assert mr.load(path)["w"].tolist() == [0]
    assert mr.load_metadata(path) == {}


@pytest.mark.parametrize("read", [mr.load, mr.load_metadata])
@pytest.mark.parametrize(
    ("shape", "nbytes"),
    [([1] * 65, 4), ([1] * DEEP, 4), ([0, 2**62, 2**62], 0), ([2**64 - 1, 0], 0)],
    ids=["65 dims", "100,000 dims", "2^124 entries beside 0", "2^64 - 1"],
)
def test_shapes_that_numpy_does_not_have(tmp_path, read, shape, nbytes):
    path = file(tmp_path, {"w": one(shape, nbytes)}, b"\0" * nbytes)
    with pytest.raises(CheckpointError, match=r"at most 64 dimensions.*got shape \(.*\) in 'w'"):
        read(path)


def test_64_dimensions_are_read(tmp_path):
    assert mr.load(file(tmp_path, {"w": one([1] * 64)}))["w"].shape == (1,) * 64


@pytest.mark.parametrize("read", [mr.load, mr.load_metadata])
@pytest.mark.parametrize(
    "header",
    [
        b'{"w":' + b"[" * DEEP + b"]" * DEEP + b"}",
        b'{"__metadata__":' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}",
        {"__metadata__": [1]},
        {"__metadata__": {"a": 1}},
        [1],
    ],
    ids=["deep", "deep metadata", "metadata a list", "metadata of numbers", "a list"],
)
def test_headers_of_another_kind(tmp_path, read, header):
    with pytest.raises(CheckpointError, match="expected a safetensors file"):
        read(file(tmp_path, header, b""))


@pytest.mark.parametrize("metadata", [{"minires_json": "[" * DEEP}, {"minires_json": '["a"]'}])
def test_metadata_whose_values_are_no_json(tmp_path, metadata):
    path = file(tmp_path, {"__metadata__": {**metadata, "a": '{"a":' * DEEP}}, b"")
    with pytest.raises(CheckpointError, match="metadata that minires wrote"):
        mr.load_metadata(path)


@pytest.mark.parametrize("text", ["[" * DEEP + "]" * DEEP, '{"a":' * DEEP + "1" + "}" * DEEP])
def test_results_nested_deeper_than_python_recurses(tmp_path, text):
    (tmp_path / store.FILE).write_text(text)
    with pytest.raises(CheckpointError, match="is damaged"):
        store.load(tmp_path)


def test_what_is_nested_too_deep_is_not_written(tmp_path):
    deep = []
    for _ in range(DEEP):
        deep = [deep]
    with pytest.raises(ArgumentError, match="write_json_atomic: expected JSON values"):
        write_json_atomic(tmp_path / "a.json", deep)
    net = mr.nn.Linear(2, 3)
    with pytest.raises(ArgumentError, match="save_checkpoint: expected progress of plain JSON"):
        save_checkpoint(tmp_path / "a.npz", model=net, progress={"a": deep})
    assert not [*tmp_path.iterdir()]
