"""Random shapes: what the strategies reach, that all gradients hold there, and shrinking."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, find, settings

import minires
from minires.device import _kernel_module
from minires.selfcheck import Backend, examine, plan, select
from minires.selfcheck.catalogue.case import LAYOUTS
from minires.selfcheck.catalogue.shapes import STRATEGIES, smallest

NUMPY, NUMBA = Backend("numpy"), Backend("numba")
JOBS = [
    (name, place)
    for name in STRATEGIES
    for place in (NUMPY, NUMBA)
    if place == NUMPY or select([name])[0].kernels
]
FOLDERS = [path.parent.name for path in (Path(minires.__file__).parent / "ops").glob("*/op.py")]


def pairs(case, option, default):
    """The value of a pair of options in a label, as in ``stride=(2, 1)``."""
    found = re.search(rf"{option}=\((\d+), (\d+)\)", case.label)
    return tuple(map(int, found.groups())) if found else default


def kernel_of(case):
    return case.inputs["w"].shape[2:]


def test_every_hand_written_operation_has_a_strategy():
    assert set(FOLDERS) - {"update"} <= set(STRATEGIES)  # updates have no derivative


REACHES = {
    "stride > kernel": lambda c: pairs(c, "stride", (1, 1))[0] > kernel_of(c)[0],
    "padding >= kernel": lambda c: pairs(c, "padding", (0, 0))[1] >= kernel_of(c)[1],
    "dilation": lambda c: max(pairs(c, "dilation", (1, 1))) > 1 and max(kernel_of(c)) > 1,
    "h != w": lambda c: c.inputs["x"].shape[2] != c.inputs["x"].shape[3],
    "k_h != k_w": lambda c: len(set(kernel_of(c))) == 2,
    "groups": lambda c: "groups=3" in c.label,
    "one entry": lambda c: set(c.inputs["x"].shape) == {1},
    "bias": lambda c: "b" in c.inputs,
    **{name: lambda c, name=name: c.inputs["x"].layout == name for name in LAYOUTS},
}


@pytest.mark.parametrize("reaches", REACHES.values(), ids=REACHES)
def test_convolutions_reach(reaches):
    limits = settings(
        max_examples=500,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    find(STRATEGIES["conv2d"], reaches, settings=limits)  # raises if there is none


@pytest.mark.slow
@pytest.mark.parametrize(("name", "place"), JOBS, ids=lambda v: getattr(v, "name", v))
def test_gradients_at_random_shapes(name, place):
    case = smallest(STRATEGIES[name], lambda c: not examine(c, place).ok, examples=10, seed=0)
    assert case is None, examine(case, place).failure()


def test_draws_depend_on_the_seed_only():
    def drawn(seed):
        labels = []
        smallest(STRATEGIES["conv2d"], lambda c: labels.append(c.label) is not None, 5, seed)
        return labels

    assert len(drawn(1)) == 5
    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


@pytest.mark.slow
def test_the_smallest_failing_case_is_found_and_printed(monkeypatch):
    """A weight gradient that is wrong only where the stride exceeds the kernel. (Of the Numba
    kernel, tests/test_cli.py has the command find it.)"""
    backend = "numpy"
    kernel = _kernel_module("conv2d", backend)
    good = kernel.conv2d_bwd_weight

    def bad(gy, x, gw, geometry):
        good(gy, x, gw, geometry)
        if geometry.stride[1] > geometry.k_w and geometry.w_out > 1:
            gw *= 2

    monkeypatch.setattr(kernel, "conv2d_bwd_weight", bad)
    random_only = replace(plan(["conv2d"], backend=backend, draws=60, seed=6), jobs=())
    result = random_only.run()
    assert not result.ok
    lines = result.failures()[-1].splitlines()
    assert lines[0] == "the smallest failing case of 60 random ones, seed 6"
    assert lines[1] == (
        f"conv2d, x (1, 1, 1, 3), w (1, 1, 1, 1), stride=(1, 2) on {backend}: the gradient is wrong"
    )
    assert lines[2] == "w [1, 1, 1, 1]: 2 of 2 entries disagree"
    assert "ratio 2" in lines[3]


def test_random_cases_count_in_the_table():
    fixed, drawn = (plan(["relu"], backend="numpy", draws=n).run() for n in (0, 7))
    assert len(drawn.outcomes) == len(fixed.outcomes) + 7
    assert drawn.rows()[0].cases == fixed.rows()[0].cases + 7
    assert drawn.rows()[0].entries > fixed.rows()[0].entries
