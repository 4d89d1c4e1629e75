"""Between GPUs: NCCL and the buckets that run beside a backward pass, over the stand-in for CuPy.

``programs/nccl.py`` is run once, on two ranks; each test looks at one thing of what it told.
Nothing of this says how a GPU does it, or how fast.
"""

import json
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from cuda_stand_in import cuda_backend
from cupy_stand_in import nccl
from distributed import harness

from minires.device import cupy
from minires.distributed.group import Group
from minires.distributed.nccl import Communicator, Place, carrier, check_places
from minires.errors import DistributedError

TESTS = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def told():
    return json.loads(harness.script(2, Path("nccl.py"), PYTHONPATH=TESTS).passed())


def test_operations_give_what_mpi_gives_on_the_cpu(told):
    """Sums, products, greatest and least of all dtypes, gathering, sending; in any memory order."""
    first, second = told["operations"]
    assert len(first) == len(second) > 20
    assert all(first + second)


def test_pytorchs_functions_take_tensors_of_gpus(told):
    (values, apart, mixed), other = told["public"]
    x, mean, some, *parts, both, sent = values
    assert values[1:] == other[0][1:]
    assert [x, other[0][0]] == [[[1.0, 1.0], [2.0, 6.0]]] * 2
    assert (mean, some, sent) == ([1.0, 0.5], [True, False], [1.0, 1.0])
    assert parts == [[0.0, 0.0], [1.0, 1.0]]
    assert both == [0.0, 0.0, 1.0, 1.0]
    text = "all_reduce: expected the same device on all ranks, got cuda on rank 0 and cpu on rank 1"
    assert apart == f"DistributedError: {text}"
    assert mixed == (
        "ArgumentError: all_gather_into_tensor: expected output_tensor on cpu, got HERE"
    )


def test_what_is_packed_is_sent_and_what_was_sent_is_read(told):
    """On a stream of the user's own, whose work is done late: without an event between it and
    NCCL's the operation would read memory too early, and so would what follows. And the host waits
    for neither: the operation was launched, and not done, when it went on."""
    assert told["streams"] == [[[30.0] * 4, 1]] * 2


def test_training_on_gpus_is_training_on_cpus(told):
    assert max(told["trained"]) < 1e-14
    assert max(told["accumulated"]) < 1e-14
    assert max(told["norm"]) < 1e-13
    plain, captured = told["fitted"]
    assert max(*plain, *captured) < 1e-13


def test_buckets_start_while_the_pass_goes_on(told):
    """None before the last layer's gradients, two before the first layer's, all in the end."""
    assert told["overlap"] == [[[0, 2], ["allReduce"] * 3]] * 2
    assert told["started"] == [[0, 3]] * 2  # when learning is over; with and without listening


def test_overlapped_and_captured_steps_have_the_bits_of_plain_ones(told):
    assert told["overlapped"] == [True, True]
    assert told["captured"] == [True, True]
    assert told["recordings"] == [["1)", "1)"]] * 2


def test_gradients_that_are_missing_on_a_rank_or_on_all(told):
    assert told["missing"] == [[[0.5, 0.5], [0.5, 0.5], None]] * 2


def test_a_pass_after_one_that_failed_begins_anew(told):
    assert told["failed"] == [[True, True]] * 2


def test_a_state_is_sent_in_the_memory_of_gpus(told):
    assert told["broadcast"] == [[[[2.0, 2.0]] * 3, [8.0, 8.0]]] * 2


def test_what_nccl_cannot_do_is_refused(told):
    numbers = "DTypeError: distributed reduce: expected numbers that NCCL can add up, got"
    other = "DistributedError: distributed: expected arrays on OWN, the GPU of this rank, got OTHER"
    assert told["wrong"] == [[f"{numbers} int16 (sum)", f"{numbers} complex64 (max)", other]] * 2


def test_an_error_of_nccl_is_told(told):
    expected = (
        "DistributedError: distributed: expected NCCL to work between all ranks, got NCCL_ERROR_2: "
        "planted. NCCL_DEBUG=INFO in the environment says more."
    )
    assert told["nccl fails"] == [expected] * 2


class Never:
    """The event of an operation in which a rank that failed does not take part."""

    done = False


class Aborted:
    def __init__(self):
        self.count = 0

    def abort(self):
        self.count += 1


def test_at_the_end_nobody_waits_for_ever_for_a_rank_that_failed(told, monkeypatch):
    assert told["left"] == [[], []]  # where all went well nothing is aborted
    monkeypatch.setattr("minires.distributed.nccl.GRACE", 0.05)
    communicator = Communicator(Four())
    communicator._communicator, communicator._running = Aborted(), [(Never(), ())]
    communicator._leave()
    assert communicator._communicator.count == 1


# -- where ranks are


def places(*gpus, seen=2, host="a"):
    return [Place(host, f"0000:{gpu}", seen, f"cuda:{gpu}") for gpu in gpus]


SHARED = "NCCL cannot share a GPU: start fewer, or on more machines."
OWN = "Move each network to its own: minires.distributed.get_local_rank() is its number."


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (
            places(0, 1, 0, 1),
            f"at most 2 ranks on this node, got 4 (ranks 0 and 2 both have cuda:0 of a). {SHARED}",
        ),
        (
            places(0, 0, seen=1),
            f"at most 1 ranks on this node, got 2 (ranks 0 and 1 both have cuda:0 of a). {SHARED}",
        ),
        (  # each sees one GPU alone, by CUDA_VISIBLE_DEVICES
            places(0, 1, 1, seen=1),
            f"at most 2 ranks on this node, got 3 (ranks 1 and 2 both have cuda:1 of a). {SHARED}",
        ),
        (
            [*places(0, 1), *places(1, 1, host="b")],
            "a GPU of its own for each rank, got one for two (ranks 2 and 3 both have cuda:1 of "
            f"b). {OWN}",
        ),
    ],
)
def test_ranks_that_share_a_gpu_are_named(found, text):
    with pytest.raises(DistributedError) as caught:
        check_places(found)
    assert str(caught.value) == f"distributed: expected {text}"


def test_each_rank_with_a_gpu_of_its_own_is_right():
    check_places([*places(0, 1), *places(0, 1, host="b"), *places(3, 5, seen=1, host="c")])


class Four(Group):
    """Four ranks, all where this one is; none of them ever comes to NCCL."""

    size = local_size = 4

    def gather_objects(self, value):
        return [value] * 4


def test_more_ranks_than_gpus_are_refused_before_nccl_is_asked(monkeypatch):
    monkeypatch.setattr(nccl, "get_unique_id", lambda: pytest.fail("asked"))
    with cuda_backend():
        words = r"at most 2 ranks on this node, got 4 \(ranks 0 and 1 both have cuda:0"
        with pytest.raises(DistributedError, match=words):
            Communicator(Four()).reduce(cupy().zeros(2))


def test_a_missing_nccl_is_named_with_the_package_to_install(monkeypatch):
    monkeypatch.setattr(nccl, "available", False)
    with cuda_backend():
        text = "distributed: expected NCCL, for arrays on GPUs, got none. "
        text += "pip install nvidia-nccl-cu13."
        with pytest.raises(DistributedError) as caught:
            Communicator(Four()).gather(cupy().zeros(2))
    assert str(caught.value) == text


def test_arrays_of_the_cpu_are_carried_by_the_group_itself():
    group = Four()
    assert carrier(group, np.zeros(2)) is group
    with cuda_backend():
        assert isinstance(carrier(group, cupy().zeros(2)), Communicator)


def test_the_stand_in_has_the_names_of_cupy_and_no_others():
    pytest.importorskip("cupy")
    real = import_module("cupy.cuda.nccl")
    if not real.available:
        pytest.skip("CuPy finds no NCCL")
    names = [name for name in vars(nccl) if name.startswith("NCCL_")]
    for name in (*names, "get_unique_id", "NcclError"):
        assert hasattr(real, name)
    for name in vars(nccl.NcclCommunicator):
        assert name.startswith("_") or hasattr(real.NcclCommunicator, name)
