"""What is said where CuPy cannot be used: which of five things is missing, and what mends it."""

from __future__ import annotations

import ctypes
import re
import subprocess
from importlib import metadata
from types import SimpleNamespace

import pytest

from minires import find_cupy
from minires.errors import DeviceError

WHEEL_12, WHEEL_13 = ("cupy-cuda12x", "14.2.0"), ("cupy-cuda13x", "14.2.0")


class Machine:
    """A machine with some packages of CuPy, a driver, and GPUs.

    Args:
        packages: (name, version) of each.
        driver: what it says of itself, 13000 for CUDA 13.0; None where there is none.
        wheel: the version of CUDA for which the wheel was made.
        gpus: how many CuPy sees.
        import_error, library_error: what importing CuPy, or loading its first library, raises.
    """

    def __init__(self, packages=(), driver=None, wheel=13000, gpus=1, **errors):
        self.packages, self.driver, self.errors = dict(packages), driver, errors
        self.cupy = SimpleNamespace(
            __version__="14.2.0",
            cuda=SimpleNamespace(
                is_available=lambda: driver is not None and gpus > 0,
                runtime=SimpleNamespace(
                    driverGetVersion=lambda: driver or 0, runtimeGetVersion=lambda: wheel
                ),
                nvrtc=SimpleNamespace(getVersion=self._library),
            ),
        )

    def _library(self):
        if "library_error" in self.errors:
            raise self.errors["library_error"]
        return 13, 0

    def version(self, name):
        if name not in self.packages:
            raise metadata.PackageNotFoundError(name)
        return self.packages[name]

    def import_module(self, name):
        assert name == "cupy"
        if "import_error" in self.errors:
            raise self.errors["import_error"]
        if not self.packages:
            raise ModuleNotFoundError("No module named 'cupy'", name="cupy")
        return self.cupy


@pytest.fixture
def on_machine(monkeypatch):
    def use(*args, **options):
        machine = Machine(*args, **options)
        driver = None if machine.driver is None else find_cupy.split(machine.driver)
        monkeypatch.setattr(find_cupy, "driver", lambda: driver)
        monkeypatch.setattr(find_cupy.metadata, "version", machine.version)
        monkeypatch.setattr(
            find_cupy, "importlib", SimpleNamespace(import_module=machine.import_module)
        )
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        return machine

    return use


def refusal():
    with pytest.raises(DeviceError) as caught:
        find_cupy.import_cupy()
    text = str(caught.value)
    assert "…" not in text, "it was too long for a message"
    return text


def test_a_machine_on_which_nothing_is_missing(on_machine):
    machine = on_machine([WHEEL_13], driver=13000)
    assert find_cupy.import_cupy() is machine.cupy


@pytest.mark.parametrize(
    ("driver", "advice"),
    [
        (None, "(no NVIDIA driver found). Install NVIDIA's driver, then pip install 'minires[cuda"),
        (11040, "(a driver for CUDA 11.4). Update the driver, then pip install 'minires[cuda13]'"),
        (12080, "(a driver for CUDA 12.8). pip install 'minires[cuda12]'"),
        (13000, "(a driver for CUDA 13.0). pip install 'minires[cuda13]'"),
        (14010, "(a driver for CUDA 14.1). pip install 'minires[cuda13]'"),
    ],
)
def test_not_installed(on_machine, driver, advice):
    on_machine(driver=driver)
    text = refusal()
    assert text.startswith("device: expected CuPy for 'cuda', got none installed ")
    assert advice in text
    assert text.endswith(", or stay on 'cpu'.")


def test_installed_twice(on_machine):
    on_machine([WHEEL_12, WHEEL_13], driver=12080)
    assert refusal() == (
        "device: expected one package of CuPy, got several, which overwrite each other's files "
        "(cupy-cuda12x 14.2.0, cupy-cuda13x 14.2.0). Remove all, and install one: pip uninstall -y "
        "cupy-cuda12x cupy-cuda13x && pip install 'minires[cuda12]'."
    )


def test_an_installation_that_does_not_import(on_machine):
    error = ImportError(
        "====\nFailed to import CuPy.\n\nOriginal error:\n  libfoo.so: no file\n==="
    )
    on_machine([WHEEL_13], driver=13000, import_error=error)
    assert refusal() == (
        "device: expected CuPy for 'cuda', got one that fails: libfoo.so: no file "
        "(cupy-cuda13x 14.2.0, a driver for CUDA 13.0). Install it anew: "
        "pip install --force-reinstall 'minires[cuda13]', or stay on 'cpu'."
    )


def test_another_module_that_is_missing(on_machine):
    error = ModuleNotFoundError("No module named 'cuda.pathfinder'", name="cuda.pathfinder")
    on_machine([WHEEL_13], driver=13000, import_error=error)
    assert "one that fails: No module named 'cuda.pathfinder'" in refusal()


def test_no_driver(on_machine):
    on_machine([WHEEL_13])
    assert refusal() == (
        "device: expected a CUDA GPU, got no NVIDIA driver (cupy-cuda13x 14.2.0 for CUDA 13). "
        "Install NVIDIA's driver, or make its libcuda visible here, or stay on 'cpu'."
    )


@pytest.mark.parametrize(
    ("driver", "advice"),
    [
        (
            12080,
            "pip uninstall -y cupy-cuda13x && pip install 'minires[cuda12]', or update the driver.",
        ),
        (11080, "Update the driver, or stay on 'cpu'."),
    ],
)
def test_a_driver_older_than_the_wheel(on_machine, driver, advice):
    on_machine([WHEEL_13], driver=driver, gpus=0)
    major, minor = find_cupy.split(driver)
    assert refusal() == (
        f"device: expected a driver for CUDA 13, got one for CUDA {major}.{minor} "
        f"(cupy-cuda13x 14.2.0 for CUDA 13). {advice}"
    )


def test_no_gpu(on_machine, monkeypatch):
    on_machine([WHEEL_12], driver=13000, wheel=12090, gpus=0)
    assert refusal() == (
        "device: expected a CUDA GPU, got none that CuPy can see (a driver for CUDA 13.0, "
        "cupy-cuda12x 14.2.0 for CUDA 12). Look at nvidia-smi, or stay on 'cpu'."
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES='' hides those it does not name" in refusal()


@pytest.mark.parametrize("toolkit", [True, False])
@pytest.mark.parametrize("kind", [RuntimeError, ImportError, OSError])
def test_a_library_that_is_missing(on_machine, monkeypatch, kind, toolkit):
    error = kind('Failure finding "libnvrtc.so.12": No such file: libnvrtc.so.12')
    on_machine([WHEEL_12], driver=13000, wheel=12090, library_error=error)
    monkeypatch.setenv("CUDA_PATH", "/" if toolkit else "")
    monkeypatch.setattr(find_cupy, "SYSTEM_TOOLKIT", "/nowhere")
    where = "a toolkit in /" if toolkit else "no toolkit of the system's own"
    assert refusal() == (
        'device: expected the libraries of CUDA 12, got Failure finding "libnvrtc.so.12": No such '
        f"file: libnvrtc.so.12 (a driver for CUDA 13.0, cupy-cuda12x 14.2.0 for CUDA 12, {where}). "
        "Install those that belong to CuPy: pip install 'minires[cuda12]', or stay on 'cpu'."
    )


# **** the driver ****


class _Libcuda:
    def __init__(self, version, failed=0):
        self._version, self._failed = version, failed

    def cuDriverGetVersion(self, number):
        number._obj.value = self._version
        return self._failed


@pytest.mark.parametrize(
    ("library", "smi", "expected"),
    [
        (_Libcuda(13010), "", (13, 1)),
        (_Libcuda(13010), "CUDA Version: 12.4", (13, 1)),
        (_Libcuda(13010, failed=3), "", None),
        (_Libcuda(0), "| Driver Version: 550.54.15     CUDA Version: 12.4     |", (12, 4)),
        (object(), "| CUDA UMD Version: 13.1 |", (13, 1)),
        (None, "no devices were found", None),
        (None, None, None),
    ],
)
def test_the_drivers_version(monkeypatch, library, smi, expected):
    def load(name):
        assert re.search("cuda", name)
        if library is None:
            raise OSError(name)
        return library

    def run(*args, **options):
        if smi is None:
            raise FileNotFoundError("nvidia-smi")
        return SimpleNamespace(stdout=smi)

    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setattr(subprocess, "run", run)
    assert find_cupy.driver() == expected


@pytest.mark.parametrize(
    ("text", "release"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Mon", "580.65.06"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.133.20  Re", "570.133.20"),
        ("NVRM version: something else", None),
        (None, None),
    ],
)
def test_the_drivers_own_version(monkeypatch, tmp_path, text, release):
    file = tmp_path / "version"
    if text is not None:
        file.write_text(text)
    monkeypatch.setattr(find_cupy, "DRIVER_FILE", file)
    assert find_cupy.driver_release() == release


def test_what_is_installed_here():
    for name, version in find_cupy.installed():
        assert name in find_cupy.PACKAGES
        assert metadata.version(name) == version
