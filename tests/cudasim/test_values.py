"""Right kernels get right results, whatever the order of threads and the moment of copies."""

from __future__ import annotations

import numpy as np
import pytest

import cudasim

GEMM = """
template <typename T, int TILE>
__global__ void gemm(const T* __restrict__ a, const T* __restrict__ b, T* c, int m, int n, int k) {
  __shared__ T rows[TILE][TILE];
  __shared__ T columns[TILE][TILE + 1];
  const int x = threadIdx.x, y = threadIdx.y;
  const int row = blockIdx.y * TILE + y, column = blockIdx.x * TILE + x;
  T sum = 0;
  for (int start = 0; start < k; start += TILE) {
    rows[y][x] = row < m && start + x < k ? a[row * k + start + x] : T(0);
    columns[y][x] = start + y < k && column < n ? b[(start + y) * n + column] : T(0);
    __syncthreads();
    for (int i = 0; i < TILE; ++i) sum = fma(rows[y][i], columns[i][x], sum);
    __syncthreads();
  }
  if (row < m && column < n) c[row * n + column] = sum;
}
"""
SOFTMAX = """
extern "C" __global__ void __launch_bounds__(128) softmax(const float* x, float* y, int n) {
  extern __shared__ float memory[];
  const float* row = x + blockIdx.x * n;
  const int me = threadIdx.x;
  float most = __int_as_float(0xff800000);
  for (int i = me; i < n; i += blockDim.x) most = fmaxf(most, row[i]);
  for (int lanes = 16; lanes; lanes /= 2)
    most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, lanes));
  if (me % 32 == 0) memory[me / 32] = most;
  __syncthreads();
  for (int i = 0; i < int(blockDim.x) / 32; ++i) most = fmaxf(most, memory[i]);
  float sum = 0.f;
  for (int i = me; i < n; i += blockDim.x) sum += expf(row[i] - most);
  for (int lanes = 16; lanes; lanes /= 2) sum += __shfl_down_sync(0xffffffffu, sum, lanes);
  __syncthreads();
  if (me % 32 == 0) memory[me / 32] = sum;
  __syncthreads();
  sum = 0.f;
  for (int i = 0; i < int(blockDim.x) / 32; ++i) sum += memory[i];
  for (int i = me; i < n; i += blockDim.x) y[blockIdx.x * n + i] = expf(row[i] - most) / sum;
}
"""
HISTOGRAM = """
extern "C" __global__ void histogram(const int* x, int* counts, int n, int bins) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
    if (x[i] >= 0 && x[i] < bins) atomicAdd(&counts[x[i]], 1);
}
"""
# Two stages of 32 x 16 bytes: while one is added up the next one is copied.
PIPELINE = """
__device__ void copy(float4* to, const float* from, bool valid) {
  cusim::copy_async(reinterpret_cast<unsigned char*>(to), from, 16, valid);
}
extern "C" __global__ void pipeline(const float* x, float* y, int steps) {
  __shared__ float4 stages[2][32];
  const int me = threadIdx.x;
  copy(&stages[0][me], x + 4 * me, true);
  cusim::copy_commit();
  float sum = 0.f;
  for (int step = 0; step < steps; ++step) {
    cusim::copy_wait(0);
    __syncthreads();
    const bool more = step + 1 < steps;
    copy(&stages[(step + 1) % 2][me], more ? x + 128 * (step + 1) + 4 * me : x, more);
    cusim::copy_commit();
    const float4 v = stages[step % 2][31 - me];
    sum += v.x + v.y + v.z + v.w;
  }
  y[me] = sum;
}
"""
# What the 32 lanes bring, turned: the i-th lane gets the sum of what lanes i and later brought.
COLLECTIVE = """
struct Lane {
  float mine, sum;
};
void suffix_sums(void** lanes) {
  float sum = 0.f;
  for (int l = 31; l >= 0; --l) {
    Lane* lane = static_cast<Lane*>(lanes[l]);
    sum += lane->mine;
    lane->sum = sum;
  }
}
extern "C" __global__ void suffix(const float* x, float* y) {
  Lane lane = {x[threadIdx.x], 0.f};
  cusim::collective("suffix", &lane, suffix_sums);
  y[threadIdx.x] = lane.sum;
}
"""
STRUCT = """
struct Affine {
  int size;
  float scale;
  double shift;
};
template <class T> __global__ void affine(const T* x, T* y, const T* other, Affine by) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < by.size) y[i] = T(x[i] * by.scale + by.shift) + (other ? other[i] : T(0));
}
"""
FUNCTIONS = """
template <class T> __global__ void functions(const T* x, T* y) {
  const T v = x[threadIdx.x];
  const T all[] = {exp(v), log(fabs(v)), sqrt(fabs(v)), rsqrt(fabs(v)), tanh(v), fmin(v, T(0)),
                   fmax(v, T(0)), floor(v), pow(fabs(v), T(1.5)), fma(v, v, T(1))};
  for (int i = 0; i < 10; ++i) y[threadIdx.x * 10 + i] = all[i];
}
"""
VOTES = """
extern "C" __global__ void votes(const int* x, unsigned* y) {
  const int v = x[threadIdx.x];
  y[threadIdx.x] = __ballot_sync(~0u, v);
  y[64 + threadIdx.x] = __any_sync(~0u, v) * 2 + __all_sync(~0u, v);
  y[128 + threadIdx.x] = __syncthreads_count(v);
  y[192 + threadIdx.x] = __syncthreads_or(v) * 2 + __syncthreads_and(v);
  y[256 + threadIdx.x] = unsigned(__shfl_up_sync(~0u, v, 1, 8));
  y[320 + threadIdx.x] = unsigned(__shfl_sync(~0u, v, 3, 16));
}
"""


def floats(*shape, dtype=np.float32):
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize(("c_type", "dtype"), [("float", np.float32), ("double", np.float64)])
def test_matrix_product(conditions, c_type, dtype):
    kernel = cudasim.RawKernel(GEMM, f"gemm<{c_type},16>")
    for m, n, k in ((1, 1, 1), (33, 17, 50)):
        a, b, c = (
            floats(m, k, dtype=dtype),
            floats(k, n, dtype=dtype),
            np.full((m, n), np.nan, dtype),
        )
        sizes = (np.int32(m), np.int32(n), np.int32(k))
        kernel((-(-n // 16), -(-m // 16)), (16, 16), (a, b, c, *sizes))
        np.testing.assert_allclose(c, a @ b, rtol=1e-4, atol=1e-4)


def test_softmax_with_dynamic_shared_memory(conditions):
    x = 5 * floats(7, 300)
    y = np.empty_like(x)
    kernel = cudasim.RawModule(code=SOFTMAX).get_function("softmax")
    kernel((7,), (128,), (x, y, np.int32(300)), shared_mem=16)
    e = np.exp(x - x.max(1, keepdims=True))
    np.testing.assert_allclose(y, e / e.sum(1, keepdims=True), rtol=1e-5, atol=1e-7)


def test_atomics_of_whole_numbers(conditions):
    x, counts = np.random.default_rng(0).integers(-1, 12, 5000, np.int32), np.zeros(10, np.int32)
    kernel = cudasim.RawKernel(HISTOGRAM, "histogram")
    kernel((4,), (256,), (x, counts, np.int32(x.size), np.int32(10)))
    np.testing.assert_array_equal(counts, np.bincount(x[(x >= 0) & (x < 10)], minlength=10))


def test_asynchronous_copies(conditions):
    x, y = floats(5, 32, 4), np.empty(32, np.float32)
    cudasim.RawKernel(PIPELINE, "pipeline")((1,), (32,), (x, y, np.int32(5)))
    np.testing.assert_allclose(y[::-1], x.sum((0, 2)), rtol=1e-5, atol=1e-5)


def test_instructions_of_a_whole_warp(conditions):
    x, y = floats(32), np.empty(32, np.float32)
    cudasim.RawKernel(COLLECTIVE, "suffix")((1,), (32,), (x, y))
    np.testing.assert_allclose(y, x[::-1].cumsum()[::-1], rtol=1e-5, atol=1e-5)


def test_structs_by_value_and_null_pointers(conditions):
    by = np.zeros(1, np.dtype([("size", "i4"), ("scale", "f4"), ("shift", "f8")]))
    by["size"], by["scale"], by["shift"] = 70, 2, 0.5
    x, y = floats(70, dtype=np.float64), np.empty(70)
    kernel = cudasim.RawKernel(STRUCT, "affine<double>")
    kernel((2,), (64,), (x, y, None, by))
    np.testing.assert_allclose(y, 2 * x + 0.5)
    kernel((2,), (64,), (x, y, x, by))
    np.testing.assert_allclose(y, 3 * x + 0.5)


@pytest.mark.parametrize(("c_type", "dtype"), [("float", np.float32), ("double", np.float64)])
def test_functions(c_type, dtype):
    v = floats(32, dtype=dtype)
    y = np.empty((32, 10), dtype)
    cudasim.RawKernel(FUNCTIONS, f"functions<{c_type}>")((1,), (32,), (v, y))
    a = np.abs(v)
    columns = [np.exp(v), np.log(a), np.sqrt(a), a**-0.5, np.tanh(v), np.minimum(v, 0)]
    columns += [np.maximum(v, 0), np.floor(v), a**1.5, v * v + 1]
    expected = np.stack(columns, 1)
    np.testing.assert_allclose(y, expected, rtol=1e-5 if dtype == np.float32 else 1e-14)


def test_votes_and_shuffles(conditions):
    x = np.random.default_rng(0).integers(0, 2, 64, np.int32)
    y = np.empty((6, 64), np.uint32)
    cudasim.RawKernel(VOTES, "votes")((1,), (64,), (x, y))
    warps = x.reshape(2, 32)
    ballots = (warps.astype(np.uint64) << np.arange(32, dtype=np.uint64)).sum(1)
    np.testing.assert_array_equal(y[0], np.repeat(ballots, 32))
    np.testing.assert_array_equal(y[1], np.repeat(2 * warps.any(1) + warps.all(1), 32))
    np.testing.assert_array_equal(y[2], x.sum())
    np.testing.assert_array_equal(y[3], 2 * x.any() + x.all())
    up = x.reshape(8, 8).copy()
    up[:, 1:] = x.reshape(8, 8)[:, :-1]
    np.testing.assert_array_equal(y[4], up.ravel())
    np.testing.assert_array_equal(y[5], np.repeat(x.reshape(4, 16)[:, 3], 16))


class OnDevice:
    """An array as CuPy's: NumPy does not know it, its memory has an address."""

    def __init__(self, values):
        self._values = values
        self.__cuda_array_interface__ = {**values.__array_interface__, "version": 3}


def test_arrays_of_another_library_and_addresses():
    by = np.zeros(1, np.dtype([("size", "i4"), ("scale", "f4"), ("shift", "f8")]))
    by["size"], by["scale"] = 8, 3
    x, y = floats(8), np.empty(8, np.float32)
    kernel = cudasim.RawKernel(STRUCT, "affine<float>")
    kernel((1,), (32,), (OnDevice(x), np.uint64(y.ctypes.data), None, by))
    np.testing.assert_allclose(y, 3 * x)


def test_grids_and_blocks_of_three_axes(conditions):
    code = """
    extern "C" __global__ void where(int* y) {
      const int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
      const int me = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
      y[block * blockDim.x * blockDim.y * blockDim.z + me] = block * 100 + me;
    }"""
    y = np.full((24, 30), -1, np.int32)
    cudasim.RawKernel(code, "where")((2, 3, 4), (5, 3, 2), (y,))
    np.testing.assert_array_equal(y, 100 * np.arange(24)[:, None] + np.arange(30))
