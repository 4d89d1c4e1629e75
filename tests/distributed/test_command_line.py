"""The command line with a launcher: rank 0 does the talking."""

from distributed import harness

# A fault of one rank alone, in a command that all take part in.
FAULT = """
import sys
from minires.cli import main
from minires.distributed import current_group
from minires.errors import DataError
from minires.train.job import TrainingJob

def prepare(self, folder, *args, **options):
    print("said by both", flush=True)
    if current_group().rank == 1:
        raise {"error": DataError("planted"), "fault": KeyError("planted")}[folder.name]
    current_group().barrier()

TrainingJob.prepare = prepare
main(["train", "cifar_resnet8", "--out", sys.argv[1]])
"""


def test_a_command_for_one_process_runs_once_and_starts_no_mpi():
    no_mpi = {"MPI4PY_LIBMPI": "/nowhere/libmpi.so.12"}
    assert harness.minires(2, "data", "list", **no_mpi).passed().count("fashion-mnist") == 1
    done = harness.minires(2, "predict", "nothing", "--run", "nowhere", **no_mpi)
    assert done.rc not in (0, -1)
    assert done.stderr.count("rror") == 1


def test_wrong_options_are_refused_once():
    done = harness.minires(2, "train", "--no-such")
    assert done.ended_with(2)
    assert done.stderr.count("No such option") == 1
    assert "[rank " not in done.stderr


def test_batches_too_small_for_the_ranks_are_refused_before_anything_is_written(tmp_path):
    words = ("train", "cifar_resnet8", "--batch-size", "1", "--out", "run")
    done = harness.minires(2, *words, cwd=tmp_path)
    assert done.ended_with(1)
    assert done.stderr == (
        "error: DataLoader: expected a sample for each of 2 ranks, got batches of 1. "
        "Use a batch_size of 2 or more.\n"
    )
    assert not any(tmp_path.iterdir())


def test_an_error_of_one_rank_alone_is_said_by_it():
    done = harness.script(2, FAULT, "error")
    assert done.ended_with(1)
    assert done[1:] == ("said by both\n", "[rank 1 of 2] error: planted\n")


def test_a_fault_of_one_rank_alone_is_shown_by_it():
    done = harness.script(2, FAULT, "fault")
    assert done.ended_with(1)
    assert done.stderr.startswith("[rank 1 of 2] Traceback (most recent call last):\n")
    assert done.stderr.endswith("\nKeyError: 'planted'\n")
    assert done.stderr.count("[rank ") == 1
