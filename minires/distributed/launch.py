"""Whether this process is one of several, and how it meets the others.

A launcher (``mpiexec``, ``srun``) tells its processes by variables of the environment how many they
are. Only where it tells of more than one is MPI started, by mpi4py: to start it costs up to a
second, and without a launcher there is nobody to talk to.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minires.errors import DistributedError, message

# How many processes there are, as MPICH's kin, Open MPI and Slurm say it.
SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
PMIX = "PMIX_RANK"  # a launcher of PMIx need say no more than this


def told_size(environment: Mapping[str, str] = os.environ) -> int | None:
    """How many processes the launcher says there are; 1 without a launcher, None if it does not
    say."""
    told = [int(environment[name]) for name in SIZES if environment.get(name, "").isdecimal()]
    if told:
        return max(told)
    return None if PMIX in environment else 1


def connect(expected: int | None) -> Any:
    """mpi4py's module ``MPI``, MPI started, all processes together.

    Args:
        expected: how many there are to be, or None if nobody said.

    Raises:
        DistributedError: no mpi4py, no MPI that it can load, or a launcher of another MPI.
    """
    try:
        importlib.import_module("mpi4py")
    except ModuleNotFoundError as error:
        fix = "pip install 'minires[mpi]'."
        raise DistributedError(message("distributed", "mpi4py", "none", fix=fix)) from error
    try:
        MPI = importlib.import_module("mpi4py.MPI")  # starts MPI
    except (ImportError, RuntimeError) as error:
        expected_library = "an MPI library that mpi4py can load"
        fix = "pip install mpich, or load the cluster's MPI (module load openmpi)."
        got = " ".join(str(error).split())
        raise DistributedError(message("distributed", expected_library, got, fix=fix)) from error
    size = MPI.COMM_WORLD.size
    if expected is not None and size != expected:
        vendor = MPI.get_vendor()[0]
        raise DistributedError(
            f"distributed: expected {expected} processes that know each other, got {size}: the "
            f"launcher is not that of {vendor}, the MPI which mpi4py found. {_launcher()}"
        )
    return MPI


def _launcher() -> str:
    """Where the launcher is that fits, as advice."""
    own = Path(sys.prefix) / "bin" / "mpiexec"
    if own.exists():
        return f"Start them by {own}, or uninstall one of the two."
    return "Start them by its mpiexec, or uninstall one of the two."
