"""PyTorch's own sample inputs of the operations that both have: none gives something
wrong, and nearly all are taken."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("torch.testing._internal.common_methods_invocations", exc_type=ImportError)

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
MOST = 200  # samples of one operation: max_pool2d has 1,440 of one kind
TAKEN = 2_030  # of 2,168 in PyTorch 2.13; another version has a few more or less
REFUSED = {  # on purpose: how many at most
    "nn_functional_batch_norm": 5,  # a negative momentum, x of one dimension
    "nn_functional_group_norm": 4,  # a negative eps
    "nn_functional_layer_norm": 1,
    "clamp": 2,  # a float64 tensor between int32 ones
    "norm_nuc": 2,  # there is no singular value decomposition
    "nn_functional_avg_pool2d": 1,  # stride=()
    "arange": 1,  # of bools
    "nn_functional_interpolate_bicubic": 24,  # modes and dimensions that there are not
    "nn_functional_interpolate_trilinear": 24,
    "nn_functional_interpolate_nearest-exact": 23,
    "nn_functional_interpolate_area": 22,
    "nn_functional_interpolate_nearest": 9,
}


@pytest.fixture(scope="module")
def samples():
    """``benchmarks/pytorch_samples.py`` as a module."""
    sys.path.insert(0, str(FOLDER))
    try:
        yield importlib.import_module("pytorch_samples")
    finally:
        sys.path.remove(str(FOLDER))
        sys.modules.pop("pytorch_samples", None)


@pytest.fixture(scope="module")
def counts(samples):
    return {found.name: found for found in samples.count_all(most=MOST)}


@pytest.mark.slow
def test_no_sample_gives_a_wrong_value_or_gradient(counts, samples):
    wrong = [found for found in counts.values() if found.wrong]
    assert not wrong, samples.table(wrong, None)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["int64", "bool"])
def test_no_sample_of_integers_gives_a_wrong_value(samples, dtype):
    counts = samples.count_all(most=50, dtype=dtype)
    wrong = [found for found in counts if found.wrong]
    assert not wrong, samples.table(wrong, None)
    assert sum(found.taken for found in counts) > 500


@pytest.mark.slow
def test_nearly_all_samples_are_taken(counts, samples):
    assert sum(found.taken for found in counts.values()) >= TAKEN
    refusing = [c for c in counts.values() if c.refused.total() > REFUSED.get(c.name, 0)]
    assert not refusing, samples.table(refusing, None)


def test_what_is_wrong_is_seen(samples, monkeypatch):
    """The comparison itself can fail: in a value, in a gradient, in a shape, by a stray error."""
    import minires as mr

    info = next(info for info, _ in samples.operations() if info.name == "abs")
    functions = {
        "value": lambda x: mr.abs(x) + 1e-3,
        "gradient": lambda x: mr.abs(x).detach() + (x - x.detach()) * 2,
        "shape": lambda x: mr.abs(x).unsqueeze(0),
        "dtype": lambda x: mr.abs(x).float(),
        "error": lambda x: [][1],
    }
    for name, function in functions.items():
        found = samples.count(info, function)
        assert (found.taken, found.wrong.total()) == (0, found.tried), name
        assert found.tried
    refused = samples.count(info, lambda x: mr.abs(x, 1))
    assert refused.refused.total() == refused.tried
    assert "refused: abs" in samples.table([refused], 1)
    assert samples.count(info, mr.abs).taken
