"""Launches that a GPU cannot do, and what CUDA says of those that failed."""

from __future__ import annotations

import re

import numpy as np
import pytest
from gpu import CUDA, REAL, gpu

import minires as mr
from minires.device import Device, cupy, move
from minires.errors import DeviceError
from minires.kernels.cuda.graph import CudaGraph, Launches
from minires.kernels.cuda.kernel import Kernel
from minires.kernels.cuda.pool import MemoryPool

SOURCE = """
extern "C" __global__ void fill(float* x, int size, float value) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < size) x[i] = value;
}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "kernel_cuda.cu"
    path.write_text(SOURCE)
    return path


@pytest.fixture(params=[CUDA])
def x(request):
    with gpu():
        yield move(np.zeros(10, "float32"), Device("cuda"))


def arguments(x):
    return x, np.int32(x.size), np.float32(3)


@pytest.mark.parametrize(
    ("grid", "block", "shared", "words"),
    [
        (1, 2048, 0, "at most 1,024 threads in a block, got 2,048"),
        (1, 32, 1 << 20, "bytes of shared memory in a block, got 1,048,576"),
        ((1 << 31, 1), 32, 0, "at most 2,147,483,647 blocks along x, got 2,147,483,648"),
        ((1, 65536), 32, 0, "at most 65,535 blocks along y, got 65,536"),
        ((1, 1, 65536), 32, 0, "at most 65,535 blocks along z, got 65,536"),
    ],
)
def test_what_the_gpu_does_not_have_is_refused_before_the_launch(
    x, file, grid, block, shared, words
):
    kernel = Kernel(file, "fill", block, shared)
    kernel._function = None  # nothing is compiled
    launch = f"grid {'x'.join(map(str, np.atleast_1d(grid)))}, block {block}, shared {shared}"
    with pytest.raises(DeviceError) as caught:
        kernel(grid, *arguments(x))
    text = str(caught.value)
    assert text.startswith("fill: expected at most ")
    assert words in text
    assert f"(cuda:0, {launch}). Use smaller tensors, or split them along the batch." in text
    assert x.get().tolist() == [0] * 10


def test_the_largest_launches_are_allowed(x, file):
    kernel = Kernel(file, "fill", 1024, 100 * 1024)
    kernel((1, 3, 2), *arguments(x))
    assert x.get().tolist() == [3] * 10


def test_what_cuda_says_names_the_kernel_and_its_arguments(x, file, monkeypatch):
    kernel = Kernel(file, "fill", 32)
    kernel(1, *arguments(x))
    driver, runtime = cupy().cuda.driver, cupy().cuda.runtime

    for kind in (driver.CUDADriverError, runtime.CUDARuntimeError):

        def fails(*args, kind=kind, **options):
            error = kind.__new__(kind)
            RuntimeError.__init__(error, "CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access")
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(kernel, "_functions", {0: fails})
            with pytest.raises(DeviceError) as caught:
                kernel(2, *arguments(x))
        assert isinstance(caught.value.__cause__, kind)
        assert re.fullmatch(
            r"fill: expected a launch that CUDA takes, got CUDA_ERROR_ILLEGAL_ADDRESS: an illegal "
            r"memory access \(grid 2, block 32, shared 0; float32\[10\], 10, 3\.0\)\. CUDA may "
            r"report here what an earlier kernel did: run with CUDA_LAUNCH_BLOCKING=1 to see which"
            r"\. If whatever comes next fails, too, the process has lost the GPU and must be "
            r"started anew\.",
            str(caught.value),
        )
    x.fill(0)
    kernel(1, *arguments(x))  # and the next launch works
    assert x.get().tolist() == [3] * 10


def test_a_graph_that_cuda_does_not_launch_names_its_kernels(x, file, monkeypatch):
    kernel = Kernel(file, "fill", 32)
    segment = Launches("fill")
    kernel(1, *arguments(x))
    segment.add(kernel, (1,), arguments(x))
    graph = CudaGraph([segment], MemoryPool())
    runtime = cupy().cuda.runtime

    class Failing:
        def launch(self):
            error = runtime.CUDARuntimeError.__new__(runtime.CUDARuntimeError)
            RuntimeError.__init__(error, "cudaErrorLaunchFailure: unspecified launch failure")
            raise error

    with monkeypatch.context() as patch:
        patch.setattr(graph, "_graph", Failing())
        with pytest.raises(DeviceError) as caught:
            graph()
    assert str(caught.value).startswith(
        "capture: expected a CUDA graph that can be launched, got cudaErrorLaunchFailure: "
        "unspecified launch failure (of fill). Inside of minires.profile() its kernels are "
        "launched one by one. CUDA may report here what an earlier kernel did"
    )
    x.fill(0)
    graph()
    assert x.get().tolist() == [3] * 10


@pytest.mark.skipif(REAL, reason="a GPU cannot be made to fail")
def test_a_kernel_that_failed_is_told_by_whoever_waits(x, monkeypatch):
    def fails(device):
        error = cupy().cuda.runtime.CUDARuntimeError
        raise error("cudaErrorIllegalAddress: an illegal memory access was encountered")

    with monkeypatch.context() as patch:
        patch.setattr(cupy().cuda.Device, "synchronize", fails)
        with pytest.raises(DeviceError) as caught:
            mr.cuda.synchronize()
    assert str(caught.value) == (
        "synchronize: expected all work on cuda:0 to be done, got cudaErrorIllegalAddress: an "
        "illegal memory access was encountered (a kernel that was launched before failed). Run "
        "with CUDA_LAUNCH_BLOCKING=1 to see which, in a new process."
    )
    mr.cuda.synchronize()
