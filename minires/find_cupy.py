"""CuPy, imported; or what stands in its way, told apart, and the command that mends it.

Between a program and a GPU stand the driver (``libcuda``, which the system has), one of CuPy's
wheels (``cupy-cuda12x`` or ``cupy-cuda13x``) and the CUDA libraries that the wheel loads. A driver
runs programs of its own CUDA version and of older ones, never of a newer one.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import re
import subprocess
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from types import ModuleType

from .errors import DeviceError, message

# Packages that all install the folder ``cupy``.
PACKAGES = ("cupy", "cupy-cuda11x", "cupy-cuda12x", "cupy-cuda13x")
EXTRAS = (12, 13)  # major versions of CUDA for which minires has an extra
SYSTEM_TOOLKIT = "/usr/local/cuda"  # where NVIDIA's installers put it
DRIVER_FILE = Path("/proc/driver/nvidia/version")
_STAY = "or stay on 'cpu'"


def import_cupy() -> ModuleType:
    """CuPy, on a machine whose GPU it can use.

    Raises:
        DeviceError: CuPy is not installed, or twice, or broken; there is no driver, or one that is
            too old, or no GPU; a CUDA library is missing. Says which, and what to do.
    """
    packages = installed()
    if len(packages) > 1:
        names = " ".join(name for name, _ in packages)
        fix = f"Remove all, and install one: pip uninstall -y {names} && {_install(driver())}"
        got = "several, which overwrite each other's files"
        raise DeviceError(_error("one package of CuPy", got, _listed(packages), fix))
    try:
        cupy = importlib.import_module("cupy")
    except ImportError as error:
        raise _not_imported(packages, error) from error
    if not cupy.cuda.is_available():
        raise _no_gpu(cupy, packages)
    try:
        cupy.cuda.nvrtc.getVersion()  # loads the first of the CUDA libraries
    except (ImportError, OSError, RuntimeError) as error:
        raise _no_library(cupy, packages, error) from error
    return cupy


def installed() -> list[tuple[str, str]]:
    """(name, version) of each package of CuPy that is installed."""
    found = []
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found.append((name, metadata.version(name)))
    return found


def driver() -> tuple[int, int] | None:
    """The newest version of CUDA that the driver of this machine runs; None without a driver."""
    return _of_libcuda() or _of_nvidia_smi()


def split(version: int) -> tuple[int, int]:
    """CUDA's way to write a version as one number: 13020 is 13.2."""
    return version // 1000, version % 1000 // 10


def _of_libcuda() -> tuple[int, int] | None:
    name = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
    number = ctypes.c_int()
    try:
        failed = ctypes.CDLL(name).cuDriverGetVersion(ctypes.byref(number))
    except (OSError, AttributeError):  # no such library, or not NVIDIA's
        return None
    return None if failed or not number.value else split(number.value)


def _of_nvidia_smi() -> tuple[int, int] | None:
    """What nvidia-smi prints above its table; it may be there where libcuda is not found."""
    try:
        done = subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"CUDA[\w ]*Version: *(\d+)\.(\d+)", done.stdout)
    return None if found is None else (int(found[1]), int(found[2]))


def driver_release() -> str | None:
    """The driver's own version, such as 580.65.06, where the system tells it (Linux)."""
    try:
        text = DRIVER_FILE.read_text(encoding="utf-8")
    except OSError:  # another system, or no driver
        return None
    found = re.search(r"\b\d{3,}\.\d+(?:\.\d+)?\b", text)
    return None if found is None else found[0]


# **** what stands in the way ****


def _not_imported(packages: list[tuple[str, str]], error: ImportError) -> DeviceError:
    has = driver()
    if not packages and isinstance(error, ModuleNotFoundError) and error.name == "cupy":
        fix = f"{_install(has)}, {_STAY}"
        return DeviceError(_error("CuPy for 'cuda'", "none installed", _driver(has), fix))
    lines = [line.strip() for line in str(error).splitlines()]
    cause = next((line for line in reversed(lines) if line.strip("=")), type(error).__name__)
    context = f"{_listed(packages)}, {_driver(has)}"
    fix = f"Install it anew: {_install(has, '--force-reinstall ')}, {_STAY}"
    return DeviceError(_error("CuPy for 'cuda'", f"one that fails: {cause}", context, fix))


def _no_gpu(cupy: ModuleType, packages: list[tuple[str, str]]) -> DeviceError:
    runtime = cupy.cuda.runtime
    has, needs = split(runtime.driverGetVersion()), split(runtime.runtimeGetVersion())
    context = f"{_listed(packages) or cupy.__version__} for CUDA {needs[0]}"
    if not has[0]:
        fix = f"Install NVIDIA's driver, or make its libcuda visible here, {_STAY}"
        return DeviceError(_error("a CUDA GPU", "no NVIDIA driver", context, fix))
    if has[0] < needs[0]:
        names = " ".join(name for name, _ in packages) or "cupy"
        fix = f"Update the driver, {_STAY}"
        if has[0] in EXTRAS:
            fix = f"pip uninstall -y {names} && {_install(has)}, or update the driver"
        return DeviceError(
            _error(f"a driver for CUDA {needs[0]}", f"one for CUDA {_dotted(has)}", context, fix)
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        context += f", CUDA_VISIBLE_DEVICES={visible!r} hides those it does not name"
    fix = f"Look at nvidia-smi, {_STAY}"
    return DeviceError(
        _error("a CUDA GPU", "none that CuPy can see", f"{_driver(has)}, {context}", fix)
    )


def _no_library(
    cupy: ModuleType, packages: list[tuple[str, str]], error: BaseException
) -> DeviceError:
    runtime = cupy.cuda.runtime
    has, needs = split(runtime.driverGetVersion()), split(runtime.runtimeGetVersion())
    major = needs[0] if needs[0] in EXTRAS else EXTRAS[-1]
    context = f"{_driver(has)}, {_listed(packages) or 'CuPy'} for CUDA {needs[0]}, {_toolkit()}"
    got = str(error).strip().partition("\n")[0][:90]
    return DeviceError(
        _error(
            f"the libraries of CUDA {needs[0]}",
            got,
            context,
            f"Install those that belong to CuPy: pip install 'minires[cuda{major}]', {_STAY}",
        )
    )


def _error(expected: str, got: str, context: str, fix: str) -> str:
    return message("device", expected, got, context, f"{fix}.")


def _install(has: tuple[int, int] | None, how: str = "") -> str:
    """The command that installs CuPy for a driver."""
    if has is None:
        return f"Install NVIDIA's driver, then pip install {how}'minires[cuda{EXTRAS[-1]}]'"
    if has[0] < EXTRAS[0]:
        newest = EXTRAS[-1]
        return f"Update the driver, then pip install {how}'minires[cuda{newest}]'"
    return f"pip install {how}'minires[cuda{min(has[0], EXTRAS[-1])}]'"


def _driver(has: tuple[int, int] | None) -> str:
    return "no NVIDIA driver found" if has is None else f"a driver for CUDA {_dotted(has)}"


def _toolkit() -> str:
    """Where a toolkit of the system's own is."""
    for folder in (os.environ.get("CUDA_PATH"), SYSTEM_TOOLKIT):
        if folder and Path(folder).exists():
            return f"a toolkit in {Path(folder).resolve()}"
    return "no toolkit of the system's own"


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def _listed(packages: list[tuple[str, str]]) -> str:
    return ", ".join(f"{name} {version}" for name, version in packages)
