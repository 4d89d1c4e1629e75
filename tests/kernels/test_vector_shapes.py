"""The shared parts of the kernels for every width of vectors, and as plain Python.

LLVM emulates vectors that the CPU does not have, so one machine can run all three.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from minires.kernels.numba import cpu

HERE = Path(__file__).parent
PARTS = [HERE / f"test_{part}.py" for part in ("simd", "struct", "tile", "prologue", "statistics")]
OTHERS = [lanes for lanes in cpu.SHAPES if lanes != cpu.LANES]  # its own has all other tests
SETTINGS = [
    *({"MINIRES_SIMD": str(lanes)} for lanes in OTHERS),
    {"NUMBA_DISABLE_JIT": "1"},
    {"NUMBA_DISABLE_JIT": "1", "MINIRES_SIMD": str(OTHERS[-1])},
]


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_the_shared_parts(setting):
    others = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *map(str, PARTS)],
        capture_output=True,
        text=True,
        cwd=HERE.parent.parent,
        env={**others, **setting},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert " passed" in done.stdout
