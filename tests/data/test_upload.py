"""Batches on their way to a GPU: the same values, and no memory written while it is still read.

The stand-in does all work at once, so that a missing wait would not show in values. A model of
streams and events shows it: every piece of work knows what comes before it (a vector clock), and
two that touch the same memory, of which one writes, must not be unordered.
"""

from __future__ import annotations

import contextlib
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from cuda_stand_in import cuda_backend
from cupy_stand_in import Array
from cupy_stand_in import cuda as cupy_cuda

import minires as mr
from minires import data
from minires.data import upload
from minires.data.upload import SLOTS, Upload
from minires.device import Device
from minires.errors import ArgumentError, DeviceError, DTypeError, ShapeError

GPU = Device("cuda", 0)


@pytest.fixture(autouse=True)
def gpus():
    with cuda_backend() as backend:
        yield backend


# **** values ****


def dimmed(x, draws):
    """A transform that knows NumPy alone."""
    return np.multiply(x, draws.uniform()[:, None, None, None].astype("f4"))


TRANSFORMS = {
    "none": lambda images: None,
    "normalise": lambda images: data.Normalize(images.mean(), images.std()),
    "augment": lambda images: data.Compose(
        [
            data.Normalize(images.mean(), images.std()),
            data.RandomCrop(padding=2),
            data.RandomHorizontalFlip(),
        ]
    ),
    "on the host": lambda images: (
        lambda x, draws: x * draws.uniform()[:, None, None, None].astype("f4")
    ),
    "half on the host": lambda images: data.Compose(
        [data.RandomHorizontalFlip(), lambda x, draws: np.float32(2) * x]
    ),
}


def images(n=23, c=3):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (n, 6, 5, c)).astype(np.uint8)
    return data.ImageDataset("noise", "train", pixels, rng.integers(0, 4, n), tuple("abcd"), 255)


def both(dataset, **options):
    """The batches of two epochs on the CPU and on a GPU."""
    found = []
    for device in ("cpu", "cuda:1"):
        loader = data.DataLoader(dataset, device=device, **options)
        found.append([batch for _ in range(2) for batch in loader])
    return found


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("part", [False, True])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_images_are_those_on_the_cpu(name, part, workers):
    dataset = images()
    transform = TRANSFORMS[name](dataset)
    if part:
        dataset = data.Subset(dataset, [*range(20, 3, -1)])
    options = {"batch_size": 4, "shuffle": True, "seed": 3, "num_workers": workers}
    here, there = both(dataset, transform=transform, **options)
    assert len(here) == len(there)
    for (x, y), (gx, gy) in zip(here, there):
        assert gx.device == gy.device == Device("cuda", 1)
        assert (gx.shape, gx.dtype, gy.dtype) == (x.shape, x.dtype, y.dtype)
        assert gx._array.transpose(0, 2, 3, 1).flags.c_contiguous
        assert np.array_equal(gx.cpu().numpy(), x.numpy())
        assert np.array_equal(gy.cpu().numpy(), y.numpy())


def test_bytes_are_moved_where_the_gpu_can_do_the_rest(monkeypatch):
    sent = []
    send = Upload.send
    monkeypatch.setattr(
        Upload, "send", lambda self, arrays: sent.append(arrays) or send(self, arrays)
    )
    for transform, dtype in ((data.RandomCrop(1), "uint8"), (lambda x, draws: x, "float32")):
        sent.clear()
        list(data.DataLoader(images(), 8, transform=transform, device="cuda"))
        assert [arrays[0].dtype for arrays in sent] == [dtype] * 3
        assert [arrays[0].shape for arrays in sent] == [(8, 6, 5, 3)] * 2 + [(7, 6, 5, 3)]


class Samples(data.Dataset):
    """Samples of other kinds: vectors, dicts, text."""

    def __init__(self, kind):
        self.kind = kind

    def __len__(self):
        return 7

    def __getitem__(self, k):
        x = np.full(3, k, np.float32)
        return {
            "pair": (x, k),
            "alone": x,
            "dict": {"x": x, "name": f"n{k}", "more": (x * 2, k % 2 == 0)},
            "text": f"t{k}",
            "three": [x.astype("f8"), k, x.reshape(3, 1)],
        }[self.kind]


def flat(batch):
    if isinstance(batch, dict):
        return [leaf for value in batch.values() for leaf in flat(value)]
    if isinstance(batch, tuple):
        return [leaf for value in batch for leaf in flat(value)]
    return [batch]


@pytest.mark.parametrize("kind", ["pair", "alone", "dict", "text", "three"])
def test_other_samples(kind):
    here, there = both(Samples(kind), batch_size=3)
    for batch, moved in zip(here, there, strict=True):
        assert type(batch) is type(moved)
        for a, b in zip(flat(batch), flat(moved), strict=True):
            if isinstance(a, mr.Tensor):
                assert b.device == Device("cuda", 1)
                assert a.dtype == b.dtype
                assert np.array_equal(a.numpy(), b.cpu().numpy())
            else:
                assert a == b


def test_batches_that_are_kept_stay_what_they_are():
    loader = data.DataLoader(images(40), 2, device="cuda")
    kept = [(x, x.tolist()) for x, _ in loader]
    assert len(kept) > 3 * SLOTS
    assert all(x.tolist() == values for x, values in kept)


def test_larger_batches_after_small_ones():
    ring = Upload(GPU)
    rng = np.random.default_rng(0)
    for size in (1, 5, 0, 300, 2, 3000, 7, 7, 7):
        x, y = rng.standard_normal((size, 3)), rng.integers(0, 9, size)
        sent = ring.send([x, y])
        expected = x.copy(), y.copy()
        x[...] = 0
        found = ring.receive(sent, lambda *arrays: [array.copy() for array in arrays])
        assert all(np.array_equal(a.get(), b) for a, b in zip(found, expected))
    ring.close()


class Failing(Samples):
    def __getitem__(self, k):
        if k == 5:
            raise OSError("the disk is gone")
        return super().__getitem__(k)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_an_error_comes_after_the_batches_before_it(device, workers):
    batches = iter(data.DataLoader(Failing("pair"), 1, device=device, num_workers=workers))
    assert [float(next(batches)[0][0, 0]) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)


def test_an_iteration_that_is_abandoned_waits_for_its_copies(monkeypatch):
    closed = []
    monkeypatch.setattr(Upload, "close", lambda self: closed.append(self))
    batches = iter(data.DataLoader(images(), 2, device="cuda"))
    next(batches)
    batches.close()
    assert len(closed) == 1


def test_the_compute_stream_may_be_another_one():
    stream = cupy_cuda.Stream(non_blocking=True)
    with stream:
        (x, _), *_ = data.DataLoader(images(), 4, device="cuda")
    assert isinstance(x._array, Array)


def test_bad_arguments():
    with pytest.raises(ArgumentError, match="unknown device 'gpu'"):
        data.DataLoader(images(), device="gpu")
    with pytest.raises(DeviceError, match="expected a GPU from cuda:0 to cuda:1, got cuda:7"):
        data.DataLoader(images(), device="cuda:7")
    assert data.DataLoader(images(), pin_memory=True, device="cuda").device == GPU
    assert repr(data.DataLoader(images(), device="cuda")).endswith("prefetch=2, device='cuda:0')")
    assert repr(data.DataLoader(images())).endswith("prefetch=2)")

    def of_kind(result):
        transform = lambda x, draws: result(x)  # noqa: E731
        transform.on_device = True
        return data.DataLoader(images(), 4, transform=transform, device="cuda")

    for result, error, got in (
        (lambda x: x.get(), ArgumentError, "got ndarray"),
        (lambda x: x.astype("f8"), DTypeError, "got float64"),
        (lambda x: x[:2], ShapeError, r"got shape \(2, 6, 5, 3\)"),
    ):
        with pytest.raises(error, match=got):
            next(iter(of_kind(result)))


# **** the order of work ****


class Race(Exception):
    """Two pieces of work on the same memory, of which none waits for the other."""


class Clocks:
    """A host, streams and events. ``skip`` names a kind of wait that is left out."""

    def __init__(self, skip=None):
        self.skip = skip
        self.host, self.numbers = {}, itertools.count()
        self.last = {}  # by memory: the last write, and the reads since
        self.compute = Stream(self)

    def tick(self, actor, clock, *others):
        """The next piece of work of an actor, after all that these clocks know."""
        for other in others:
            for name, count in other.items():
                clock[name] = max(clock.get(name, 0), count)
        clock[actor] = clock.get(actor, 0) + 1
        return actor, clock[actor]

    def touch(self, memory, work, clock, writes):
        write, reads = self.last.get(memory, (("host", 0), []))
        for actor, count in [write, *reads] if writes else [write]:
            if clock.get(actor, 0) < count:
                raise Race(f"{memory}: {work} does not wait for {actor, count}")
        self.last[memory] = (work, []) if writes else (write, [*reads, work])


class Stream:
    def __init__(self, clocks):
        self.clocks, self.clock, self.name = clocks, {}, f"stream {next(clocks.numbers)}"

    def work(self):
        """A piece of work, launched by the host."""
        return self.clocks.tick(self.name, self.clock, self.clocks.host)

    def wait_event(self, event):
        if self.clocks.skip != ("device", self.name):
            self.clocks.tick(self.name, self.clock, event.clock)

    def synchronize(self):
        if self.clocks.skip != "the end":
            self.clocks.tick("host", self.clocks.host, self.clock)


class Event:
    def __init__(self, clocks):
        self.clocks, self.clock = clocks, {}

    def record(self, stream):
        stream.work()
        self.clock = dict(stream.clock)

    def synchronize(self):
        if self.clocks.skip != "host":
            self.clocks.tick("host", self.clocks.host, self.clock)


class Bytes:
    """Memory of the host or of the device; all views of it are the same memory here."""

    def __init__(self, clocks, name, size):
        self.clocks, self.name, self.size = clocks, name, size

    def __getitem__(self, place):
        return self

    view = reshape = lambda self, *args: self

    def __setitem__(self, place, array):
        work = self.clocks.tick("host", self.clocks.host)
        self.clocks.touch(self.name, work, self.clocks.host, writes=True)

    def set(self, pinned, stream):
        work = stream.work()
        self.clocks.touch(pinned.name, work, stream.clock, writes=False)
        self.clocks.touch(self.name, work, stream.clock, writes=True)


def drive(clocks, monkeypatch, batches=3 * SLOTS, in_use=False):
    """A loader's work: each batch is sent before the one before it is received."""
    names = itertools.count()

    def empty(size, dtype):
        made = Bytes(clocks, f"memory {next(names)}", size)
        if in_use:  # work that was queued on the compute stream before
            clocks.touch(made.name, clocks.compute.work(), clocks.compute.clock, writes=True)
        return made

    fake = SimpleNamespace(
        cuda=SimpleNamespace(
            Stream=lambda non_blocking: Stream(clocks),
            Event=lambda disable_timing: Event(clocks),
            get_current_stream=lambda: clocks.compute,
        ),
        empty=empty,
    )
    monkeypatch.setattr(upload, "cupy", lambda: fake)
    monkeypatch.setattr(upload, "on", lambda device: contextlib.nullcontext())
    pinned = SimpleNamespace(
        empty_pinned=lambda size, dtype: Bytes(clocks, f"pinned {next(names)}", size)
    )
    monkeypatch.setattr(upload, "import_module", lambda name: pinned)

    def read(array):
        clocks.touch(array.name, clocks.compute.work(), clocks.compute.clock, writes=False)

    ring, ahead = Upload(GPU), []
    for k in range(batches):
        ahead.append(ring.send([np.zeros(4 + 300 * (k == 5))]))
        if len(ahead) == 2:
            ring.receive(ahead.pop(0), read)
    ring.receive(ahead.pop(), read)
    ring.close()
    for name in [*clocks.last]:  # what was the ring's may be another's now: CuPy's pools give
        if name.startswith("pinned"):  # pinned memory to the host,
            clocks.touch(name, clocks.tick("host", clocks.host), clocks.host, writes=True)
        else:  # and memory of the device to the stream that was current when it was allocated
            clocks.touch(name, clocks.compute.work(), clocks.compute.clock, writes=True)


def test_nothing_is_written_that_is_still_read(monkeypatch):
    drive(Clocks(), monkeypatch, in_use=True)


@pytest.mark.parametrize(
    "skip", ["host", ("device", "stream 0"), ("device", "stream 1"), "the end"]
)
def test_every_wait_is_needed(monkeypatch, skip):
    with pytest.raises(Race):
        drive(Clocks(skip), monkeypatch, in_use=True)
