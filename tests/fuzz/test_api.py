"""Whatever a user passes anywhere: an answer, or an error of ours that teaches; never a raw one.

Each public function, constructor and method is called with each of its arguments replaced by each
of the values
of :mod:`fuzz.values`, among valid ones; of each argument every eighth value, starting at a place of
its own, or all of them with ``MINIRES_FUZZ=all`` in the environment (some minutes).
``MINIRES_FUZZ=all pytest tests/fuzz -k nn.functional`` tries all of one module.
"""

from __future__ import annotations

import inspect
import os
import resource
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

import pytest
from fuzz.calls import CALLED, ENTRIES, call, following, names, recipe
from fuzz.judge import boxed, fault, used
from fuzz.recipes import NEEDS, RECIPES, SKIPPED
from fuzz.surface import Entry
from fuzz.values import BAD
from harness import undrawn

import minires as mr
from minires.kernels.numba.threads import get_num_threads, set_num_threads

ROOM = 4 * 2**30  # bytes that a call may take beside what there is
STRIDE = 1 if os.environ.get("MINIRES_FUZZ") == "all" else 8
SHOWN = 60  # faults of one function that a failing test lists


def attempt(entry: Entry, replaced: dict[str, Any]) -> None:
    used(call(entry, replaced), following(entry) if inspect.isclass(entry.function) else None)


@pytest.fixture(autouse=True)
def _in_a_box(tmp_path, monkeypatch):
    """A folder of its own, little memory, and all settings back afterwards."""
    monkeypatch.chdir(tmp_path)
    threads = get_num_threads()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if sys.platform == "linux":  # elsewhere the limit is not kept, or the size not told
        present = int(Path("/proc/self/statm").read_text("ascii").split()[0])
        limit = present * resource.getpagesize() + ROOM
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    with boxed(), undrawn(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    set_num_threads(threads)


@pytest.mark.parametrize("entry", CALLED, ids=lambda entry: entry.name)
def test_valid_arguments_are_taken(entry):
    """Else the bad ones would stand among others, and nothing would come to them."""
    if entry.name in NEEDS:
        pytest.importorskip(NEEDS[entry.name])
    attempt(entry, {})


@pytest.mark.slow
@pytest.mark.parametrize("entry", CALLED, ids=lambda entry: entry.name)
def test_bad_arguments_end_in_errors_of_ours(entry):
    faults = []
    for name in names(entry):
        first = zlib.crc32(f"{entry.name} {name}".encode()) % STRIDE
        for label, make in list(BAD.items())[first::STRIDE]:
            mr.manual_seed(0)
            for what, value in _forms(entry, name, make):
                found = fault(lambda n=name, v=value: attempt(entry, {n: v()}))
                if found:
                    faults.append(f"{name} = {what.format(label)}: {found}")
    more = len(faults) - SHOWN
    listed = "\n  ".join([*faults[:SHOWN], *([f"... and {more} more"] if more > 0 else [])])
    assert not faults, f"{entry.name}: {len(faults)} calls\n  {listed}"


def _forms(entry: Entry, name: str, make: Any) -> list[Any]:
    """A value by itself; of ``*name``, alone and after the valid ones."""
    if name[0] != "*":
        return [("{}", make)]
    return [
        ("({},)", lambda: (make(),)),
        ("(..., {})", lambda: (*recipe(entry)[name](), make())),
    ]


def test_what_is_not_called_exists():
    assert set(SKIPPED) <= set(ENTRIES)
    assert set(RECIPES) <= set(ENTRIES)
