"""Batch norm over several ranks' batches, on every device: the other rank is written out here.

Real ranks are in ``tests/distributed/test_sync_batch_norm.py``.
"""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from harness import host, raises, tensor

import minires as mr
from minires.device import array_module
from minires.distributed.group import Group
from minires.errors import DistributedError, ShapeError
from minires.ops.batch_norm.sync import Meeting, Whole, sync_batch_norm

EPS = 1e-5


class Scripted(Group):
    """Rank 0 of two, and what the other one brings, operation by operation: numbers and vectors,
    in one message on the host, in two from a GPU."""

    size = 2

    def __init__(self):
        self.theirs, self.sent = [], 0

    def gather(self, array):
        self.sent += 1
        xp = array_module(array)
        return xp.stack([array, xp.asarray(self.theirs.pop(0))])

    def reduce(self, array, op="sum"):
        assert op == "sum"
        self.sent += 1
        array += array_module(array).asarray(self.theirs.pop(0))

    def brings(self, on_gpu, numbers, a, b):
        parts = [np.array(numbers, float), np.array([a, b], float)]
        self.theirs += parts if on_gpu else [np.concatenate([p.reshape(-1) for p in parts])]


@pytest.fixture
def group(monkeypatch):
    """A group whose GPUs are connected by what connects its hosts."""
    monkeypatch.setattr("minires.distributed.nccl.carrier", lambda group, array: group)
    return Scripted()


def rows(a):
    return np.moveaxis(a, 1, -1).reshape(-1, a.shape[1])


def by_formula(x, gy, w, b):
    """Output, gradient of x, x_hat and its inverse deviation, of a whole batch of rows (m, c)."""
    inv_std = 1 / np.sqrt(x.var(0) + EPS)
    x_hat = (x - x.mean(0)) * inv_std
    gw, gb = (gy * x_hat).sum(0), gy.sum(0)
    return w * x_hat + b, w * inv_std * (gy - gb / len(x) - x_hat * gw / len(x)), x_hat


def taken(x, w, b, running, group, meeting):
    return sync_batch_norm(
        x, *running, w, b, momentum=0.25, eps=EPS, num_batches_tracked=None, group=group,
        meeting=meeting,
    )  # fmt: skip


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("shape", [(3, 5, 4, 2), (2, 1, 3, 3), (6, 7), (2, 4, 3)], ids=str)
def test_a_part_of_a_batch_against_the_formulas(shape, fused, group, anywhere):
    rng = np.random.default_rng(0)
    c, on_gpu = shape[1], anywhere == "cuda"
    n = shape[0]
    x, gy = rng.standard_normal((2, n + 4, *shape[1:])) + 1  # the other rank has 4 samples
    w, b = rng.standard_normal((2, c))
    y, gx, x_hat = by_formula(rows(x), rows(gy), w, b)
    m = len(rows(x[:n]))
    other, g = rows(x)[m:], rows(gy)[m:]
    tensors = [tensor(a, requires_grad=True) for a in (x[:n], w, b)]
    running = tensor(np.zeros(c)), tensor(np.ones(c))
    meeting = Meeting()

    group.brings(on_gpu, [0, len(other)], other.mean(0), other.var(0))
    with contextlib.nullcontext() if fused else mr.no_fusion():
        found = taken(*tensors, running, group, meeting)
        group.brings(on_gpu, [meeting.number], (g * x_hat[m:]).sum(0), g.sum(0))
        found.backward(tensor(gy[:n]))
    assert group.sent == (4 if on_gpu else 2)
    assert not group.theirs

    np.testing.assert_allclose(rows(host(found)), y[:m], atol=1e-12)
    np.testing.assert_allclose(rows(host(tensors[0].grad)), gx[:m], atol=1e-12)
    own = rows(gy[:n])
    np.testing.assert_allclose(host(tensors[1].grad), (own * x_hat[:m]).sum(0), atol=1e-12)
    np.testing.assert_allclose(host(tensors[2].grad), own.sum(0), atol=1e-12)
    np.testing.assert_allclose(host(running[0]), 0.25 * rows(x).mean(0), atol=1e-12)
    unbiased = rows(x).var(0, ddof=1)
    np.testing.assert_allclose(host(running[1]), 0.75 + 0.25 * unbiased, atol=1e-12)


def test_one_value_on_a_rank_will_do(group, device):
    """Of two ranks with one value each the variance is defined, so that a check of a rank's own
    batch would refuse too much."""
    group.brings(device == "cuda", [0, 1], [3.0, 0.0], [0.0, 0.0])
    running = tensor(np.zeros(2)), tensor(np.ones(2))
    x = tensor(np.array([[1.0, 4.0]]))
    y = taken(x, None, None, running, group, Meeting())
    np.testing.assert_allclose(host(y), [[-1.0, 1.0]], atol=1e-5)
    np.testing.assert_allclose(host(running[1]), [0.75 + 0.25 * 2, 0.75 + 0.25 * 8])


@pytest.mark.parametrize("fused", [True, False])
def test_infinite_statistics_are_results(fused, group, device):
    """Of which NumPy gives no warning, and which stay in their channel."""
    on_gpu, meeting = device == "cuda", Meeting()
    x = np.random.default_rng(0).standard_normal((4, 3, 2, 2)).astype(np.float32)
    x[:, 1] *= 1e30
    t = tensor(x, requires_grad=True)
    group.brings(on_gpu, [0, 4], [0.0, np.inf, 0.0], [1.0, np.inf, 1.0])
    running = tensor(np.zeros(3, np.float32)), tensor(np.ones(3, np.float32))
    with contextlib.nullcontext() if fused else mr.no_fusion():
        y = taken(t, None, None, running, group, meeting)
        group.brings(on_gpu, [meeting.number], [0.0, np.inf, 0.0], [0.0, -np.inf, 0.0])
        y.backward(tensor(np.ones_like(x)))
    for result in (host(y), host(t.grad)):
        assert np.isfinite(result[:, [0, 2]]).all()
        assert not np.isfinite(result[:, 1]).any()
    assert np.isfinite(host(running[1])).tolist() == [True, False, True]


def test_an_empty_part_meets_the_others_before_it_is_refused(group, device):
    group.brings(device == "cuda", [0, 4], [0.0, 0.0], [1.0, 1.0])
    running = tensor(np.zeros(2)), tensor(np.ones(2))
    x = tensor(np.zeros((0, 2, 3, 3)))
    with raises(ShapeError, "SyncBatchNorm: expected one sample or more on each rank", "rank 0"):
        taken(x, None, None, running, group, Meeting())
    assert not group.theirs
    assert host(running[1]).tolist() == [1, 1]


def test_ranks_in_different_layers_are_told(group, device):
    on_gpu, x = device == "cuda", tensor(np.ones((2, 1)))
    group.brings(on_gpu, [7, 2], [0.0], [1.0])
    with raises(DistributedError, "expected all 2 ranks in the same layer"):
        taken(x, None, None, (None, None), group, Meeting())
    whole = Whole(group, Meeting())
    whole.meeting.number, whole.m = 3, 4
    group.brings(on_gpu, [4], [0.0], [0.0])
    with raises(DistributedError, "expected all 2 ranks in the same layer"):
        whole.shares(x._array[0], x._array[1])
