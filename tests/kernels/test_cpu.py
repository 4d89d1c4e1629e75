"""What the CPU offers, and how one shape of vectors is forced."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from minires.kernels.numba import cpu


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("forced", "expected"),
    [
        ("16", "16 8 8 14 AVX-512"),
        ("8", "8 4 6 6 AVX2"),
        ("4", "4 2 8 14 128-bit vectors"),
    ],
)
def test_the_shape_can_be_forced(forced, expected):
    code = (
        "from minires.kernels.numba import cpu\n"
        "print(cpu.lanes('float32'), cpu.lanes('float64'), cpu.rows(2, 8), cpu.rows(2, 99),\n"
        "      cpu.instructions())"
    )
    done = python(code, MINIRES_SIMD=forced)
    assert done.stdout.strip() == expected, done.stderr


def test_another_shape_is_refused():
    done = python("import minires.kernels.numba.cpu", MINIRES_SIMD="32")
    assert "MINIRES_SIMD: expected 16, 8 or 4, got '32'" in done.stderr


@pytest.mark.parametrize("vectors", [1, 2])
@pytest.mark.parametrize(("lanes", "registers"), [(16, 32), (8, 16), (4, 32)])
def test_tiles_fit_the_registers(monkeypatch, lanes, registers, vectors):
    monkeypatch.setattr(cpu, "REGISTERS", registers)
    rows = cpu.rows(vectors, limit=99)
    assert rows * vectors + vectors + 1 <= registers
    assert (rows + 1) * vectors + vectors + 1 > registers
    assert cpu.rows(vectors, limit=3) == 3
