"""Of each tile that is timed the kernel is launched, and not that of the table's choice."""

from __future__ import annotations

import pytest
from cupy_stand_in import cupy_installed
from gpu import REAL

import minires as mr
from minires.kernels.cuda.kernel import Kernel


@pytest.mark.skipif(REAL, reason="launches nothing")
def test_each_tile_is_launched(load, monkeypatch):
    gpu_tiles = load("gpu_tiles")
    launched = []

    def run(kernel, grid, arguments):
        if kernel.__name__ != "conv2d_pack":
            launched.append(kernel.name)

    before = mr.get_float32_matmul_precision()
    monkeypatch.setattr(Kernel, "run", run)
    monkeypatch.setattr(gpu_tiles, "minires_graph", lambda run: lambda: 1e-6)
    monkeypatch.setattr(gpu_tiles, "difference", lambda *arguments: 0.0)
    with cupy_installed():
        rows = list(gpu_tiles.rows("ResNet-20", "highest"))
    mr.set_float32_matmul_precision(before)
    assert len(rows) == len(launched) > 20
    for row, name in zip(rows, launched):
        kind, *numbers = row["tile"].split()
        place = {"Windows": "conv2d_windows", "Patch": "conv2d_patch"}[kind]
        assert name.startswith(f"{place}<Fp32,{','.join(numbers[:4])},")
    assert {name.partition("<")[0] for name in launched} == {"conv2d_windows", "conv2d_patch"}
    chosen = [row["shape"] for row in rows if row["chosen"]]
    assert len(chosen) == len({row["shape"] for row in rows})
