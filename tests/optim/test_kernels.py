"""All parameters in one launch: the same steps as the array expressions, for any mixture."""

from __future__ import annotations

import numpy as np
import pytest

import minires as mr
from minires.optim import SGD, Adam, AdamW, RMSprop

SIZES = [(1,), (3,), (16,), (7, 5), (64, 3, 3, 3), (8191,), (8192,), (3, 8193)]
OPTIONS = [
    (SGD, {}),
    (SGD, {"momentum": 0.9}),
    (SGD, {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
    (SGD, {"momentum": 0.9, "nesterov": True}),
    (Adam, {"weight_decay": 0.1}),
    (Adam, {"amsgrad": True}),
    (AdamW, {"weight_decay": 0.2, "amsgrad": True}),
    (RMSprop, {"weight_decay": 0.1}),
    (RMSprop, {"momentum": 0.9, "centered": True, "eps": 1e-2}),
]


def parameters(seed=0):
    """float32, float64 and strided ones, and gradients in any layout."""
    rng = np.random.default_rng(seed)
    result = []
    for k, shape in enumerate(SIZES):
        values = rng.standard_normal(shape).astype("float64" if k % 3 == 2 else "float32")
        if k == 3:
            values = np.asfortranarray(values)
        result.append(mr.from_numpy(values))
    for p in result:
        p.requires_grad = True
    return result


def steps(kind, options, backend, count=4):
    ours, rng = parameters(), np.random.default_rng(1)
    optimizer = kind([{"params": ours[:4], "lr": 0.1}, {"params": ours[4:]}], lr=0.01, **options)
    for step in range(count):
        for k, p in enumerate(ours):
            gradient = rng.standard_normal(p.shape).astype(p.dtype)
            if k == 4:
                gradient = np.asfortranarray(gradient)
            p.grad = None if k == step else mr.from_numpy(gradient)
        kept = [None if p.grad is None else p.grad.data.copy() for p in ours]
        with mr.backend(backend):
            optimizer.step()
        for p, gradient in zip(ours, kept):
            if gradient is not None:
                np.testing.assert_array_equal(p.grad.data, gradient)
    return ours, optimizer


@pytest.mark.parametrize(("kind", "options"), OPTIONS)
def test_the_kernels_make_the_steps_of_the_formulas(kind, options):
    (ours, mine), (plain, reference) = (steps(kind, options, b) for b in ("auto", "numpy"))
    for p, q in zip(ours, plain):
        rtol = 2e-5 if p.dtype == "float32" else 1e-12
        np.testing.assert_allclose(p.data, q.data, rtol=rtol, atol=rtol)
        assert mine.state[p].keys() == reference.state[q].keys()
        for name, value in mine.state[p].items():
            np.testing.assert_allclose(value, reference.state[q][name], rtol=rtol, atol=rtol)


def test_any_number_of_threads_makes_the_same_step():
    limit, results = mr.get_num_threads(), []
    try:
        for threads in range(1, min(limit, 3) + 1):
            mr.set_num_threads(threads)
            results.append([p.data for p in steps(Adam, {}, "auto")[0]])
    finally:
        mr.set_num_threads(limit)
    for result in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(results[0], result))


def test_every_parameter_gets_a_new_version():
    ours = parameters()
    before = [p._version.count for p in ours]
    for p in ours[1:]:
        p.grad = mr.zeros(*p.shape, dtype=p.dtype)
    SGD(ours, lr=0.1).step()
    assert ours[0]._version.count == before[0]
    assert all(p._version.count > count for p, count in zip(ours[1:], before[1:]))


def test_a_read_only_parameter_is_an_error_and_stays():
    values = np.ones(3, np.float32)
    p = mr.from_numpy(values)
    p.requires_grad, p.grad = True, mr.ones(3)
    values.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        SGD([p], lr=0.1).step()
    assert values.tolist() == [1, 1, 1]


def test_gradients_are_zeroed_in_place():
    ours = parameters()
    for p in ours[1:]:
        p.grad = mr.from_numpy(np.full_like(p.data, np.nan))
    memory = [p.grad.data for p in ours[1:]]
    versions = [p.grad._version.count for p in ours[1:]]
    SGD(ours, lr=0.1).zero_grad(set_to_none=False)
    assert ours[0].grad is None
    for p, array, version in zip(ours[1:], memory, versions):
        assert p.grad.data is array
        assert not array.any()
        assert p.grad._version.count > version
