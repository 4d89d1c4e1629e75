"""One thread on both sides, for the inputs are tiny."""

import pytest
from harness import one_thread

import minires as mr


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    with one_thread(mr, pytest.importorskip("torch")):
        yield
