"""The table of what NVRTC makes of the kernels: what it counts, and what it fails for."""

from __future__ import annotations

import pytest


def test_it_fails_for_what_is_not_listed(load, monkeypatch, capsys):
    cuda_code = load("cuda_code")
    kernels = cuda_code.kernels
    if reason := cuda_code.nvrtc.missing():
        pytest.skip(reason)
    monkeypatch.setattr(cuda_code.nets, "used_by", dict)
    monkeypatch.setattr(kernels, "SPILLS", {(90, "gone"): "why"})
    monkeypatch.setitem(kernels.SHARED_KIB, 90, 7)
    with pytest.raises(SystemExit) as caught:
        cuda_code.main(["--only", "scatter_sort_chunks", "--processes", "1"])
    assert str(caught.value).splitlines() == [
        "mend these, or list them in cubin/kernels.py:",
        "sm_90 scatter_sort_chunks: 8192 bytes of shared memory, of which there are 7 KiB",
        "SPILLS: there is no gone",
    ]
    assert "cuda: scatter_sort_chunks" in capsys.readouterr().out


def test_what_is_too_large_for_a_gpu_and_what_spills_is_told(load):
    cuda_code = load("cuda_code")
    shared = {"block": 32, "registers": 40, "static_shared": 0, "dynamic_shared": 1024}
    spills = {"stack": 8, "spills": 16, "reason": "it waits"}
    rows = [
        {"file": "a/k.cu", "kernel": f"k<{n}>", "target": target, "asked_for": asked, **shared}
        | (spills if (n, target) == (1, "sm_80") else {"stack": 0, "spills": 0, "reason": ""})
        for n, target, asked in [
            (1, "sm_80", "yes"),
            (2, "sm_80", "not asked for there"),
            (1, "sm_121", "not asked for there"),
            (2, "sm_121", "not asked for there"),
        ]
    ]
    heads, lines = cuda_code.code_table(rows)
    assert [dict(zip(heads, line))["not asked for on"] for line in lines] == [
        "1: sm_80, 2: sm_121"
    ] * 2
    listed = "sm_80, `k<1>`: 8 bytes of stack, 16 of spills. It waits."
    assert cuda_code.listed(rows) == [listed]
    assert cuda_code.markdown(rows, [], "").endswith(f"use a stack:\n\n- {listed}")
