"""``minires.cuda``: what there is, what it holds, and what is said where there is no GPU."""

from __future__ import annotations

import re

import numpy as np
import pytest
from cuda_stand_in import cuda_backend
from gpu import CUDA, REAL, gpu

import minires as mr
from minires import cuda, data, nn
from minires.device import cupy
from minires.errors import ArgumentError, DeviceError

MEBI = 2**20


@pytest.fixture
def gpus():
    with cuda_backend() as backend:
        yield backend


def test_what_there_is(gpus):
    assert cuda.is_available()
    assert cuda.device_count() == 2
    assert cuda.current_device() == 0
    for device in (None, 0, 1, "cuda", "cuda:1", mr.device("cuda", 1)):
        assert cuda.get_device_name(device) == "a stand-in for a GPU"
        assert cuda.get_device_capability(device) == (9, 0)
        assert cuda.synchronize(device) is None


@pytest.mark.skipif(cuda.is_available(), reason="is about machines without a GPU")
def test_without_a_gpu():
    assert not cuda.is_available()
    assert cuda.device_count() == 0
    assert cuda.empty_cache() is None
    assert cuda.current_device() == 0
    for act in (
        cuda.get_device_name,
        cuda.get_device_capability,
        cuda.synchronize,
        cuda.memory_allocated,
        cuda.memory_reserved,
        cuda.mem_get_info,
        cuda.memory_summary,
        lambda: cuda.set_device(0),
        lambda: cuda.device(0),
    ):
        with pytest.raises(DeviceError, match="expected CuPy for 'cuda', got none installed"):
            act()


def test_who_holds_the_memory(gpus):
    cuda.empty_cache()
    used, held = cuda.memory_allocated(), cuda.memory_reserved()
    x = mr.zeros(MEBI, device="cuda")  # of 4 bytes
    free, total = cuda.mem_get_info()
    assert cuda.memory_allocated() - used == 4 * MEBI
    assert cuda.memory_reserved() - held == 4 * MEBI
    assert 0 < free < total
    assert cuda.memory_allocated(1) < MEBI, "which the other GPU has nothing of"
    del x
    assert cuda.memory_allocated() == used
    assert cuda.memory_reserved() - held == 4 * MEBI, "kept for the next array"
    cuda.empty_cache()
    assert cuda.memory_reserved() == held


def test_the_summary_adds_up(gpus):
    cuda.empty_cache()
    x = mr.zeros(MEBI, device="cuda:1")
    mr.zeros(2 * MEBI, device="cuda:1")
    text = cuda.memory_summary("cuda:1")
    head, *lines = text.split("\n")
    assert head == "memory of cuda:1 (a stand-in for a GPU)"
    found = {
        line.split()[0]: float(re.search(r"([\d,.]+) MiB", line)[1].replace(",", ""))
        for line in lines
    }
    assert list(found) == ["arrays", "reserved", "others", "free", "in"]
    assert found["arrays"] == x.nbytes / MEBI == 4
    assert found["reserved"] == 8
    *parts, whole = found.values()
    assert sum(parts) == pytest.approx(whole, abs=0.3)
    assert "empty_cache() gives it back" in text
    assert "empty_cache" not in cuda.memory_summary("cuda:1", abbreviated=True)


@pytest.mark.parametrize("device", [CUDA])
def test_a_loader_copies_while_the_gpu_computes(device):
    """Many small batches, each worked on while the next one is copied; all are kept."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (200, 8, 8, 3)).astype(np.uint8)
    images = data.ImageDataset("noise", "train", pixels, np.arange(200) % 5, tuple("abcde"), 255)
    transform = data.Compose(
        [
            data.Normalize(images.mean(), images.std()),
            data.RandomCrop(padding=2),
            data.RandomHorizontalFlip(),
        ]
    )
    options = {"shuffle": True, "transform": transform, "num_workers": 2}
    with gpu():
        kept = []
        for x, y in data.DataLoader(images, 8, device=device, **options):
            kept.append((x, y, (x * 2 - 1).relu() + y.float().reshape(-1, 1, 1, 1)))
        for (x, y), (gx, gy, gz) in zip(data.DataLoader(images, 8, **options), kept, strict=True):
            np.testing.assert_allclose(gx.cpu().numpy(), x.numpy(), rtol=1e-6, atol=1e-6)
            assert np.array_equal(gy.cpu().numpy(), y.numpy())
            z = (x * 2 - 1).relu() + y.float().reshape(-1, 1, 1, 1)
            np.testing.assert_allclose(gz.cpu().numpy(), z.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("device", [CUDA])
def test_memory_and_names(device):
    with gpu():
        before = cuda.memory_allocated(device)
        x = mr.zeros(MEBI, device=device)
        assert cuda.memory_allocated(device) - before >= 4 * MEBI
        assert cuda.get_device_capability(device) >= (8, 0)
        assert f"memory of {x.device} ({cuda.get_device_name(device)})" in cuda.memory_summary(
            device
        )
        del x
        cuda.synchronize(device)
        cuda.empty_cache()


@pytest.mark.skipif(REAL and cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("kind", [CUDA])
def test_kernels_run_where_their_arrays_are(kind):
    """Compiled ones too, with memory that they ask for, and draws."""
    with gpu():
        found = []
        for device in ("cuda:0", "cuda:1"):
            mr.manual_seed(0)
            x = mr.tensor([[-1.0, 2.0, 3.0, -4.0]] * 3, device=device, requires_grad=True)
            loss = nn.functional.cross_entropy(x.relu(), mr.tensor([1, 0, 3], device=device))
            loss.backward()
            optimizer = mr.optim.SGD([x], 0.5, momentum=0.9)
            optimizer.step()
            mask = nn.functional.dropout(mr.ones(40, device=device), 0.5)
            assert {loss.device, x.grad.device, mask.device} == {mr.device(device)}
            found.append([t.tolist() for t in (loss, x.grad, x, mask)])
            state = mr.random.get_state()
            mr.random.set_state(state)
        assert found[0] == found[1]
        assert cupy().cuda.Device().id == 0


def test_arguments_that_are_no_gpu(gpus):
    for act in (cuda.synchronize, cuda.memory_summary, cuda.set_device, cuda.device):
        with pytest.raises(ArgumentError, match=rf"cuda\.{act.__name__}: expected a GPU, got cpu"):
            act("cpu")
        with pytest.raises(ArgumentError, match="unknown device 'gpu'"):
            act("gpu")


def test_pytorchs_way_to_choose_a_device(gpus):
    device = mr.device("cuda" if cuda.is_available() else "cpu")
    net = mr.nn.Linear(2, 2).to(device)
    assert net.weight.is_cuda
    assert net(mr.ones(1, 2, device=device)).device == device
    assert cupy().cuda.get_device_id() == 0
