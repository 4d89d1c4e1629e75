"""Compiling and keeping: what is compiled when, where it is kept, what users are told."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time

import numpy as np
import pytest
from harness import raises

from minires.errors import DeviceError
from minires.kernels.numba import cache, compiler
from minires.kernels.numba.kernel import kernel

LISTEN = """
from minires.kernels.numba import cache, compiler
import doubling
heard = []
with compiler.listening(heard.append):
    results = [doubling.run(dtype) for dtype in ("float32", "float32", "float64")]
assert len({tuple(result) for result in results}) == 1
print(results[0][1], *heard)
"""


@pytest.mark.slow
def test_the_cache_is_used_again(python_alone):
    assert python_alone.run(LISTEN).stdout.split() == [
        "2.0",
        "double",
        "double",
    ]  # one for each dtype
    folders = list(python_alone.cache.iterdir())
    assert [folder.name.startswith("minires-") for folder in folders] == [True]
    assert len(list(folders[0].rglob("*.nbc"))) >= 2
    assert python_alone.run(LISTEN).stdout.split() == ["2.0"]


@pytest.mark.slow
def test_a_module_may_launch_its_kernel_while_it_is_imported(python):
    with (python.folder / "doubling.py").open("a") as module:
        module.write("\n\nRESULT = run()\n")
    assert python.run("import doubling; print(doubling.RESULT[1])").stdout == "2.0\n"


@pytest.mark.slow
def test_a_changed_kernel_is_compiled_again(python):
    python.run(LISTEN)
    python.write(3)
    os.utime(python.folder / "doubling.py", (time.time() + 5,) * 2)
    assert python.run(LISTEN).stdout.split() == ["3.0", "double", "double"]


@pytest.mark.slow
def test_each_vector_width_has_its_own_cache(python):
    python.run(LISTEN, MINIRES_SIMD="8")
    assert python.run(LISTEN, MINIRES_SIMD="4").stdout.split() == ["2.0", "double", "double"]
    assert python.run(LISTEN, MINIRES_SIMD="8").stdout.split() == ["2.0"]


@pytest.mark.slow
def test_sizes_are_not_compiled_in(python):
    code = (
        "import numpy as np\n"
        "from minires.kernels.numba import cache, compiler\n"
        "from doubling import double\n"
        "heard = []\n"
        "with compiler.listening(heard.append):\n"
        "    for size in (1, 5, 1000):\n"
        "        x = np.ones((3, size), np.float32)\n"
        "        y = np.zeros_like(x)\n"
        "        double(3, x, y, size)\n"
        "        assert (y == 2).all()\n"
        "print(*heard)\n"
    )
    assert python.run(code).stdout.split() == ["double"]


@pytest.mark.slow
def test_the_first_compilation_says_why_it_takes_time(python):
    code = "import doubling\ndoubling.run()\ndoubling.run('float64')\n"
    first = python.run(code).stderr
    assert first.count("\n") == 1
    for word in ("minires: compiling kernels for this CPU", "double", str(python.cache), "warmup"):
        assert word in first
    assert python.run(code).stderr == ""


@pytest.mark.slow
def test_other_peoples_kernels_keep_their_cache(python):
    code = (
        "import numba\n"
        "before = numba.config.CACHE_DIR\n"
        "import doubling\n"
        "doubling.run()\n"
        "print(numba.config.CACHE_DIR == before)\n"
    )
    assert python.run(code).stdout.strip() == "True"


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_is_mentioned(python_alone):
    python_alone.cache.write_text("a file where the folder should be")
    done = python_alone.run("import doubling; print(doubling.run())")
    assert done.stdout.strip() == "[0.0, 2.0, 4.0, 6.0, 8.0, 10.0]"
    assert done.stderr.count("cannot be kept in") == 1
    assert "NUMBA_CACHE_DIR" in done.stderr


def test_without_a_home_there_is_no_cache(monkeypatch):
    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setattr(cache.Path, "home", home)
    with raises(DeviceError, "expected a home directory, got none", "Set NUMBA_CACHE_DIR"):
        compiler.cache_folder()
    with pytest.warns(UserWarning, match="cannot be kept in a home directory: there is none"):
        assert not cache.is_usable.__wrapped__()


def test_settings_of_numba_survive_two_threads_that_compile():
    before, inside = compiler.config.OPT, threading.Event()

    def compile_first():
        with compiler.own_settings(level=1):
            inside.set()
            time.sleep(0.2)

    thread = threading.Thread(target=compile_first)
    thread.start()
    inside.wait()
    with compiler.own_settings(level=2):
        assert not thread.is_alive() or compiler.config.OPT == 2
        thread.join(1)
        assert not thread.is_alive()
        assert compiler.config.OPT == 2
    assert before == compiler.config.OPT
    assert not compiler.compiling()


def test_a_full_disk_is_explained(monkeypatch):
    def full(self):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(compiler.Compiled, "compile", full)

    @kernel
    def fill(task, y):
        y[0] = 1

    with raises(DeviceError, "fill: cannot keep", "No space left on device", "NUMBA_CACHE_DIR"):
        fill(1, np.empty(1))


@kernel
def _count(task, y, step):
    y[task] = task * step


def test_no_task_is_nothing_to_do():
    y = np.full(3, 7.0)
    _count(0, y, 1)
    assert (y == 7).all()
    _count(3, y, 5)
    assert y.tolist() == [0, 5, 10]


def test_arrays_must_be_contiguous():
    with raises(ValueError, "_count: expected contiguous arrays, got strides (16,)"):
        _count(2, np.empty(4)[::2], 1)


def test_a_kernel_keeps_its_name_and_its_words():
    @kernel
    def documented(task):
        """What it does."""

    assert documented.__name__ == "documented"
    assert documented.__doc__ == "What it does."


def test_the_cache_folder_is_the_users(monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", "somewhere")
    assert str(compiler.cache_folder()).startswith("somewhere")
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    assert os.path.expanduser("~") in str(compiler.cache_folder())
    assert compiler.cache_folder().name.startswith("minires-")


@pytest.mark.slow
def test_interpreted_kernels_give_the_same(python):
    code = "import doubling; print(doubling.run())"
    assert python.run(code).stdout == python.run(code, NUMBA_DISABLE_JIT="1").stdout


INTERRUPTED = """
import signal
from doubling import double, run
from minires.kernels.numba import cache

def interrupt(number, frame):
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
run()  # the pool of threads, too, is compiled and running now
cache.is_usable = lambda: False  # from now on nothing is loaded
seen = 0
for n in range(60):
    double._launchers.clear()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0005 + n * 0.001)
        run()
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        seen += 1
    assert run() == [0, 2, 4, 6, 8, 10]
print(seen)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers there")
def test_an_interrupted_compilation_is_done_anew(python):
    """Wherever the interrupt falls: LLVM would free twice what it makes when it is hit."""
    assert int(python.run(INTERRUPTED).stdout) > 10
