"""Files of kernels: what is not what was written for this kernel is never loaded."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest

from minires.kernels.numba import sealed

posix = pytest.mark.skipif(os.name != "posix", reason="owners and modes are POSIX'")
root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may give files away"
)

SOURCE = sealed.hash_of(b"def f(): pass")
CONTENT = bytes(range(100))


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "f-1.nbc"
    sealed.write(path, "f of float32", SOURCE, CONTENT)
    return path


def read(path):
    return sealed.read(path, "f of float32", SOURCE)


def refused(path, words):
    with pytest.raises(sealed.Damaged, match=f"^{words}"):
        read(path)


def test_what_was_written_is_read(path):
    assert read(path) == CONTENT
    sealed.write(path, "f of float32", SOURCE, b"")
    assert read(path) == b""
    assert [*path.parent.iterdir()] == [path]


def test_every_flipped_bit_is_noticed(path):
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(sealed.Damaged):
            read(path)
    path.write_bytes(whole)
    assert read(path) == CONTENT


def test_every_missing_end_is_noticed_and_every_added_one(path):
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(sealed.Damaged):
            read(path)
    for more in (b"\0", whole):
        path.write_bytes(whole + more)
        refused(path, "[0-9,]+ of 100 bytes")


@pytest.mark.parametrize("content", [b"", b"\x80\x04nonsense", b"cos\nsystem\n(S'true'\ntR."])
def test_other_files_are_said_to_be_others(path, content):
    path.write_bytes(content)
    refused(path, "one that minires did not write")


def test_a_file_of_another_version_is_another_file(path, monkeypatch):
    monkeypatch.setattr(sealed, "MAGIC", b"minires kernel 2")
    refused(path, "one that minires did not write")


def test_a_file_of_gigabytes_is_not_read_to_its_end(path):
    os.truncate(path, 1 << 40)  # a hole, which takes no space
    refused(path, "1,099,511,627,[0-9]* of 100 bytes")


def test_the_file_of_another_kernel_is_noticed(path):
    other = path.with_name("g-1.nbc")
    sealed.write(other, "f of float64", SOURCE, CONTENT)
    os.replace(other, path)
    refused(path, "another content than was written for it")


def test_a_file_of_another_source_is_no_damage_but_old(path):
    sealed.write(path, "f of float32", sealed.hash_of(b"def f(): return 1"), CONTENT)
    assert read(path) is None
    flipped = bytearray(path.read_bytes())
    flipped[-1] ^= 1
    path.write_bytes(flipped)
    refused(path, "another content")


def test_no_file_is_no_damage(path):
    path.unlink()
    assert read(path) is None


def test_parts_are_told_apart():
    hashes = {sealed.hash_of(*parts) for parts in ((b"ab", b""), (b"a", b"b"), (b"", b"ab"))}
    assert len(hashes) == 3


@posix
def test_only_the_user_may_read_what_is_written(path):
    assert path.stat().st_mode & 0o777 == 0o600
    before = os.umask(0)
    try:
        sealed.write(path, "f of float32", SOURCE, CONTENT)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600


@posix
@pytest.mark.parametrize("mode", [0o606, 0o660, 0o622])
def test_what_others_may_write_is_refused(path, mode):
    path.chmod(mode)
    refused(path, "one that other users may write to")
    path.chmod(0o644)
    assert read(path) == CONTENT


@posix
@root
def test_what_others_own_is_refused(path):
    os.chown(path, 12345, 12345)
    refused(path, "one that belongs to another user")


def a_link(path, other):
    path.symlink_to(other)


def a_hard_link(path, other):
    os.link(other, path)


def a_pipe(path, other):
    os.mkfifo(path)


def a_folder(path, other):
    path.mkdir()


@posix
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (a_link, "a symbolic link"),
        (a_hard_link, "a file that has a second name"),
        (a_pipe, "a pipe"),
        (a_folder, "a folder|Is a directory"),
    ],
)
def test_what_is_no_file_of_its_own_is_refused(path, make, words):
    other = path.with_name("other")
    os.replace(path, other)
    make(path, other)
    refused(path, rf"one that cannot be read \(.*({words})")


@posix
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root reads all")
def test_what_cannot_be_read_is_said_so(path):
    path.chmod(0)
    refused(path, r"one that cannot be read \(Permission denied\)")


@pytest.mark.parametrize("in_place", [False, True])
def test_a_file_that_changes_while_it_is_read_is_whole_or_refused(path, in_place):
    """Another process replaces it, or something writes into it, at any moment of reading."""
    first, second = np.zeros(400_000, np.uint8).tobytes(), np.ones(400_000, np.uint8).tobytes()
    files = []
    for content in (first, second):
        sealed.write(path, "f of float32", SOURCE, content)
        files.append(path.read_bytes())
    stop = threading.Event()

    def change():
        k = 0
        while not stop.is_set():
            k += 1
            if in_place:
                with open(path, "r+b") as file:
                    file.write(files[k % 2])
            else:
                sealed.write(path, "f of float32", SOURCE, (first, second)[k % 2])

    writer = threading.Thread(target=change)
    writer.start()
    seen, reasons = set(), set()
    try:
        for _ in range(200):
            try:
                seen.add(read(path))
            except sealed.Damaged as damage:
                reasons.add(str(damage))
    finally:
        stop.set()
        writer.join()
    assert seen <= {first, second}
    if in_place:
        assert reasons <= {"another content than was written for it"}
    else:
        assert seen
        assert not reasons


def test_a_file_that_cannot_be_written_leaves_the_old_one(path, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        sealed.write(path, "f of float32", SOURCE, b"other")
    monkeypatch.undo()
    assert read(path) == CONTENT
    assert [*path.parent.iterdir()] == [path]
