"""Memory that is used again: never while anyone looks at it, and never more than is needed."""

from __future__ import annotations

import gc
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from harness import raises

import minires as mr
from minires import nn, optim
from minires.kernels.numba import allocator
from minires.models import BasicBlock

MEGA = (512, 512)  # float32: one MiB


@pytest.fixture(autouse=True)
def _nothing_idle():
    gc.collect()
    allocator.release()


def address(array):
    return array.__array_interface__["data"][0]


def test_it_is_an_array_like_any_other():
    for shape, dtype in (((3, 100, 50), "float32"), ((70000,), "int64"), ((0, 4), "float64")):
        array = allocator.allocate(shape, dtype)
        assert type(array) is np.ndarray
        assert (array.shape, array.dtype) == (shape, np.dtype(dtype))
        assert array.flags.c_contiguous
        assert array.flags.writeable
        assert address(array) % array.itemsize == 0
        array[...] = 1
        assert array.sum() == array.size


def test_memory_is_used_again():
    first = allocator.allocate(MEGA, "float32")
    place = address(first)
    del first
    assert address(allocator.allocate(MEGA, "float32")) == place
    assert (
        address(allocator.allocate((256, 512), "float64")) == place
    )  # another shape, as many bytes
    assert address(allocator.allocate((500, 512), "float32")) == place  # or nearly as many


def test_two_arrays_in_use_share_nothing():
    arrays = [allocator.allocate(MEGA, "float32") for _ in range(5)]
    for number, array in enumerate(arrays):
        array.fill(number)
    assert [array.max() for array in arrays] == [array.min() for array in arrays]
    assert [array.max() for array in arrays] == [0, 1, 2, 3, 4]


@pytest.mark.slow
@pytest.mark.parametrize(
    "look",
    [
        lambda a: a[3:5],
        lambda a: a.T[::2],
        lambda a: a.reshape(-1)[7:].view("int32"),
        lambda a: memoryview(a),
        lambda a: mr.from_numpy(a).reshape(-1),
        lambda a: mr.from_numpy(a).numpy(),
    ],
    ids=["slice", "transposed", "other dtype", "memoryview", "tensor", "numpy of tensor"],
)
def test_a_view_keeps_it_alive(look):
    array = allocator.allocate(MEGA, "float32")
    array.fill(5)
    place, view = address(array), look(array)
    before = allocator.in_use()
    del array
    assert allocator.in_use() == before
    other = allocator.allocate(MEGA, "float32")
    assert address(other) != place
    other.fill(6)
    del view
    assert allocator.in_use() < before + other.nbytes
    assert address(allocator.allocate(MEGA, "float32")) == place


def test_small_arrays_are_numpys():
    before = allocator.in_use()
    array = allocator.allocate((100,), "float32")
    assert allocator.in_use() == before
    assert array.flags.owndata


def test_sizes_are_rounded_by_an_eighth_at_most():
    sizes = np.unique(np.geomspace(2**15, 2**34, 999).astype(int)).tolist()
    rounded = [allocator.size_class(size) for size in sizes]
    assert all(size <= large <= 9 / 8 * size for size, large in zip(sizes, rounded))
    assert rounded == sorted(rounded)
    assert rounded == [allocator.size_class(large) for large in rounded]


def test_neighbours_begin_at_different_places_of_a_page():
    arrays = [allocator.allocate(MEGA, "float32") for _ in range(13)]
    offsets = [address(array) % allocator.PAGE for array in arrays]
    assert len(set(offsets)) == 13
    assert all(offset % allocator.LINE == 0 for offset in offsets)


def test_vectors_never_reach_over_two_lines_of_the_cache():
    """Each such load or store of a kernel would take twice as long."""
    for size in (600, 5000, 5001, 100_000):
        for dtype in ("float32", "float64"):
            assert address(allocator.allocate((size,), dtype)) % allocator.LINE == 0
            memory = allocator.workspace(size, np.dtype(dtype))
            assert memory.size >= size
            assert address(memory) % allocator.LINE == 0
            assert memory.flags.c_contiguous
    allocator.release()


def test_what_is_held_does_not_grow():
    most = allocator._most
    rng = np.random.default_rng(0)
    before = allocator.in_use()
    for _ in range(400):  # 400 different sizes, one or two at a time
        first = allocator.allocate((int(rng.integers(10**4, 10**7)),), "float32")
        second = allocator.allocate((int(rng.integers(10**4, 10**7)),), "float32")
        del first, second
        assert allocator._held <= max(most, before + 2 * 45_000_000) * 9 / 8 + allocator.SPARE
    assert allocator.in_use() == before
    allocator.release()
    assert allocator._held == before


def test_out_of_memory_says_how_much_was_asked():
    in_use = allocator.allocate(MEGA, "float32")
    with raises(MemoryError, "room for an array of 1048576.00 GiB", "using 0.", "smaller batch"):
        allocator.allocate((1 << 48,), "float32")
    assert in_use.nbytes <= allocator.in_use()
    with raises(MemoryError, f"room for an array of {2.0**36:.2f} GiB"):
        allocator.allocate((1 << 64,), "float32")  # more than there are addresses


def test_many_threads_at_once():
    def work(number):
        for _ in range(50):
            array = allocator.allocate((5000 + 100 * (number % 3),), "float32")
            array.fill(number)
            if not (array == number).all():
                return False
        return True

    before = allocator.in_use()
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(40)))
    assert allocator.in_use() == before


def test_arrays_in_garbage_cycles_come_back(python):
    """The collector may run, and end an array, at any line: in the middle of this module too."""
    code = (
        "import faulthandler, gc\n"
        "faulthandler.dump_traceback_later(20, exit=True)\n"  # a line that hangs is shown
        "from minires.kernels.numba import allocator\n"
        "allocator.SPARE = 0\n"  # idle memory is freed all the time
        "for threshold in range(1, 40):\n"
        "    gc.set_threshold(threshold, 1, 1)\n"
        "    for size in range(5000, 9000, 37):\n"
        "        cycle = [allocator.allocate((size + 300 * threshold,), 'float32')]\n"
        "        cycle.append(cycle)\n"
        "        del cycle\n"
        "gc.collect()\n"
        "print(allocator.in_use())\n"
    )
    assert python.run(code).stdout.strip() == "0"


def test_code_that_runs_when_objects_die_gets_memory_of_its_own(python):
    """The collector may run anybody's code in the middle of this module."""
    code = (
        "import faulthandler, gc, numpy as np\n"
        "faulthandler.dump_traceback_later(20, exit=True)\n"
        "from minires.kernels.numba import allocator\n"
        "held = []\n"
        "def take():\n"
        "    held.append(allocator.allocate((5000 + 600 * (len(held) % 50),), 'float32'))\n"
        "class Last:\n"
        "    def __del__(self):\n"
        "        take()\n"
        "for threshold in range(1, 40):\n"
        "    gc.set_threshold(threshold, 1, 1)\n"
        "    for turn in range(30):\n"
        "        last = Last()\n"
        "        last.me = last\n"
        "        del last\n"
        "        take()\n"
        "    places = {a.__array_interface__['data'][0] for a in held}\n"
        "    assert len(places) == len(held)\n"
        "    held = held[::2]\n"
        "print(len(held) > 0)\n"
    )
    assert python.run(code).stdout.strip() == "True"


@pytest.mark.slow
def test_a_tracer_does_not_make_used_memory_look_idle(python):
    """A debugger or a coverage tool that looks at a frame's variables holds references to them."""
    code = (
        "import sys\n"
        "def look(frame, event, arg):\n"
        "    frame.f_locals\n"
        "    return look\n"
        "sys.settrace(look)\n"
        "from minires.kernels.numba import allocator\n"
        "first = [allocator.allocate((5000,), 'float32') for _ in range(3)]\n"
        "sys.settrace(None)\n"
        "both = first + [allocator.allocate((5000,), 'float32') for _ in range(3)]\n"
        "print(len({a.__array_interface__['data'][0] for a in both}))\n"
        "del first, both\n"
        "print(allocator.in_use())\n"
    )
    assert python.run(code).stdout.split() == ["6", "0"]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_fork_beside_a_thread_that_allocates_can_allocate(python):
    code = (
        "import os, signal, threading\n"
        "from minires.kernels.numba import allocator\n"
        "stop = False\n"
        "def work():\n"
        "    held = []\n"
        "    while not stop:\n"
        "        held.append(allocator.allocate((5000,), 'float32'))\n"
        "        del held[100:]\n"
        "thread = threading.Thread(target=work)\n"
        "thread.start()\n"
        "for _ in range(20):\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        signal.alarm(5)\n"
        "        allocator.allocate((5000,), 'float32')\n"
        "        os._exit(0)\n"
        "    assert os.waitpid(child, 0)[1] == 0\n"
        "stop = True\n"
        "thread.join()\n"
        "print('done')\n"
    )
    assert python.run(code).stdout.strip() == "done"


def test_a_request_that_fails_leaves_the_limit_as_it_was():
    before = allocator._most
    with pytest.raises(MemoryError):
        allocator.allocate((1 << 48,), "float32")
    assert allocator._most < 1 << 45
    assert allocator._most >= before


def train(steps=3):
    """Losses and weights of some training steps of a small net."""
    mr.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        BasicBlock(16, 16),
        nn.MaxPool2d(2),
        BasicBlock(16, 32, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )
    optimizer = optim.SGD(net.parameters(), 0.1, momentum=0.9)
    x, labels = mr.randn(16, 3, 18, 18), mr.arange(16) % 10
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = mr.cross_entropy(net(x), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return [losses, *(value.data.copy() for value in net.state_dict().values())]


@pytest.mark.slow
def test_training_reads_nothing_that_was_there_before(monkeypatch):
    """With every buffer full of NaN when it is given out, the same bits come out."""
    expected = train()
    assert np.isfinite(expected[0]).all()
    take, taken = allocator._take, []

    def poisoned(size):
        memory = take(size)
        np.frombuffer(memory, np.uint8).fill(0xFF)  # NaN as a float, -1 as an integer
        taken.append(size)
        return memory

    monkeypatch.setattr(allocator, "_take", poisoned)
    for one, other in zip(expected, train()):
        np.testing.assert_array_equal(one, other)
    assert taken


@pytest.mark.slow
def test_training_does_not_grow():
    train(1)
    before = allocator.in_use()
    gc.collect()
    for _ in range(5):
        train(1)
    gc.collect()
    assert allocator.in_use() <= before


def test_no_python_code_runs_when_a_buffer_dies():
    """An exception in it, as of an interrupt from the keyboard, would be printed and forgotten."""
    array = allocator.allocate(MEGA, "float32")
    calls = []
    sys.setprofile(lambda frame, event, _: calls.append(event) if event == "call" else None)
    try:
        del array
    finally:
        sys.setprofile(None)
    assert calls == []
