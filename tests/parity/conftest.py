"""One thread on both sides, for the inputs are tiny; a line that says how much was compared."""

import pytest
from harness import one_thread

import minires as mr


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    with one_thread(mr, pytest.importorskip("torch")):
        yield


def pytest_terminal_summary(terminalreporter):
    passed = [
        report.nodeid
        for report in terminalreporter.stats.get("passed", [])
        if report.nodeid.startswith("tests/parity/") and "[" in report.nodeid
    ]
    refused = sum("refuse" in nodeid.partition("[")[0] for nodeid in passed)
    if passed:
        terminalreporter.write_line(
            f"parity: {len(passed) - refused:,} cases agree with PyTorch, "
            f"{refused:,} wrong calls are refused"
        )
