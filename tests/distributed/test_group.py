"""The group: its operations, how it begins, and what it does to threads."""

from pathlib import Path

import pytest
from distributed import harness


@pytest.mark.parametrize("n", [0, 2, 3])
def test_operations_of_a_group(n):
    assert harness.script(n, Path("group.py")).passed() == "done\n" * max(n, 1)
