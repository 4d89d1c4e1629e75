"""How a process learns that it is one of several, and what is said where that goes wrong."""

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from distributed import harness

import minires
from minires.distributed import cores
from minires.distributed.launch import LAUNCHERS, PMIX, SLURM, Told, told
from minires.errors import ArgumentError
from minires.kernels.numba import compiler
from minires.kernels.numba import threads as kernel_threads

SIZE = "from minires import distributed; print(distributed.get_world_size())"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, Told(0, 1)),
        ({"PMI_SIZE": "4", "PMI_RANK": "3"}, Told(3, 4, "PMI_SIZE")),
        (
            {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "PMIX_RANK": "1"},
            Told(1, 2, "OMPI_COMM_WORLD_SIZE"),
        ),
        ({"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "7"}, Told(7, 8, SLURM.size)),
        # a shell of Slurm's, and mpiexec in it; mpiexec that starts its helpers by srun
        (
            {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "PMI_SIZE": "4", "PMI_RANK": "2"},
            Told(2, 4, "PMI_SIZE"),
        ),
        (
            {"SLURM_STEP_NUM_TASKS": "3", "SLURM_PROCID": "2", "PMI_SIZE": "2", "PMI_RANK": "1"},
            Told(1, 2, "PMI_SIZE"),
        ),
        # one launcher in another
        (
            {"PMI_SIZE": "1", "PMI_RANK": "0", "OMPI_COMM_WORLD_SIZE": "3"},
            Told(0, 3, "OMPI_COMM_WORLD_SIZE"),
        ),
        ({"PMI_SIZE": "1", "PMI_RANK": "0"}, Told(0, 1, "PMI_SIZE")),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, Told(0, 1)),
        ({"PMIX_RANK": "5"}, Told(5, None, "PMIX_RANK")),
        ({"PMI_SIZE": "", "OMPI_COMM_WORLD_SIZE": "many"}, Told(0, 1)),
        ({"PMI_SIZE": "4", "PMI_RANK": "3", "MINIRES_ALONE": "1"}, Told(0, 1)),
    ],
)
def test_launchers_tell_rank_and_size(variables, expected):
    assert told(variables) == expected


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_the_terminals_of_open_mpi_are_seen_through(tmp_path):
    """What a rank prints goes to its launcher: here a process that writes to a file, or to a
    terminal."""
    ask = "from minires.distributed.launch import hides_a_file; print(hides_a_file())"
    launcher = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {ask!r}], stderr=2)"
    mpich, open_mpi = {"PMI_SIZE": "2"}, {"OMPI_COMM_WORLD_SIZE": "2"}

    def asked(variables, stdout):
        kept = {k: v for k, v in os.environ.items() if not k.startswith(harness.NOT_OURS)}
        words = [sys.executable, "-c", launcher]
        subprocess.run(words, env=kept | variables, stdout=stdout, check=True, timeout=60)

    for variables, expected in (({}, "False"), (mpich, "False"), (open_mpi, "True")):
        with open(tmp_path / "out", "w") as file:
            asked(variables, file)
        assert (tmp_path / "out").read_text() == f"{expected}\n"
    master, terminal = os.openpty()
    try:
        asked(open_mpi, terminal)
        assert os.read(master, 100).strip() == b"False"
    finally:
        os.close(master)
        os.close(terminal)


def test_import_minires_looks_for_all_launchers():
    assert {PMIX, *(kind.size for kind in (*LAUNCHERS, SLURM))} == minires._LAUNCHED


def test_importing_starts_nothing_and_one_process_needs_no_mpi():
    text = """
import os, sys
import minires as mr
from minires import distributed, nn, train
assert "mpi4py" not in sys.modules, "imported"
os.environ["MINIRES_ALONE"] = "".join(sys.argv[1:])
assert distributed.get_world_size() == 1
distributed.barrier()
assert "mpi4py" not in sys.modules, "started for one process"
print("fine")
"""
    assert harness.script(0, text, PMI_SIZE=1, PMI_RANK=0).passed() == "fine\n"
    alone = {"PMI_SIZE": 2, "PMI_RANK": 0, "MINIRES_ALONE": None}
    assert harness.script(0, text, "1", **alone).passed() == "fine\n"


def refused(code=SIZE, **variables):
    """The last line of what is said where the group cannot begin."""
    done = harness.script(0, code, **variables)
    assert done.ended_with(1)
    kind, _, text = done.stderr.splitlines()[-1].partition(": ")
    assert kind == "minires.errors.DistributedError"
    return text


def test_a_launcher_without_mpi4py():
    code = f"import sys; sys.modules['mpi4py'] = None; {SIZE}"
    text = "distributed: expected mpi4py, got none. pip install 'minires[mpi]'."
    assert refused(code, PMI_SIZE=2) == text


def test_a_launcher_without_an_mpi_library():
    nowhere = f"/nowhere/libmpi.so.12{os.pathsep}/nowhere/libmpi.so.40"
    assert refused(PMI_SIZE=2, MPI4PY_LIBMPI=nowhere) == (
        "distributed: expected an MPI library that mpi4py can load, got none: looked for "
        "libmpi.so.12, libmpi.so.40. pip install mpich, or load the cluster's MPI (module load "
        "openmpi)."
    )


def test_a_launcher_of_another_mpi():
    program = """
import os, sys
from minires import distributed
from minires.errors import DistributedError
for variable in sys.argv[1:]:
    os.environ[variable] = "4"
    try:
        distributed.get_rank()
    except DistributedError as error:
        print(error)
    del os.environ[variable]
"""
    variables = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
    *texts, of_slurm = harness.script(0, program, *variables).passed().splitlines()
    mpiexec = Path(sys.prefix) / "bin" / "mpiexec"
    own = f"by {mpiexec}" if mpiexec.exists() else "by its mpiexec"
    for variable, text in zip(variables, texts, strict=False):
        assert text.startswith(
            "distributed: expected 4 processes that know each other, got each on its own: the "
            f"launcher, which set {variable}, is not that of "
        )
        assert text.endswith(
            f", the MPI which mpi4py found. Start them {own}, or uninstall one of the two."
        )
    assert "the launcher, which set SLURM_STEP_NUM_TASKS, is not that of" in of_slurm
    assert of_slurm.endswith(
        "Start them by srun --mpi=pmix or --mpi=pmi2; srun --mpi=list says which there are."
    )


def test_processes_of_torchrun():
    code = "from minires import distributed; distributed.init_process_group('gloo')"
    text = (
        "init_process_group: expected processes that MPI knows, got torchrun's. Start them by "
        "mpiexec -n 4 python ..."
    )
    assert refused(code, TORCHELASTIC_RUN_ID="x", WORLD_SIZE=4) == text


def test_processes_that_a_rank_starts_are_no_ranks():
    text = """
import os, subprocess, sys, warnings
from minires.distributed import get_rank, get_world_size
assert get_world_size() == 2
code = "from minires.distributed import get_world_size; print(get_world_size())"
out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
assert out == "1\\n", out
warnings.simplefilter("ignore", DeprecationWarning)  # Python's own advice on forks
child = os.fork()
if child == 0:
    os._exit(100 + get_world_size() + 10 * get_rank())
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 101
print("fine", flush=True)
"""
    assert harness.script(2, text).passed() == "fine\nfine\n"


# -- threads


@pytest.mark.parametrize(
    ("masks", "parts"),
    [
        ([{0, 1, 2, 3}], [4]),
        ([{0, 1, 2, 3}] * 2, [2, 2]),
        ([{0, 1}, {2, 3}], [2, 2]),
        ([{0}] * 3, [1, 1, 1]),
        ([{0, 1, 2, 3}, {0, 1}, {4}], [2, 1, 1]),
    ],
)
def test_cores_are_shared_out(masks, parts):
    masks = [frozenset(mask) for mask in masks]
    assert [cores.part(masks, rank) for rank in range(len(masks))] == parts


def threads(n, *arguments, **options):
    """The numbers of threads: of kernels (twice) and of BLAS, on rank 0."""
    done = harness.script(n, Path("threads.py"), *arguments, **options)
    return {int(number) for number in done.passed().split()}


TWO = {"NUMBA_NUM_THREADS": None, "OPENBLAS_NUM_THREADS": None, "OMP_NUM_THREADS": None}
needs_two_cores = pytest.mark.skipif(
    len(cores.usable()) < 2 or shutil.which("taskset") is None, reason="needs two cores and taskset"
)


@needs_two_cores
@pytest.mark.parametrize("before", [(), ("kernel",)])
def test_two_ranks_share_the_cores(before):
    first, second, *_ = sorted(cores.usable())
    both = ("taskset", "-c", f"{first},{second}")
    assert threads(2, *before, before=both, **TWO) == {1}


@needs_two_cores
def test_a_rank_has_the_cores_it_is_bound_to():
    first, second, *_ = sorted(cores.usable())
    assert threads(0, before=("taskset", "-c", f"{first},{second}"), **TWO) == {2}
    own = f'if [ "$PMI_RANK" = 0 ]; then core={first}; else core={second}; fi; '
    own += 'exec taskset -c $core "$@"'
    assert threads(2, before=("sh", "-c", own, "sh"), **TWO) == {1}


@needs_two_cores
def test_the_users_number_of_threads_is_left_alone():
    first, second, *_ = sorted(cores.usable())
    both = ("taskset", "-c", f"{first},{second}")
    given = {"NUMBA_NUM_THREADS": 2, "OPENBLAS_NUM_THREADS": 2}
    assert threads(2, before=both, **given) == {2}


@pytest.mark.parametrize(
    ("chosen", "started", "now", "most"),
    [(None, False, 1, 1), (None, True, 1, 3), (3, False, 3, 3), (2, True, 2, 3)],
)
def test_a_part_of_the_cores_once_numba_is_there(monkeypatch, chosen, started, now, most):
    """How many threads kernels have, and can have, where 1 of 3 is this rank's part."""
    monkeypatch.setattr(compiler.config, "NUMBA_NUM_THREADS", 3)
    monkeypatch.setattr(kernel_threads, "_pool", object() if started else None)
    for name, value in {"_here": threading.local(), "_chosen": False, "_default": 0}.items():
        monkeypatch.setattr(kernel_threads, name, value)
    monkeypatch.setattr(kernel_threads, "_most", 0)
    if chosen:
        kernel_threads.set_num_threads(chosen)
    kernel_threads.limit(1)
    assert kernel_threads.get_num_threads() == now
    kernel_threads.set_num_threads(most)
    with pytest.raises(ArgumentError, match=f"<= {most}, got {most + 1}"):
        kernel_threads.set_num_threads(most + 1)
