"""The shared parts of the kernels for every width of vectors, and as plain Python.

LLVM emulates vectors that the CPU does not have, so one machine can run all three.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PARTS = [HERE / f"test_{part}.py" for part in ("simd", "tile", "source", "statistics")]
SETTINGS = [
    {"MINIRES_SIMD": "16"},
    {"MINIRES_SIMD": "8"},
    {"MINIRES_SIMD": "4"},
    {"NUMBA_DISABLE_JIT": "1"},
    {"NUMBA_DISABLE_JIT": "1", "MINIRES_SIMD": "4"},
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
