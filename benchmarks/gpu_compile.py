"""Compiles every CUDA kernel that minires may ask for, on all cores, into CuPy's cache on disk.

A kernel is compiled when it is first launched, which takes a second, and each process does that one
kernel at a time. On a fresh machine tests and benchmarks would mostly wait for the compiler; behind
this script they find everything compiled. What the driver says of each kernel that it has loaded
goes into ``benchmarks/results/gpu_compile.csv``.

Needs a GPU and CuPy.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from cubin import kernels
from gpu_kernels import facts
from harness import RESULTS, append

from minires.device import Device, existing
from minires.errors import MiniresError
from minires.kernels.cuda.kernel import Kernel

COLUMNS = (
    "date", "commit", "gpu", "driver", "cuda", "cupy", "file", "kernel", "block", "registers",
    "static_shared", "dynamic_shared", "local", "seconds", "error",
)  # fmt: skip
PROCESSES = 16  # each one has a context of its own on the GPU, of half a GiB


@functools.cache
def instances() -> dict[tuple[str, str], Kernel]:
    """Every kernel, once per process."""
    return kernels.instances()


def compiled(place: tuple[str, str]) -> dict[str, Any]:
    """Compile and load a kernel, by its file and its name: the row that tells of it."""
    kernel, start = instances()[place], time.perf_counter()
    row = {"file": place[0], "kernel": place[1], "block": kernel.block}
    row["dynamic_shared"] = kernel.shared
    try:
        found = kernel.compiled().attributes
    except Exception as error:  # whatever it is: the other kernels are compiled all the same
        return row | {"error": f"{type(error).__name__}: {error}"[:400]}
    return row | {
        "registers": found["num_regs"],
        "static_shared": found["shared_size_bytes"],
        "local": found["local_size_bytes"],
        "seconds": f"{time.perf_counter() - start:.2f}",
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python benchmarks/gpu_compile.py --processes 4",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    most = min(PROCESSES, os.cpu_count() or 1)
    parser.add_argument("--processes", type=int, default=most, help=f"at once  [{most}]")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="folder for the CSV  [benchmarks/results]"
    )
    options = parser.parse_args(arguments)
    start, failed = time.perf_counter(), 0
    try:
        existing(Device("cuda"))
        known = {key: value for key, value in facts().items() if key in COLUMNS}
        with ProcessPoolExecutor(
            options.processes, mp_context=multiprocessing.get_context("spawn")
        ) as pool:
            for row in pool.map(compiled, instances()):
                append(options.results / "gpu_compile.csv", [{**known, **row}], COLUMNS)
                if "error" in row:
                    failed += 1
                    print(f"{row['kernel']}: {row['error']}", flush=True)
                elif row["local"]:  # a stack, or registers that were not enough
                    print(f"{row['kernel']}: {row['local']} bytes of local memory", flush=True)
    except MiniresError as error:
        raise SystemExit(f"error: {error}") from error
    print(f"{len(instances())} kernels in {time.perf_counter() - start:.1f} s, {failed} failed")
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
