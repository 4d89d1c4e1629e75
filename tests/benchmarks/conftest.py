"""Scripts of ``benchmarks/`` as modules."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    """Imports a module of the benchmarks, whose ``harness`` is not the tests'."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.delitem(sys.modules, "harness")
    yield importlib.import_module
    for name in ("harness", *(path.stem for path in FOLDER.glob("*.py"))):
        sys.modules.pop(name, None)
