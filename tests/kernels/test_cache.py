"""The folder of compiled kernels: whose it is, what is loaded from it, and who compiles first."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minires.kernels.numba import cache

posix = pytest.mark.skipif(os.name != "posix", reason="owners, modes and such locks are POSIX'")
root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may give files away"
)

LISTEN = """
from minires.kernels.numba import compiler
import doubling
heard = []
with compiler.listening(heard.append):
    results = [doubling.run(dtype) for dtype in ("float32", "float64")]
print(results[0][1], *heard)
"""


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.slow
@posix
def test_folders_are_the_users_alone_whatever_the_umask(python_alone):
    done = python_alone.run("import os; os.umask(0)\n" + LISTEN)
    assert done.stdout.split() == ["2.0", "double", "double"]
    assert mode(python_alone.cache) == 0o700
    (folder,) = python_alone.cache.iterdir()
    assert mode(folder) == 0o700
    again = python_alone.run("import os; os.umask(0)\n" + LISTEN)
    assert again.stdout.split() == ["2.0"]  # what was made so is trusted
    assert again.stderr == ""


def open_root(folder):
    folder.parent.chmod(0o777)


def open_folder(folder):
    folder.chmod(0o777)


def open_to_the_group(folder):
    folder.chmod(0o775)


def open_subfolder(folder):
    folder.chmod(0o755)
    next(path for path in folder.iterdir() if path.is_dir()).chmod(0o777)


def open_file(folder):
    folder.chmod(0o755)
    next(folder.rglob("*.nbi")).chmod(0o666)


def give_away(folder):
    os.chown(folder, 12345, 12345)


def give_a_file_away(folder):
    folder.chmod(0o755)
    os.chown(next(folder.rglob("*.nbc")), 12345, 12345)


OPEN = [open_root, open_folder, open_to_the_group, open_subfolder, open_file]
GIVEN = [give_away, give_a_file_away]


@posix
@pytest.mark.parametrize("change", [*OPEN, *(pytest.param(c, marks=root) for c in GIVEN)])
def test_what_others_may_write_is_not_loaded(python_alone, monkeypatch, change):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(python_alone.cache))
    folder = cache.cache_folder()
    cache.make_private(folder)
    (folder / "part").mkdir()
    for name in ("a.nbi", "a.1.nbc"):
        (folder / "part" / name).write_bytes(b"x")
    assert cache.is_usable.__wrapped__()
    change(folder)
    words = "other users may write to|belongs to another user"
    with pytest.warns(UserWarning, match=f"cannot be kept in .*({words}).*cannot be trusted"):
        assert not cache.is_usable.__wrapped__()


@pytest.mark.slow
@posix
def test_a_planted_pickle_is_not_run(python_alone):
    """What the warning is about: a pickle in the place of a kernel is code."""
    python_alone.run(LISTEN)
    (folder,) = python_alone.cache.iterdir()
    made = python_alone.folder / "made"
    code = f"cos\nsystem\n(S'touch {made}'\ntR.".encode()
    for path in folder.rglob("*.nb*"):
        path.write_bytes(code)
    folder.chmod(0o777)
    done = python_alone.run(LISTEN)
    assert done.stdout.split() == ["2.0", "double", "double"]
    assert "other users may write to" in done.stderr
    assert not made.exists()
    folder.chmod(0o700)  # trusted, it would have been run
    python_alone.run(LISTEN)
    assert made.exists()


@posix
def test_a_folder_that_others_may_only_read_is_closed_to_them(python_alone, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(python_alone.cache))
    folder = cache.cache_folder()
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    assert cache.is_usable.__wrapped__()
    assert mode(folder) == 0o700


# -- several processes at once


def start(python, code):
    paths = [str(python.folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {
        **os.environ,
        "NUMBA_CACHE_DIR": str(python.cache),
        "PYTHONPATH": os.pathsep.join(paths),
    }
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
    )


def wait_for(path, process):
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, "the process has ended"
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
@posix
def test_processes_that_start_at_once_compile_each_kernel_once(python_alone):
    go = python_alone.folder / "go"
    ready = (
        f"import pathlib, time\nwhile not pathlib.Path({str(go)!r}).exists(): time.sleep(.001)\n"
    )
    # what launches kernels is not heard of: count what is kept
    count = (
        "from minires.kernels.numba import cache\nsaves = []\nsave = cache.Kept.save_overload\n"
        "def counted(self, *a):\n    saves.append(self._py_func.__name__)\n    save(self, *a)\n"
        "cache.Kept.save_overload = counted\n"
    )
    processes = [
        start(python_alone, "import minires\n" + count + ready + LISTEN + "print(*saves)\n")
        for _ in range(4)
    ]
    go.touch()
    heard, saved = [], []
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        first, second = out.splitlines()
        assert first.startswith("2.0")
        heard += first.split()[1:]
        saved += second.split()
    assert heard == ["double", "double"]  # one for each dtype, by whichever came first
    around = [name for name in saved if name != "double"]  # what launches kernels
    assert around
    assert sorted(set(around)) == sorted(around)
    assert len(saved) == len(around) + 2


@pytest.mark.slow
@posix
@pytest.mark.parametrize("killed", [True, False])
def test_a_process_that_ends_gives_its_turn_to_the_next(tmp_path, killed):
    index = tmp_path / "f.nbi"
    code = (
        "import os, pathlib, time\nfrom minires.kernels.numba import cache\n"
        f"assert cache._lock(pathlib.Path({str(index)!r}), 'f') is not None\n"
        f"pathlib.Path({str(tmp_path / 'held')!r}).touch()\n"
        "time.sleep(1)\n" + ("os.kill(os.getpid(), 9)" if killed else "")
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    wait_for(tmp_path / "held", process)
    handle = cache._lock(index, "f")
    assert handle is not None
    assert process.wait() == (-9 if killed else 0)
    cache._unlock(handle)


@posix
def test_waiting_is_bounded_and_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cache, "PATIENCE", 0.3)
    monkeypatch.setattr(cache, "_SILENCE", 0.1)
    monkeypatch.setattr(cache, "_waited", False)
    handle = cache._lock(tmp_path / "f.nbi", "f")
    assert capsys.readouterr().err == ""
    for _ in range(2):
        assert cache._lock(tmp_path / "f.nbi", "f") is None
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "waiting for another process that is compiling f" in said
    cache._unlock(handle)
    assert not cache._held
    again = cache._lock(tmp_path / "f.nbi", "f")
    assert again is not None
    cache._unlock(again)


@posix
def test_a_fork_does_not_keep_the_turn(tmp_path):
    handle = cache._lock(tmp_path / "f.nbi", "f")
    child = os.fork()
    if child == 0:
        os._exit(0 if not cache._held and not _is_open(handle) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert cache._held == {handle}
    cache._unlock(handle)


def _is_open(handle):
    try:
        os.fstat(handle)
    except OSError:
        return False
    return True


@posix
def test_without_locks_each_compiles_its_own(tmp_path, monkeypatch):
    import fcntl

    def flock(handle, operation):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    assert cache._lock(tmp_path / "f.nbi", "f") is None
    assert cache._lock(Path(tmp_path / "missing" / "f.nbi"), "f") is None
    assert not cache._held


@posix
def test_a_planted_lock_is_left_alone(tmp_path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "f.lock").symlink_to(tmp_path / "victim")
    assert cache._lock(tmp_path / "f.nbi", "f") is None
    assert (tmp_path / "victim").read_text() == "precious"
