"""What an access costs: conflicts of banks, sectors of memory."""

from __future__ import annotations

import numpy as np
import pytest

import cudasim

CODE = """
extern "C" __global__ void k(const float* x, int step, int pack) {
  __shared__ alignas(128) float s[4096];
  cusim::touch(cusim::SHARED_LOAD, &s[threadIdx.x * step], 4 * pack);
  cusim::touch(cusim::GLOBAL_LOAD, &x[threadIdx.x * step], 4 * pack);
}"""


# entries of 4 bytes from lane to lane, entries of a lane -> wavefronts, sectors, and the least
@pytest.mark.parametrize(
    ("step", "pack", "wavefronts", "least", "sectors", "least_sectors"),
    [
        (1, 1, 1, 1, 4, 4),  # all banks
        (2, 1, 2, 1, 8, 4),  # every other bank
        (32, 1, 32, 1, 32, 4),  # one bank
        (0, 1, 1, 1, 1, 4),  # one word for all
        (33, 1, 1, 1, 32, 4),  # padded rows
        (4, 4, 4, 4, 16, 16),  # packs of 16 bytes go a quarter of the warp at a time
        (32, 4, 32, 4, 32, 16),
        (36, 4, 4, 4, 32, 16),
    ],
)
def test_costs(step, pack, wavefronts, least, sectors, least_sectors):
    memory = np.zeros(4096 + 8, np.float32)
    x = memory[-(memory.ctypes.data // 4) % 8 :]  # from a multiple of 32 bytes
    with cudasim.counting() as counts:
        kernel = cudasim.RawKernel(CODE, "k")
        kernel((2,), (32,), (x, np.int32(step), np.int32(pack)))
    assert counts["shared load"] == cudasim.Counts(1, wavefronts, least)
    assert counts["global load"] == cudasim.Counts(1, sectors, least_sectors)
    assert counts["global load"].excess == sectors / least_sectors


def test_pairs_of_lanes_that_read_the_same_pack():
    code = CODE.replace("threadIdx.x * step", "threadIdx.x / 2 * 4")
    with cudasim.counting() as counts:
        kernel = cudasim.RawKernel(code, "k")
        kernel((1,), (32,), (np.zeros(64, np.float32), np.int32(0), np.int32(4)))
    assert counts["shared load"] == cudasim.Counts(1, 2, 2)


def test_one_block_of_those_asked_for():
    code = """
    extern "C" __global__ void k(float* y) {
      if (blockIdx.x == 3) cusim::touch(cusim::GLOBAL_STORE, y + threadIdx.x, 4);
    }"""
    kernel = cudasim.RawKernel(code, "k")
    y = np.zeros(64, np.float32)
    with cudasim.counting() as none:
        kernel((4,), (64,), (y,))
    with cudasim.counting(block=3) as some:
        kernel((4,), (64,), (y,))
    assert not none
    assert some["global store"].instructions == 2


def test_checked_launches_count_too():
    with cudasim.running(checked=True), cudasim.counting() as counts:
        cudasim.RawKernel(CODE, "k")(
            (1,), (32,), (np.zeros(64, np.float32), np.int32(1), np.int32(1))
        )
    assert counts["shared load"] == cudasim.Counts(1, 1, 1)
