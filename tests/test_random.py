"""One seed, one stream of numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest

import minires as mr
from minires import random
from minires.errors import ArgumentError, CheckpointError


def draws():
    return [
        mr.randn(3).tolist(),
        mr.rand(2).tolist(),
        mr.randint(0, 10, (4,)).tolist(),
        mr.randperm(5).tolist(),
        mr.dropout(mr.ones(6), 0.5).tolist(),
    ]


def test_the_same_seed_gives_the_same_draws():
    mr.manual_seed(7)
    first = draws()
    second = draws()
    mr.manual_seed(np.int64(7))
    assert draws() == first
    assert first != second
    mr.manual_seed(8)
    assert draws() != first
    assert mr.manual_seed(2**70) is random.generator()


def test_the_state_survives_json():
    mr.manual_seed(1)
    mr.randn(3)
    state = json.loads(json.dumps(random.get_state()))
    expected = draws()
    random.set_state(state)
    assert draws() == expected


def test_a_state_is_a_copy():
    mr.manual_seed(1)
    state = random.get_state()
    before = json.dumps(state)
    mr.randn(100)
    assert json.dumps(state) == before


def test_draws_inside_preserved_change_no_later_draw():
    mr.manual_seed(1)
    before = random.get_state()
    with random.preserved():
        mr.manual_seed(2)
        mr.randn(3)
    assert random.get_state() == before
    with pytest.raises(ZeroDivisionError), random.preserved():
        mr.randn(3).tolist()[0] / 0
    assert random.get_state() == before


@pytest.mark.parametrize("seed", [-1, 1.5, "0", None, True, [1]])
def test_bad_seeds(seed):
    with pytest.raises(ArgumentError, match="manual_seed: expected an integer seed >= 0, got"):
        mr.manual_seed(seed)


@pytest.mark.parametrize(
    "state",
    [
        {},
        None,
        "state",
        {"bit_generator": "MT19937"},
        {"bit_generator": "PCG64"},
        {"bit_generator": "PCG64", "state": {"state": "x", "inc": 1}},
        {
            "bit_generator": "PCG64",
            "state": {"state": -1, "inc": 2**200},
            "has_uint32": 0,
            "uinteger": 0,
        },
    ],
)
def test_bad_states(state):
    before = random.get_state()
    with pytest.raises(CheckpointError, match=r"expected a state from minires\.random\.get_state"):
        random.set_state(state)
    assert random.get_state() == before


def test_an_own_generator_leaves_the_global_one_alone():
    mr.manual_seed(3)
    before = random.get_state()
    own = np.random.default_rng(0)
    a = mr.randn(2, generator=own)
    mr.rand(2, generator=own)
    mr.randperm(3, generator=own)
    mr.randint(0, 2, (3,), generator=own)
    mr.dropout(mr.ones(3), generator=own)
    assert random.get_state() == before
    assert a.tolist() == mr.randn(2, generator=np.random.default_rng(0)).tolist()


def test_distributions():
    mr.manual_seed(0)
    normal, uniform = mr.randn(20_000, dtype="float64"), mr.rand(20_000)
    assert abs(normal.mean().item()) < 0.03
    assert abs(normal.std().item() - 1) < 0.03
    assert uniform.min().item() >= 0
    assert uniform.max().item() < 1
    assert abs(uniform.mean().item() - 0.5) < 0.01
    assert sorted(mr.randperm(10).tolist()) == [*range(10)]
    whole = mr.randint(-2, 3, (1000,))
    assert (whole.min().item(), whole.max().item()) == (-2, 2)
