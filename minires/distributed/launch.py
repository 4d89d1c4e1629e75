"""Whether this process is one of several, and how it meets the others.

A launcher (``mpiexec``, ``srun``) tells its processes by variables of the environment how many they
are. Only where it tells of more than one is MPI started, by mpi4py: to start it costs up to a
second, and without a launcher there is nobody to talk to.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from minires.errors import DistributedError, message


class Launcher(NamedTuple):
    """How a kind of launcher tells a process which one it is, and of how many."""

    size: str
    rank: str


OPEN_MPI = Launcher("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK")
LAUNCHERS = (Launcher("PMI_SIZE", "PMI_RANK"), OPEN_MPI)  # the first: MPICH and its kin
SLURM = Launcher("SLURM_STEP_NUM_TASKS", "SLURM_PROCID")  # also set where mpiexec uses srun itself
PMIX = "PMIX_RANK"  # a launcher of PMIx need say no more than this

ALONE = "MINIRES_ALONE"  # set: this process takes part in no group
_MEMBER = "all but process "  # a rank sets ALONE to this and its number, for processes it starts


class Told(NamedTuple):
    """What the launcher says. Without one, a process is the first of one.

    Attributes:
        rank: which process this is, from 0.
        size: how many there are; None if the launcher does not say.
        by: the variable that says so.
    """

    rank: int = 0
    size: int | None = 1
    by: str = ""


def told(environment: Mapping[str, str] = os.environ) -> Told:
    """What the launcher says by these variables. Of several launchers, one inside another, the one
    with the most processes is believed; Slurm only where no other says anything."""
    alone = environment.get(ALONE)
    if alone and alone != f"{_MEMBER}{os.getpid()}":
        return Told()
    found = [_told_by(launcher, environment) for launcher in LAUNCHERS]
    if any(found):
        return max((t for t in found if t), key=lambda t: t.size or 0)
    if (by_slurm := _told_by(SLURM, environment)) and (by_slurm.size or 0) > 1:
        return by_slurm
    rank = environment.get(PMIX, "")
    return Told(int(rank), None, PMIX) if rank.isdecimal() else Told()


def _told_by(launcher: Launcher, environment: Mapping[str, str]) -> Told | None:
    size, rank = (environment.get(name, "") for name in launcher)
    if not size.isdecimal():
        return None
    return Told(int(rank) if rank.isdecimal() else 0, int(size), launcher.size)


def hides_a_file(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a rank's standard output looks like a terminal, and goes to a file or a pipe. Open
    MPI's launcher gives ranks terminals of its own making, whatever its own output is."""
    if told(environment).by != OPEN_MPI.size:
        return False
    try:
        shown = os.readlink(f"/proc/{os.getppid()}/fd/1")
    except OSError:  # no such folder, or not ours to read
        return False
    return not shown.startswith(("/dev/pts/", "/dev/tty", "/dev/console"))


def stay_alone() -> None:
    """Take part in no group from now on, whatever the launcher says; nor do processes that this one
    starts."""
    os.environ[ALONE] = "1"


def connect(said: Told) -> Any:
    """mpi4py's module ``MPI``, MPI started, all processes together.

    Args:
        said: by the launcher.

    Raises:
        DistributedError: no mpi4py, no MPI that it can load, or a launcher of another MPI.
    """
    MPI = _started()
    size = MPI.COMM_WORLD.size
    if said.size is not None and size != said.size:
        vendor = MPI.get_vendor()[0]
        raise DistributedError(
            f"distributed: expected {said.size} processes that know each other, got "
            f"{'each on its own' if size == 1 else size}: the launcher, which set {said.by}, is "
            f"not that of {vendor}, the MPI which mpi4py found. {_launcher(said)}"
        )
    # Its children have these variables too. Should they start MPI, they would be the same rank.
    os.environ[ALONE] = f"{_MEMBER}{os.getpid()}"
    return MPI


def _started() -> Any:
    try:
        importlib.import_module("mpi4py")
    except ModuleNotFoundError as error:
        fix = "pip install 'minires[mpi]'."
        raise DistributedError(message("distributed", "mpi4py", "none", fix=fix)) from error
    try:
        with warnings.catch_warnings():  # of another MPI's launcher: connect() looks itself
            warnings.simplefilter("ignore", RuntimeWarning)
            return importlib.import_module("mpi4py.MPI")  # starts MPI
    except (ImportError, RuntimeError) as error:
        expected = "an MPI library that mpi4py can load"
        fix = "pip install mpich, or load the cluster's MPI (module load openmpi)."
        raise DistributedError(
            message("distributed", expected, _lacking(error), fix=fix)
        ) from error


def _lacking(error: Exception) -> str:
    """What mpi4py says of what it cannot load, in brief: the files that it looked for."""
    text = str(error)
    names = dict.fromkeys(re.findall(r"[^\s:/\\]+\.(?:so|dylib|dll)(?:\.\d+)*", text))
    if names:
        return f"none: looked for {', '.join(names)}"
    return " ".join(text.split())


def _launcher(said: Told) -> str:
    """Where the launcher is that fits, as advice."""
    if said.by == SLURM.size:
        return "Start them by srun --mpi=pmix or --mpi=pmi2; srun --mpi=list says which there are."
    own = Path(sys.prefix) / "bin" / "mpiexec"
    if own.exists():
        return f"Start them by {own}, or uninstall one of the two."
    return "Start them by its mpiexec, or uninstall one of the two."
