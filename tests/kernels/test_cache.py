"""The folder of compiled kernels: whose it is, what is loaded from it, and who compiles first."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from numba import types
from numba.core.registry import cpu_target

from minires.kernels.numba import cache, cpu, sealed

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
    (folder / "part").chmod(0o777)  # by who was in it before the folder was closed, or is still


def give_away(folder):
    os.chown(folder, 12345, 12345)


def give_a_subfolder_away(folder):
    os.chown(folder / "part", 12345, 12345)


def link_a_subfolder_of_others(folder):
    os.replace(folder / "part", folder.parent / "elsewhere")
    (folder / "part").symlink_to(folder.parent / "elsewhere")
    os.chown(folder / "part", 12345, 12345, follow_symlinks=False)


OPEN = [open_root, open_folder, open_to_the_group, open_subfolder]
GIVEN = [give_away, give_a_subfolder_away, link_a_subfolder_of_others]


@posix
@pytest.mark.parametrize("change", [*OPEN, *(pytest.param(c, marks=root) for c in GIVEN)])
def test_what_others_may_write_is_not_loaded(python_alone, monkeypatch, change):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(python_alone.cache))
    folder = cache.cache_folder()
    cache.make_private(folder)
    (folder / "part").mkdir()
    assert cache.is_usable.__wrapped__()
    change(folder)
    words = "other users may write to|belongs to another user|is a link of another user"
    with pytest.warns(UserWarning, match=f"cannot be kept in .*({words}).*cannot be trusted"):
        assert not cache.is_usable.__wrapped__()


@posix
def test_folders_that_others_may_only_read_are_closed_to_them(python_alone, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(python_alone.cache))
    folder = cache.cache_folder()
    (folder / "part").mkdir(parents=True)
    elsewhere = python_alone.folder / "elsewhere"
    elsewhere.mkdir()
    (folder / "link").symlink_to(elsewhere)
    for path in (folder, folder / "part", elsewhere):
        path.chmod(0o755)
    assert cache.is_usable.__wrapped__()
    assert [mode(path) for path in (folder, folder / "part", elsewhere)] == [0o700, 0o700, 0o755]


# -- what is kept is what was written


def kept(python):
    """The files of the kernel for float32 and for float64."""
    first, second = sorted(python.cache.rglob("doubling.double-*.nbc"))
    return first, second


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def damage(python):
    for path in kept(python):
        flip(path)


def exchange(python):
    """Each holds the sound code of the other dtype, which would read half or twice the memory."""
    first, second = kept(python)
    contents = first.read_bytes(), second.read_bytes()
    first.write_bytes(contents[1])
    second.write_bytes(contents[0])


def open_to_others(python):
    first, second = kept(python)
    first.chmod(0o666)
    os.replace(second, python.cache / "elsewhere")
    second.symlink_to(python.cache / "elsewhere")


def give_away_files(python):
    for path in kept(python):
        os.chown(path, 12345, 12345)


@pytest.mark.slow
@posix
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (damage, "another content than was written for it"),
        (exchange, "another content than was written for it"),
        (open_to_others, "one that other users may write to|a symbolic link"),
        pytest.param(give_away_files, "one that belongs to another user", marks=root),
    ],
)
def test_what_is_not_what_was_written_is_compiled_anew(python_warm, change, words):
    change(python_warm)
    done = python_warm.run(LISTEN)
    assert done.stdout.split() == ["2.0", "double", "double"]
    assert done.stderr.count("expected the compiled kernel that was kept in") == 1, "say it once"
    assert re.search(words, done.stderr)
    assert "compiled anew and replaced" in done.stderr
    again = python_warm.run(LISTEN)  # it was replaced
    assert (again.stdout.split(), again.stderr) == (["2.0"], "")
    assert all(mode(path) == 0o600 for path in kept(python_warm))


@pytest.mark.slow
def test_where_warnings_are_errors_the_next_try_finds_a_sound_file(python_warm):
    flip(kept(python_warm)[0])
    done = python_warm.run(LISTEN, check=False, PYTHONWARNINGS="error")
    assert done.returncode == 1
    assert "UserWarning: double: expected the compiled kernel" in done.stderr
    again = python_warm.run(LISTEN, PYTHONWARNINGS="error")
    assert (again.stdout.split(), again.stderr) == (["2.0"], "")


def test_the_same_kernel_for_another_vector_width_is_another(tmp_path, monkeypatch):
    """Though the two files have one name, in folders beside each other."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))

    def place(lanes):
        monkeypatch.setattr(cpu, "LANES", lanes)
        codegen = cpu_target.target_context.codegen()
        return cache.Kept(kept)._place(types.void(types.int64), codegen)

    (path, purpose), (other, others) = place(4), place(8)
    assert path.name == other.name
    assert path.parent.name == other.parent.name
    assert path.parent != other.parent
    assert purpose != others
    sealed.write(path, purpose, bytes(sealed.HASH), b"code")
    os.replace(path, other)
    with pytest.raises(sealed.Damaged, match="another content"):
        sealed.read(other, others, bytes(sealed.HASH))


@pytest.mark.slow
def test_a_planted_pickle_is_not_run(python_warm):
    """A pickle in the place of a kernel is code. It is not looked at before its checksum is."""
    made = python_warm.cache / "made"
    code = f"cos\nsystem\n(S'touch {made}'\ntR.".encode()
    head = sealed._HEAD.size
    for k, path in enumerate(kept(python_warm)):
        whole = path.read_bytes()
        forged = whole[:head] + code + whole[head + len(code) :]  # as long as it was
        path.write_bytes(forged if k % 2 else code)
    done = python_warm.run(LISTEN)
    assert done.stdout.split() == ["2.0", "double", "double"]
    assert not made.exists()


@pytest.mark.slow
def test_sound_files_that_cannot_be_loaded_are_compiled_anew(python_warm):
    """As those of another LLVM could be."""
    spoil = (
        "from minires.kernels.numba import cache\ndumps = cache.dumps\n"
        "cache.dumps = lambda value: dumps(value[:2])\n"
    )
    for path in kept(python_warm):
        path.unlink()
    python_warm.run(spoil + LISTEN)
    done = python_warm.run(LISTEN)
    assert done.stdout.split() == ["2.0", "double", "double"]
    assert "got one that cannot be loaded (TypeError)" in done.stderr
    again = python_warm.run(LISTEN)
    assert (again.stdout.split(), again.stderr) == (["2.0"], "")


LARGE = """
import numpy as np
from minires.kernels.numba.kernel import kernel
TABLE = np.arange(200_000)


@kernel
def look_up(task, y):
    y[task] = TABLE[task + 1]


def run():
    y = np.zeros(3, np.int64)
    look_up(3, y)
    print(*y)
"""


@pytest.mark.slow
def test_machine_code_with_addresses_is_not_kept_and_said_so(python_warm):
    """Numba leaves large arrays where they are: only this process has them there."""
    (python_warm.folder / "large.py").write_text(LARGE)
    for _ in range(2):
        done = python_warm.run("import large\nlarge.run()")
        assert done.stdout.split() == ["1", "2", "3"]
        assert "look_up: expected a kernel without addresses" in done.stderr
    assert not [*python_warm.cache.rglob("*look_up*.nbc")]


@pytest.mark.slow
def test_a_folder_that_was_removed_meanwhile_is_made_again(python_warm):
    _, second = kept(python_warm)
    second.unlink()
    code = (
        "import shutil, doubling\nfrom minires.kernels.numba import cache\n"
        "doubling.run()\nshutil.rmtree(cache.cache_folder())\n"
        "print(doubling.run('float64')[1], *doubling.run())"
    )
    assert python_warm.run(code).stdout.split()[0] == "2.0"
    assert len([*python_warm.cache.rglob("*.nbc")]) == 1


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
        "def counted(self, *a):\n    saves.append(self._function.__name__)\n    save(self, *a)\n"
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
    path = tmp_path / "f.nbc"
    code = (
        "import os, pathlib, time\nfrom minires.kernels.numba import cache\n"
        f"assert cache._lock(pathlib.Path({str(path)!r}), 'f') is not None\n"
        f"pathlib.Path({str(tmp_path / 'held')!r}).touch()\n"
        "time.sleep(1)\n" + ("os.kill(os.getpid(), 9)" if killed else "")
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    wait_for(tmp_path / "held", process)
    handle = cache._lock(path, "f")
    assert handle is not None
    assert process.wait() == (-9 if killed else 0)
    cache._unlock(handle)


@posix
def test_waiting_is_bounded_and_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cache, "PATIENCE", 0.3)
    monkeypatch.setattr(cache, "_SILENCE", 0.1)
    monkeypatch.setattr(cache, "_waited", False)
    handle = cache._lock(tmp_path / "f.nbc", "f")
    assert capsys.readouterr().err == ""
    with monkeypatch.context() as muted:
        muted.setattr(cache.talk, "allowed", False)
        assert cache._lock(tmp_path / "f.nbc", "f") is None
    assert capsys.readouterr().err == ""
    for _ in range(2):
        assert cache._lock(tmp_path / "f.nbc", "f") is None
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "waiting for another process that is compiling f" in said
    cache._unlock(handle)
    assert not cache._held
    again = cache._lock(tmp_path / "f.nbc", "f")
    assert again is not None
    cache._unlock(again)


@posix
def test_a_fork_does_not_keep_the_turn(tmp_path):
    handle = cache._lock(tmp_path / "f.nbc", "f")
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
    assert cache._lock(tmp_path / "f.nbc", "f") is None
    assert cache._lock(Path(tmp_path / "missing" / "f.nbc"), "f") is None
    assert not cache._held


@posix
def test_a_planted_lock_is_left_alone(tmp_path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "f.lock").symlink_to(tmp_path / "victim")
    assert cache._lock(tmp_path / "f.nbc", "f") is None
    assert (tmp_path / "victim").read_text() == "precious"
