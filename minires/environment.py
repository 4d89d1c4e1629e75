"""What a result was measured with: versions, machine, commit."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from . import find_cupy
from .device import CPU, Device, cupy, on
from .precision import float32_matmul_precision
from .version import __version__


def describe(device: Device = CPU) -> dict[str, Any]:
    """Versions, processor, threads and commit, as plain JSON values; of a GPU what it is and how
    it multiplies."""
    from .kernels.numba.threads import get_num_threads

    return {
        **versions(),
        "platform": platform.platform(),
        "cpu": cpu(),
        "threads": get_num_threads(),
        "commit": commit(),
        **(gpu(device) if device.type == "cuda" else {}),
    }


def gpu(device: Device) -> dict[str, str]:
    """A GPU, its driver, and the versions of CUDA and of CuPy.

    Raises:
        DeviceError: it is not there.
    """
    with on(device):
        runtime = cupy().cuda.runtime
        return {
            "device": str(device),
            "gpu": runtime.getDeviceProperties(device.index)["name"].decode(),
            "driver": find_cupy.driver_release() or "unknown",
            "cuda_of_driver": "{}.{}".format(*find_cupy.split(runtime.driverGetVersion())),
            "cuda_of_cupy": "{}.{}".format(*find_cupy.split(runtime.runtimeGetVersion())),
            "cupy": cupy().__version__,
            "float32_matmul_precision": float32_matmul_precision(),
        }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that compute."""
    packages = {name: importlib.metadata.version(name) for name in ("numpy", "numba")}
    return {"minires": __version__, "python": platform.python_version(), **packages}


def cpu() -> str:
    """The processor's name, as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    return platform.processor() or platform.machine()


def commit() -> str | None:
    """The commit of the code that runs, with ``+`` if files differ from it; None if it did not
    come from a git checkout, or the checkout has moved on since."""
    source = _source_folder()
    if source is None or not (source / ".git").exists() or not _is_this_code(source):
        return None
    try:
        head = _git(source, "rev-parse", "--short=12", "HEAD")
        return head + ("+" if _git(source, "status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):  # no git here, or no commit yet
        return None


def _source_folder() -> Path | None:
    """The folder of the checkout: around this package, or where pip says it was installed from."""
    around = Path(__file__).resolve().parent.parent
    if (around / "pyproject.toml").exists():
        return around
    try:
        text = importlib.metadata.distribution("minires").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return None
    url = urlparse(json.loads(text)["url"]) if text else None
    return Path(unquote(url.path)) if url is not None and url.scheme == "file" else None


def _is_this_code(source: Path) -> bool:
    """Whether the running package is, file by file, that of the source folder as it is now."""
    here, there = Path(__file__).resolve().parent, source / "minires"
    if here == there:
        return True
    names = [
        sorted(p.relative_to(folder) for p in folder.rglob("*.py")) for folder in (here, there)
    ]
    return names[0] == names[1] and all(
        (here / name).read_bytes() == (there / name).read_bytes() for name in names[0]
    )


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    )
    return done.stdout.strip()
