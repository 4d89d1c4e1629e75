"""One thread: the inputs are tiny, and what is tested is the checker."""

import pytest
from harness import one_thread

import minires as mr


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    with one_thread(mr):
        yield
