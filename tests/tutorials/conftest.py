"""The tutorials' scripts as modules, and their main functions run with ``--quick``."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TUTORIALS = Path(__file__).resolve().parents[2] / "docs" / "tutorials"


@pytest.fixture
def tutorial(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """A script of docs/tutorials, imported by its name."""
    monkeypatch.syspath_prepend(TUTORIALS)
    return importlib.import_module


@pytest.fixture
def no_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As on a machine where nothing was downloaded."""
    monkeypatch.setenv("MINIRES_DATA", str(tmp_path))


def _in_library(name: str, library: str) -> Any:
    """A file that takes its library from the import lines alone, with these lines exchanged."""
    source = (TUTORIALS / f"{name}.py").read_text(encoding="utf-8")
    if library == "torch":
        source = source.replace("import minires as torch\n", "import torch\n")
        source = source.replace("import minires.", "import torch.")
        source = source.replace("from minires ", "from torch ")
        assert "minires" not in source
    module = ModuleType(f"{name}_for_{library}")
    exec(compile(source, f"{name}.py for {library}", "exec"), module.__dict__)
    return module


@pytest.fixture
def in_library() -> Callable[[str, str], Any]:
    """``in_library("resnet_pytorch", "torch")``: the file as PyTorch would run it."""
    return _in_library
