"""Atomic writes: all or nothing, readable by others, explained when impossible."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from harness import raises

from minires import files
from minires.errors import ArgumentError, CheckpointError
from minires.files import claimed, open_own
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


# -- folders that others may write to as well

posix = pytest.mark.skipif(os.name != "posix", reason="links, pipes and owners are POSIX'")
root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may give files away"
)


def plant(kind, path, victim):
    """Put something else under a name that minires is about to open."""
    if kind == "a symbolic link":
        path.symlink_to(victim)
    elif kind == "hard link":
        os.link(victim, path)
    elif kind == "a pipe":
        os.mkfifo(path)
    else:
        path.mkdir()


PLANTED = ["a symbolic link", "hard link", "a pipe", "a folder"]


@posix
@pytest.mark.parametrize("kind", PLANTED)
@pytest.mark.parametrize("flags", ["w", "a", "x", "r+"])
def test_what_others_planted_is_not_opened(tmp_path, kind, flags):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    plant(kind, tmp_path / "name", victim)
    with pytest.raises(OSError, match=f"{kind}.* under the name of a file of minires"):
        open(tmp_path / "name", flags, opener=open_own).close()
    assert victim.read_text() == "precious"


@posix
def test_a_dangling_link_makes_no_file(tmp_path):
    (tmp_path / "name").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="a symbolic link"):
        open(tmp_path / "name", "w", opener=open_own).close()
    assert not (tmp_path / "victim").exists()


@posix
@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_lock_is_refused_and_left_alone(tmp_path, kind):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "run").mkdir()
    plant(kind, tmp_path / "run" / ".lock", victim)
    entered = []
    with pytest.raises(CheckpointError) as caught, claimed(tmp_path / "run", "train"):
        entered.append(1)
    assert not entered
    assert str(caught.value).startswith(f"train: expected to lock {tmp_path / 'run'}, got ")
    assert kind in str(caught.value)
    assert str(caught.value).endswith(
        f"Remove {tmp_path / 'run' / '.lock'} if it is there, or choose another folder."
    )
    assert victim.read_text() == "precious"
    assert os.path.lexists(tmp_path / "run" / ".lock")


@posix
@pytest.mark.parametrize("kind", PLANTED)
@pytest.mark.parametrize("write", [lambda p: write_atomic(p, "new"), check_writable])
def test_a_planted_temporary_file_is_refused_and_left_alone(tmp_path, monkeypatch, kind, write):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    monkeypatch.setattr(files.secrets, "token_hex", lambda n: "0" * 2 * n)
    plant(kind, tmp_path / ".x.00000000.tmp", victim)
    with pytest.raises(CheckpointError, match=f"write x, got {kind}|second name"):
        write(tmp_path / "x")
    assert victim.read_text() == "precious"
    assert not (tmp_path / "x").exists()


@root
@posix
def test_a_link_of_another_user_is_not_written_through(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "own").symlink_to("theirs")
    (tmp_path / "theirs").symlink_to(victim)
    os.chown(tmp_path / "theirs", 12345, 12345, follow_symlinks=False)
    for name in ("theirs", "own"):
        for write in (lambda p: write_atomic(p, "new"), check_writable):
            with pytest.raises(CheckpointError, match=r"theirs to be a file.*link of another user"):
                write(tmp_path / name)
    assert victim.read_text() == "precious"


# -- claims


def test_a_claim_keeps_others_out_and_leaves_nothing(tmp_path):
    folder = tmp_path / "a" / "run"
    with claimed(folder, "study"):
        words = r"train: another process works in .*run\. Wait"
        with pytest.raises(CheckpointError, match=words), claimed(folder, "train"):
            pytest.fail("two were let in")
        assert [p.name for p in folder.iterdir()] == [".lock"]
    assert list(folder.iterdir()) == []
    with claimed(folder, "train"):
        pass


@posix
def test_a_killed_process_gives_its_claim_back(tmp_path):
    code = (
        "import os, sys, pathlib\nfrom minires.files import claimed\n"
        "with claimed(pathlib.Path(sys.argv[1]), 'train'):\n    os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], check=False)
    assert done.returncode == -9
    assert [p.name for p in tmp_path.iterdir()] == [".lock"]
    with claimed(tmp_path, "train"):
        pass
    assert list(tmp_path.iterdir()) == []


@posix
def test_a_lock_that_vanishes_between_opening_and_locking_is_made_anew(tmp_path, monkeypatch):
    """The process before has just finished: its file is ours alone, and nobody else sees it."""
    import fcntl

    real, calls = fcntl.flock, []

    def flock(handle, operation):
        calls.append(handle)
        if len(calls) == 1:
            os.unlink(tmp_path / ".lock")
        return real(handle, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with claimed(tmp_path, "train"):
        assert (tmp_path / ".lock").exists()
        with pytest.raises(CheckpointError, match="another process"), claimed(tmp_path, "train"):
            pytest.fail("two were let in")
    assert len(calls) == 3


TURNS = """
import contextlib, os, pathlib, sys, time
from minires.errors import CheckpointError
from minires.files import claimed
folder, entered, refused, end = pathlib.Path(sys.argv[1]), 0, 0, time.time() + 60
while entered < 100 and time.time() < end:
    try:
        with claimed(folder, "train"):
            os.close(os.open(folder / "inside", os.O_CREAT | os.O_EXCL))  # is another there?
            entered += 1
            os.unlink(folder / "inside")
    except CheckpointError as error:
        assert "another process works" in str(error), error
        refused += 1
print(entered, refused)
"""


@posix
def test_three_processes_take_turns(tmp_path):
    """The file of the lock comes and goes with each of them: never are two of them inside."""
    processes = [
        subprocess.Popen([sys.executable, "-c", TURNS, tmp_path], stdout=-1, text=True)
        for _ in range(3)
    ]
    found = [[*map(int, process.communicate(timeout=100)[0].split())] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert [entered for entered, _ in found] == [100, 100, 100]
    assert sum(refused for _, refused in found) > 0  # they did meet
    assert list(tmp_path.iterdir()) == []


@posix
def test_a_forked_child_that_leaves_does_not_give_the_claim_back(tmp_path):
    code = (
        "import os, sys, pathlib\nfrom minires.files import claimed\n"
        "with claimed(pathlib.Path(sys.argv[1]), 'train'):\n"
        "    child = os.fork()\n    if not child:\n        raise SystemExit\n"
        "    os.waitpid(child, 0)\n    print(os.listdir(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("['.lock']\n", "")
    assert list(tmp_path.iterdir()) == []


@posix
def test_the_lock_of_another_who_came_after_the_folder_was_removed_stays(tmp_path):
    with claimed(tmp_path, "train"):
        (tmp_path / ".lock").unlink()  # by the user
        (tmp_path / ".lock").write_text("of another")
    assert (tmp_path / ".lock").read_text() == "of another"


@posix
def test_the_lock_is_not_handed_to_programs_that_are_started_inside(tmp_path):
    with claimed(tmp_path, "train"):
        program = subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1)
    with claimed(tmp_path, "train"):  # though the program is still there
        program.communicate(b"\n")


@posix
def test_a_system_without_locks_is_mentioned(tmp_path, monkeypatch):
    import fcntl

    def flock(handle, operation):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with (
        pytest.warns(
            UserWarning, match=r"cannot be locked \(No locks available\): start no second"
        ),
        claimed(tmp_path, "train"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


@posix
def test_only_leftovers_of_owned_files_are_removed(tmp_path):
    ours = [".x.json.0123abcd.tmp", "..lock.89abcdef.tmp"]
    others = [
        ".y.json.0123abcd.tmp", ".x.json.0123abc.tmp", ".x.json.0123ABCD.tmp", "x.json.tmp",
        ".x.json.0123abcd.tmp.bak", "x.json", ".notes.tmp",
    ]  # fmt: skip
    for name in (*ours, *others):
        (tmp_path / name).write_text("half")
    (tmp_path / ".x.json.11111111.tmp").mkdir()
    (tmp_path / ".x.json.22222222.tmp").symlink_to("x.json")
    with claimed(tmp_path, "train", [tmp_path / "x.json", tmp_path / "missing" / "z"]):
        assert not {*ours} & {p.name for p in tmp_path.iterdir()}
        (tmp_path / ours[0]).write_text("of one who was killed while we worked")
    left = {p.name for p in tmp_path.iterdir()}
    assert left == {*others, ".x.json.11111111.tmp", ".x.json.22222222.tmp"}


@pytest.mark.parametrize("path", ["x" * 5000, "x/" * 2500, "a\0b", "\ud800"], ids=range(4))
def test_paths_that_no_file_can_have_are_named_in_short(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for act in (
        lambda: files.as_path("load", path),
        lambda: files.open_to_read(path, "load"),
        lambda: files.write_atomic(path, "x"),
        lambda: files.check_writable(path),
        lambda: files.write_json_atomic(path, 1),
    ):
        with pytest.raises(ArgumentError, match=r"(load|write): expected a path that files") as e:
            act()
        assert len(str(e.value)) < 300
    assert not list(tmp_path.iterdir())


def test_a_long_path_that_cannot_be_written_is_abbreviated(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"write: expected .*Choose another") as caught:
        files.write_atomic(tmp_path / "file" / ("a" * 200) / ("b" * 200) / ("c" * 240), "x")
    assert len(str(caught.value)) < 700


@posix
def test_reading_waits_for_no_pipe(tmp_path):
    os.mkfifo(tmp_path / "x")
    with pytest.raises(CheckpointError, match=r"load: expected a file at .*x, got no ordinary"):
        files.open_to_read(tmp_path / "x", "load")


@pytest.mark.parametrize("path", ["a\0b", "\ud800", 3, b"x", None])
@pytest.mark.parametrize("use", [check_writable, lambda path: write_atomic(path, "")])
def test_paths_that_name_no_file(path, use):
    with raises(ArgumentError, "write: expected a path"):
        use(path)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are characters")
def test_a_path_of_bytes_that_are_no_text(tmp_path):
    write_atomic(tmp_path / "a\udcff", "content")
    assert os.listdir(os.fsencode(tmp_path)) == [b"a\xff"]


@pytest.mark.parametrize("content", [None, 3, ["a"], np.ones(2)])
def test_content_is_text_or_bytes(content, tmp_path):
    with raises(ArgumentError, "write: expected content of text or bytes, got"):
        write_atomic(tmp_path / "x", content)
    assert os.listdir(tmp_path) == []


def test_a_long_name_is_abbreviated(tmp_path):
    with pytest.raises(ArgumentError) as caught:
        write_atomic(tmp_path / ("x" * 5000), "")
    assert len(str(caught.value)) < 700
