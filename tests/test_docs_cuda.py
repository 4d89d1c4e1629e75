"""The GPU kernel of docs/adding_an_op.md computes what its reference computes."""

from __future__ import annotations

import importlib.util
import re
import sys

import numpy as np
import pytest
from gpu import CUDA, gpu, put
from test_docs import ROOT, blocks


@pytest.fixture
def kernels(tmp_path, monkeypatch):
    """The page's kernel modules, by backend."""
    for _, _, content in blocks((ROOT / "docs/adding_an_op.md").read_text(encoding="utf-8")):
        if file := re.match(r"(?:#|//) ops/leaky_relu/(kernel_\w+\.(?:py|cu))\n", content):
            (tmp_path / file[1]).write_text(content, encoding="utf-8")
    found = {}
    for backend in ("numpy", "cuda"):
        name = f"leaky_relu_{backend}"
        path = tmp_path / f"kernel_{backend}.py"
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        found[backend] = module
    return found


@pytest.mark.parametrize("device", [CUDA])
@pytest.mark.parametrize("size", [0, 1, 255, 600])
def test_the_example_on_a_gpu(kernels, size, device):
    x, gy = np.random.default_rng(size).standard_normal((2, size), np.float32)
    y, gx = np.empty((2, size), np.float32)
    kernels["numpy"].leaky_relu_fwd(x, 0.5, y)
    kernels["numpy"].leaky_relu_bwd_x(gy, y, 0.5, gx)
    with gpu():
        out, gout = put(np.zeros_like(y)), put(np.zeros_like(gx))
        kernels["cuda"].leaky_relu_fwd(put(x), 0.5, out)
        kernels["cuda"].leaky_relu_bwd_x(put(gy), put(y), 0.5, gout)
        np.testing.assert_array_equal(out.get(), y)
        np.testing.assert_array_equal(gout.get(), gx)
