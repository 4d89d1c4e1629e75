"""CUDA graphs: what they hold, what they refuse, and memory that is theirs."""

from __future__ import annotations

import numpy as np
import pytest
from cupy_stand_in import streams
from gpu import CUDA, REAL, gpu

import minires as mr
from minires.device import Device, cupy, move
from minires.errors import OutOfMemory
from minires.kernels import cuda as backend
from minires.kernels.cuda.graph import CudaGraph, Refused
from minires.kernels.cuda.pool import MemoryPool, allocate, taking_from, workspace
from minires.ops.relu import kernel_cuda


@pytest.fixture(params=[CUDA])
def xp(request):
    with gpu():
        yield cupy()


def there(values):
    return move(np.asarray(values, "float32"), Device("cuda"))


def rectified(x, y):
    """A segment that fills y = relu(x)."""
    segment = backend.segment("relu_fwd")
    (kernel,) = (k for k in kernel_cuda.instances() if k.name == "relu_fwd<float, 1>")
    arguments = x, np.int32(x.size), y
    kernel.run((1,), arguments)
    segment.add(kernel, (1,), arguments)
    return segment


def test_a_segment_runs_again_on_the_same_memory(xp):
    x, y = there([-1, 2]), there([0, 0])
    segment = rectified(x, y)
    x[...] = there([3, -4])
    segment()
    assert y.get().tolist() == [3, 0]
    ((work, launch),) = segment.one_by_one()
    assert work.name == "relu.relu_fwd"
    assert work.shapes == (("x", (2,)), ("y", (2,)))
    x[...] = there([5, 6])
    launch()
    assert y.get().tolist() == [5, 6]


def test_nothing_runs_while_a_graph_is_captured(xp):
    x, y = there([-1, 2]), there([0, 0])
    segment = rectified(x, y)
    x[...] = there([7, -8])
    graph = CudaGraph([segment], MemoryPool())
    assert y.get().tolist() == [0, 2]
    graph()
    assert y.get().tolist() == [7, 0]
    x[...] = there([-9, 10])
    graph()
    assert y.get().tolist() == [0, 10]


def test_work_of_cupy_and_kernels_are_one_graph(xp):
    x, y, z = there([-1, 2]), there([0, 0]), there([0, 0])
    segment = rectified(x, y)

    def doubled():
        z[...] = y * 2 + x

    doubled()
    graph = CudaGraph([segment, doubled], MemoryPool())
    x[...] = there([3, -4])
    graph()
    assert z.get().tolist() == [9, -4]
    row, last = graph.parts
    assert [work.name for work, _ in row.one_by_one()] == ["relu.relu_fwd"]
    assert last is doubled
    if not REAL:
        assert len(streams.launched) == 1


def test_rows_of_launches_are_joined_and_keep_their_order(xp):
    x, y, z, w = (there([number, -number]) for number in (1, 2, 3, 4))
    graph = CudaGraph([rectified(x, y), rectified(y, z), rectified(z, w)], MemoryPool())
    (row,) = graph.parts
    assert len([*row.one_by_one()]) == 3  # a kernel that is not told how is launched one by one
    x[...] = there([5, -6])
    graph()
    assert w.get().tolist() == [5, 0]


def test_memory_of_a_graph_is_used_by_nobody_else(xp):
    """What is allocated while it is captured is written in every launch, long after it was freed
    in Python."""
    x, y, pool = there(np.arange(64)), there(np.zeros(64)), MemoryPool()

    def work():
        part = x + 1
        part = part * 2
        y[...] = part

    work()
    graph = CudaGraph([work], pool)
    others = [there(np.full(64, number)) for number in range(8)]
    graph()
    assert y.get().tolist() == [2 * (n + 1) for n in range(64)]
    assert all((other.get() == number).all() for number, other in enumerate(others))
    assert pool.nbytes(0) > 0


def refusals(xp, x):
    flags = there([1, 0]) > 0
    return {
        "D2H transfers": lambda: x.get(),
        "disallowed": lambda: x[flags],
        "captur": lambda: xp.argsort(x),
        "cuBLAS": lambda: x @ x,
    }


@pytest.mark.parametrize("words", ["D2H transfers", "disallowed", "captur", "cuBLAS"])
def test_what_a_graph_cannot_hold_is_refused_and_the_next_one_is_made(xp, words, monkeypatch):
    streams, make = [], xp.cuda.Stream
    monkeypatch.setattr(
        xp.cuda, "Stream", lambda **options: streams.append(make(**options)) or streams[-1]
    )
    x, y = there([-1, 2]), there([0, 0])
    work = refusals(xp, x)[words]
    work()
    with pytest.raises(Refused, match=words) as caught:
        CudaGraph([rectified(x, y), work], MemoryPool())
    assert caught.value.node is work
    assert len(streams) == 1
    assert not streams[0].is_capturing()
    x[...] = there([3, 4])
    graph = CudaGraph([rectified(x, y)], MemoryPool())
    x[...] = there([5, -6])
    graph()
    assert y.get().tolist() == [5, 0]


def test_errors_of_the_work_itself_end_the_capture_and_stay_what_they_are(xp):
    def fails():
        raise ZeroDivisionError("one of the work's own")

    with pytest.raises(ZeroDivisionError, match="of the work's own"):
        CudaGraph([fails], MemoryPool())
    assert not xp.cuda.get_current_stream().is_capturing()
    assert (there([1, 2]) * 2).get().tolist() == [2, 4]


# **** pools ****


def test_a_pool_keeps_its_memory_to_itself(xp):
    pool = MemoryPool()
    with taking_from(pool):
        own = allocate((5, 3), "float32")
        with taking_from(None):
            other = allocate((5, 3), "float32")
        again = allocate((5, 3), "float32")
    outside = allocate((5, 3), "float32")
    assert pool.owns(own)
    assert pool.owns(again)
    assert not pool.owns(other)
    assert not pool.owns(outside)
    assert not pool.owns(np.zeros(3))
    at = own.data.ptr
    del own
    with taking_from(pool):
        assert allocate((5, 3), "float32").data.ptr == at
    assert allocate((5, 3), "float32").data.ptr != at


def test_a_pool_inside_of_a_pool(xp):
    outer, inner = MemoryPool(), MemoryPool()
    with taking_from(outer):
        with taking_from(inner), taking_from(None):
            assert not outer.owns(allocate((3,), "float32"))
        assert outer.owns(allocate((3,), "float32"))


def test_workspaces_of_two_streams_are_not_the_same_memory(xp):
    mine = workspace(100, "float32").data.ptr
    with xp.cuda.Stream(non_blocking=True):
        theirs = workspace(100, "float32").data.ptr
        again = workspace(100, "float32").data.ptr
    assert theirs != mine
    assert again == theirs


HELD = (
    r"GiB: arrays 0\.\d\d, idle \d+\.\d\d, graphs 0\.0\d, others \d+\.\d\d, free \d+\.\d\d, total "
    r"\d+\.\d\d"
)


def test_out_of_memory_says_what_was_asked_and_what_is_held(xp):
    held = allocate((1 << 20,), "float32")
    pool = MemoryPool()
    with taking_from(pool):
        allocate((1 << 19,), "float32")
    pattern = (
        r"allocate: expected room on cuda:0 for 4194304\.00 GiB, an array \(1048576, 1073741824\) "
        rf"of float32, got none \({HELD}\)\. Use a smaller batch or smaller images; nvidia-smi "
        r"lists other processes\."
    )
    with pytest.raises(OutOfMemory, match=pattern) as caught:
        allocate((1 << 20, 1 << 30), "float32")
    assert isinstance(caught.value, MemoryError)
    with taking_from(pool), pytest.raises(OutOfMemory, match=r"for 4194304\.00 GiB"):
        allocate((1 << 20, 1 << 30), "float32")
    del held
    backend.release()
    assert allocate((1 << 20,), "float32").size == 1 << 20


@pytest.mark.skipif(REAL, reason="takes all memory of the GPU")
def test_what_cupy_finds_no_room_for_is_told_in_the_same_words(xp):
    xp.get_default_memory_pool().set_limit(1 << 20)
    x = mr.ones(1 << 17, device="cuda")
    pattern = (
        r"Mul: expected room on cuda:0 for what it computes: Out of memory allocating 524,288 "
        rf"bytes \(allocated so far: .*\), got none \({HELD}\)\. Use a smaller batch"
    )
    with pytest.raises(OutOfMemory, match=pattern):
        [x * k for k in range(9)]
    xp.get_default_memory_pool().set_limit(0)
    assert (x[:3] * 2).tolist() == [2, 2, 2]
