"""Mistakes in CUDA sources are found, and noticed by small cases; all of them are tried by
``benchmarks/cuda_mutants.py``, here a few."""

from __future__ import annotations

import sys
from pathlib import Path

import cudasim
import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def mutants():
    if reason := cudasim.missing():
        pytest.skip(reason)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE))
        import mutants

        yield mutants
    for name in ("mutants", "cases", "convolutions"):
        sys.modules.pop(name, None)


SOURCE = """
// if (i < n) in a comment is none
template <class T, int V> __global__ void k(const T* x, T* y, int n) {
  constexpr int HALF = V / 2 < 4 ? 4 : V / 2;
  const int i = threadIdx.x;
  UNROLL for (int j = 0; j < V; ++j) copy_async<4>(at + j, x + j, i >= 0);
  copy_commit();
  copy_wait<STAGES - 2>();
  __syncthreads();
  if (i < n && i <= LAST) y[i] = x[i];
  __syncwarp();
}
"""


def test_what_is_changed(mutants, tmp_path):
    file = mutants.PACKAGE / "ops" / "k.cu"  # a path of the package, whose file is not there
    found = mutants.mutants_of(SOURCE, file)
    assert [(m.line, m.kind, m.what) for m in found] == [
        (7, "commit", "no copy_commit"),
        (8, "wait", "copy_wait one short"),
        (8, "wait", "no copy_wait"),
        (9, "barrier", "no __syncthreads"),
        (10, "bounds", "i <= n, not <"),
        (11, "barrier", "no __syncwarp"),
    ]
    changed = [SOURCE[: m.start] + m.new + SOURCE[m.end :] for m in found]
    assert all(len(set(text.splitlines()) - set(SOURCE.splitlines())) == 1 for text in changed)
    assert "  copy_wait<(STAGES - 2) + 1>();\n" in changed[1]
    assert "  if (i <= n && i <= LAST) y[i] = x[i];\n" in changed[4]


def test_every_case_is_of_files_that_there_are(mutants):
    import cases

    files = {str(path.relative_to(mutants.PACKAGE)) for path in mutants.sources()}
    assert {file for case in cases.CASES for file in case.files} == {
        file for file in files if file.endswith(".cu")
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "file", "kind"),
    [
        ("relu, float32", "ops/relu/kernel_cuda.cu", "bounds"),
        ("conv2d, patch", "ops/conv2d/cuda_patch.cu", "barrier"),
        ("conv2d, packs of two", "ops/conv2d/cuda_windows.cu", "wait"),
        ("conv2d, packs of two", "ops/conv2d/cuda_windows.cu", "commit"),
    ],
)
def test_a_few_are_noticed(mutants, case, file, kind):
    import cases

    expected = mutants.with_expected([c for c in cases.CASES if c.name == case])
    assert mutants.attempt(None, expected).noticed == ""
    tried = [m for m in mutants.mutants(mutants.PACKAGE / file) if m.kind == kind]
    found = {m.what: mutants.attempt(m, expected).noticed for m in tried}
    assert found
    assert {what: how for what, how in found.items() if how not in ("checks", "values")} == {}
