"""Kernels are compiled for the GPU that is there, all of them, and one that fails is told."""

from __future__ import annotations

import csv
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from gpu import REAL

from minires.kernels.cuda.kernel import Kernel

FOUND = {"num_regs": 40, "shared_size_bytes": 128, "local_size_bytes": 0}


@pytest.mark.skipif(REAL, reason="compiles nothing")
def test_every_kernel_has_a_row(load, monkeypatch, tmp_path, capsys):
    gpu_compile = load("gpu_compile")

    def compiled(kernel):
        if kernel.name == "draws_done":
            raise RuntimeError("no such thing")
        local = 8 if kernel.name == "relu_fwd<float, 4>" else 0
        return SimpleNamespace(attributes={**FOUND, "local_size_bytes": local})

    monkeypatch.setattr(Kernel, "compiled", compiled)
    monkeypatch.setattr(gpu_compile, "existing", lambda device: device)
    monkeypatch.setattr(gpu_compile, "facts", lambda: {"gpu": "none", "net": "not of these"})
    monkeypatch.setattr(
        gpu_compile, "ProcessPoolExecutor", lambda count, mp_context: ThreadPoolExecutor(count)
    )
    with pytest.raises(SystemExit) as left:
        gpu_compile.main(["--results", str(tmp_path), "--processes", "1"])
    assert left.value.code == 1
    with open(tmp_path / "gpu_compile.csv", encoding="utf-8", newline="") as file:
        rows = {row["kernel"]: row for row in csv.DictReader(file)}
    assert set(rows) == {name for _, name in gpu_compile.instances()}
    assert rows["draws_done"]["error"] == "RuntimeError: no such thing"
    assert rows["draws_done"]["registers"] == ""
    assert rows["relu_fwd<float, 4>"]["registers"] == "40"
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "draws_done: RuntimeError: no such thing"
    assert printed[1] == "relu_fwd<float, 4>: 8 bytes of local memory"
    assert printed[2].startswith(f"{len(rows)} kernels in ")
    assert printed[2].endswith(" s, 1 failed")
