"""Atomic writes: all or nothing, readable by others, explained when impossible."""

import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from minires.errors import ArgumentError, CheckpointError
from minires.train import check_writable, write_atomic, write_json_atomic


def test_writes_bytes_and_text_and_makes_folders(tmp_path):
    write_atomic(tmp_path / "a" / "b" / "x.bin", b"\x00\xff")
    write_atomic(str(tmp_path / "x.txt"), "ä")
    assert (tmp_path / "a" / "b" / "x.bin").read_bytes() == b"\x00\xff"
    assert (tmp_path / "x.txt").read_bytes() == "ä".encode()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "x.txt"]


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX'")
def test_file_mode_follows_the_umask(tmp_path):
    old = os.umask(0o022)
    try:
        write_atomic(tmp_path / "x", "1")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o644


def test_a_symbolic_link_stays_one(tmp_path):
    (tmp_path / "real").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real" / "x")
    write_atomic(link, "1")
    assert link.is_symlink()
    assert (tmp_path / "real" / "x").read_text() == "1"


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OSError(28, "No space left on device")])
@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_stopped_half_way_the_old_file_is_whole(tmp_path, monkeypatch, failure, where):
    path = tmp_path / "x"
    write_atomic(path, "old")

    def fail(*args):
        raise failure

    monkeypatch.setattr(os, where, fail)
    with pytest.raises((KeyboardInterrupt, CheckpointError)) as caught:
        write_atomic(path, "new")
    if isinstance(failure, OSError):
        assert "got No space left on device (folder" in str(caught.value)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("write", [lambda p: write_atomic(p, "1"), check_writable])
def test_impossible_places_are_named(tmp_path, write):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"write x, got .*\(folder .*file/sub\)\. Choose"):
        write(tmp_path / "file" / "sub" / "x")
    (tmp_path / "dir").mkdir()
    with pytest.raises(CheckpointError, match=r"write dir, got Is a directory"):
        write(tmp_path / "dir")


def test_unwritable_folder_is_named(tmp_path, monkeypatch):
    """Root may write anywhere, so the refusal of the system is acted."""

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(CheckpointError, match="Permission denied") as caught:
        write_atomic(tmp_path / "x", "1")
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(CheckpointError, match="Permission denied"):
        check_writable(tmp_path / "x")


def test_check_writable_leaves_nothing_and_harms_nothing(tmp_path):
    write_atomic(tmp_path / "x", "1")
    check_writable(tmp_path / "x")
    check_writable(tmp_path / "y")
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_text() == "1"


def test_json(tmp_path):
    value = {"a": np.float32(0.5), "b": np.arange(3), "c": [None, True, "ä"], "d": Path("p")}
    write_json_atomic(tmp_path / "x.json", value)
    read = json.loads((tmp_path / "x.json").read_text())
    assert read == {"a": 0.5, "b": [0, 1, 2], "c": [None, True, "ä"], "d": "p"}


@pytest.mark.parametrize("value", [float("nan"), np.float64("inf"), np.array([np.nan]), {1, 2}])
def test_json_refuses_what_it_cannot_hold(tmp_path, value):
    with pytest.raises(ArgumentError, match=r"JSON values and finite numbers, got .*x\.json"):
        write_json_atomic(tmp_path / "x.json", {"loss": value})
    assert list(tmp_path.iterdir()) == []
