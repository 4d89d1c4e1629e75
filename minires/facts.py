"""What ``minires info`` shows: versions, processor, threads, devices, caches."""

from __future__ import annotations

import os
from typing import Any

import llvmlite.binding as llvm

from minires import data, environment
from minires.device import available, cupy
from minires.errors import DeviceError
from minires.kernels.numba import compiler, cpu, threads, tile


def machine() -> dict[str, Any]:
    """Facts for a bug report, each with its name."""
    features = llvm.get_host_cpu_features()
    wanted = ("avx", "avx2", "fma", "avx512f", "avx512bf16", "neon")
    folder = compiler.cache_folder()
    cached = list(folder.rglob("*.nbc"))
    size = sum(path.stat().st_size for path in cached) / 2**20
    return {
        **environment.versions(),
        "commit": environment.commit() or "unknown",
        "platform": environment.describe()["platform"],
        "processor": environment.cpu(),
        "features": ", ".join(name for name in wanted if features.get(name)),
        "vector instructions": f"{cpu.instructions()}, {cpu.LANES} float32 at a time"
        f"; tiles of {tile.ROWS} rows",
        "threads": f"{threads.get_num_threads()} of {os.cpu_count()} cores",
        "devices": ", ".join(map(str, available())),
        **_gpus(),
        "kernel cache": f"{folder} ({len(cached)} kernels, {size:.1f} MiB)",
        "data": data.data_root(),
    }


def _gpus() -> dict[str, str]:
    """A line for each GPU, and one for CuPy; or what stands in the way."""
    try:
        version = cupy().__version__
    except DeviceError as error:
        return {"GPU": str(error)}
    found = {}
    for device in available()[1:]:
        has = environment.gpu(device)
        found[f"GPU {device.index}"] = has["gpu"]
        found["CUDA"] = (
            f"driver {has['driver']} for CUDA {has['cuda_of_driver']}; "
            f"CuPy {version} for CUDA {has['cuda_of_cupy']}"
        )
    return found
