"""PyTorch's collective functions: ``programs/collectives.py`` on one process and on three."""

from pathlib import Path

import pytest
from distributed import harness


@pytest.mark.parametrize("n", [0, 3])
def test_collective_functions_of_tensors(n):
    ranks = max(n, 1)
    done = harness.script(n, Path("collectives.py"), ranks)
    assert done.passed() == "done\n" * ranks
