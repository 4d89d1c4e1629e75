"""Modules of the benchmarks, for what NVIDIA's compiler says without a GPU."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"


@pytest.fixture(scope="module")
def cubin():
    """A function that imports a module of ``benchmarks/cubin``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield lambda name: importlib.import_module(f"cubin.{name}")
    for name in [name for name in sys.modules if name.split(".")[0] == "cubin"]:
        del sys.modules[name]
