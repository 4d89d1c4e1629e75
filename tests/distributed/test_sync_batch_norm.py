"""Batch norm over the batches of several ranks, held against one process that has all of them.

``programs/sync_batch_norm.py`` is run once, on three ranks; each test looks at one thing of what it
told.
"""

import json
from pathlib import Path

import pytest
from distributed import harness


@pytest.fixture(scope="module")
def told():
    """For each name a list of what the ranks said."""
    return json.loads(harness.script(3, Path("sync_batch_norm.py"), timeout=100).passed())


NETS = [
    "maps", "one channel", "one pixel", "many channels", "rows", "lines", "flipped", "turned",
    "cumulative", "not affine", "not tracking", "far from zero", "chain", "residual", "shortcut",
    "pre-activation", "network",
]  # fmt: skip


@pytest.mark.parametrize("fusion", ["", " unfused"], ids=["fused", "unfused"])
@pytest.mark.parametrize("name", NETS)
def test_ranks_compute_what_one_process_does(name, fusion, told):
    for step in range(2):
        for rank in told[f"{name} {step}{fusion}"]:
            assert max(rank["y"], rank["gx"], rank["gradients"], rank["buffers"]) < 1e-12, rank


def test_all_ranks_have_the_same_bits(told):
    for name in NETS:
        assert all(rank["bits"] for rank in told[f"{name} 1"] + told[f"{name} 1 unfused"])


@pytest.mark.parametrize(("name", "limit"), [("volumes", 1e-12), ("float32", 1e-6)])
def test_volumes_and_float32(name, limit, told):
    for rank in told[name]:
        assert max(rank["y"], rank["gx"], rank["gradients"], rank["buffers"]) < limit, rank
        assert rank["bits"]


def test_training_mode_without_gradients(told):
    assert all(max(pair) < 1e-12 for pair in told["no_grad"])


def test_in_evaluation_and_alone_it_is_batch_norm_to_the_bit(told):
    assert all(told["alone"])


def test_the_same_kernels_run_as_for_batch_norm(told):
    """Nothing of the fusion is lost: convolutions take the statistics, and read what they need."""
    for own, plain in told["kernels"]:
        assert own == plain
        assert ["relu.fwd", 1] not in own
        assert sum(calls for name, calls in own if name == "batch_norm.affine") == 7


ERRORS = {
    "empty": "ShapeError: SyncBatchNorm: expected one sample or more on each rank, got none on "
    "rank 1. Use a larger batch, or drop_last=True in the loader.",
    "capture": "CaptureError: SyncBatchNorm: expected steps outside of mr.capture in a group of "
    "several processes, got one that is being recorded. fit(capture=True) trains networks with "
    "SyncBatchNorm uncaptured.",
    "create_graph True": "GraphError: SyncBatchNorm: expected a backward pass without create_graph "
    "in a group of several processes, got create_graph=True. Take second derivatives in one "
    "process, or in eval().",
    "apart forward": "DistributedError: SyncBatchNorm: expected all {n} ranks in the same layer, "
    "got ranks in different ones. In training all ranks run the same layers; stochastic depth "
    "leaves some out by chance.",
}
ERRORS |= {
    "create_graph False": ERRORS["create_graph True"],
    "apart backward": ERRORS["apart forward"],
}


@pytest.mark.parametrize("name", ERRORS)
def test_what_cannot_be_is_said_on_all_ranks(name, told):
    assert told[name] == [ERRORS[name].format(n=len(told[name]))] * len(told[name])


def test_a_refused_batch_moves_no_statistics(told):
    assert all(rank == [[1, 1, 1], 0] for rank in told["unmoved"])
