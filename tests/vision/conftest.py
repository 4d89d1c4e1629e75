"""Small folders of pictures and small data sets in the published formats, made by the tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from data.conftest import idx_bytes
from vision.cases import picture


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three cats and two dogs, of different sizes."""
    for name, count in (("dog", 2), ("cat", 3)):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for k in range(count):
            picture("RGB", 9 + k, 14 - k).save(tmp_path / "pets" / name / f"{k}.png")
    return tmp_path / "pets"


@pytest.fixture
def digits() -> Callable[..., dict[str, np.ndarray]]:
    """Write a small MNIST into a folder's ``raw``: gives the arrays by name."""

    def write(raw: Path, pack: Callable[[bytes], bytes] = bytes, ending: str = "") -> dict:
        rng = np.random.default_rng(0)
        raw.mkdir(parents=True)
        made = {}
        for part, n in (("train", 5), ("t10k", 3)):
            made[f"{part}-images-idx3-ubyte"] = rng.integers(0, 256, (n, 28, 28), np.uint8)
            made[f"{part}-labels-idx1-ubyte"] = rng.integers(0, 10, n, np.uint8)
        for name, array in made.items():
            (raw / f"{name}{ending}").write_bytes(pack(idx_bytes(array)))
        return made

    return write
