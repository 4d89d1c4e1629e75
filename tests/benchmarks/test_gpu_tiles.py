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


@pytest.mark.skipif(REAL, reason="launches nothing")
def test_a_tile_that_is_wrong_is_not_timed_and_others_are(load, monkeypatch, tmp_path, capsys):
    gpu_tiles = load("gpu_tiles")

    def difference(mine, theirs, tolerance, what):
        if what.startswith("Windows(bm=128, bn=16"):
            raise gpu_tiles.Disagreement(f"{what}: wrong")

    monkeypatch.setattr(Kernel, "run", lambda *arguments: None)
    monkeypatch.setattr(gpu_tiles, "minires_graph", lambda run: lambda: 1e-6)
    monkeypatch.setattr(gpu_tiles, "difference", difference)
    monkeypatch.setattr(load("gpu_kernels"), "facts", dict)
    with cupy_installed(), pytest.raises(SystemExit, match=r"error: \d+ tiles are wrong"):
        gpu_tiles.main(["--precisions", "highest", "--results", str(tmp_path)])
    text = (tmp_path / "gpu_tiles.csv").read_text(encoding="utf-8")
    assert "Windows 128 64" in text
    assert "Windows 128 16" not in text
    assert "Windows(bm=128, bn=16" in capsys.readouterr().out
