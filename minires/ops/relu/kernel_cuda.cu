// The rectifier on a GPU. Both kernels only move memory, so all that counts is to have enough of it
// under way: each thread asks for IN_FLIGHT packs of V entries before it uses the first.
#include "common.cuh"

constexpr int THREADS = 256;
constexpr int IN_FLIGHT = 4;

// A block has THREADS * IN_FLIGHT packs that lie side by side, a thread every THREADS-th of them, so
// that the threads of a warp always read neighbours:
//
//   packs   0 1 2 ... 255 | 256 257 ... 511 | ...     rest
//   thread  0 1 2 ... 255 |  0   1  ... 255 | ...     the entries behind the last whole pack, fewer
//                                                     than V: a thread of the last block for each

// y = max(x, 0)
template <class T, int V>
__global__ void __launch_bounds__(THREADS) relu_fwd(const T* __restrict__ x, int size, T* __restrict__ y) {
  const int packs = size / V, first = blockIdx.x * (THREADS * IN_FLIGHT) + threadIdx.x;
  Pack<T, V> v[IN_FLIGHT] = {};
  UNROLL for (int i = 0; i < IN_FLIGHT; ++i) {
    const int pack = first + i * THREADS;
    if (pack < packs) v[i] = load_pack<V>(x + pack * V);
  }
  UNROLL for (int i = 0; i < IN_FLIGHT; ++i) {
    const int pack = first + i * THREADS;
    UNROLL for (int j = 0; j < V; ++j) v[i].v[j] = relu(v[i].v[j]);
    if (pack < packs) store_pack<V>(y + pack * V, v[i]);
  }
  const int rest = packs * V + threadIdx.x;
  if (blockIdx.x == gridDim.x - 1 && rest < size) y[rest] = relu(x[rest]);
}

// gx = 0 where y <= 0, else gy: where y is NaN, gy goes through
template <class T, int V>
__global__ void __launch_bounds__(THREADS)
    relu_bwd_x(const T* __restrict__ gy, const T* __restrict__ y, int size, T* __restrict__ gx) {
  const int packs = size / V, first = blockIdx.x * (THREADS * IN_FLIGHT) + threadIdx.x;
  Pack<T, V> g[IN_FLIGHT] = {}, v[IN_FLIGHT] = {};
  UNROLL for (int i = 0; i < IN_FLIGHT; ++i) {
    const int pack = first + i * THREADS;
    if (pack < packs) g[i] = load_pack<V>(gy + pack * V), v[i] = load_pack<V>(y + pack * V);
  }
  UNROLL for (int i = 0; i < IN_FLIGHT; ++i) {
    const int pack = first + i * THREADS;
    UNROLL for (int j = 0; j < V; ++j) g[i].v[j] = v[i].v[j] <= 0 ? T(0) : g[i].v[j];
    if (pack < packs) store_pack<V>(gx + pack * V, g[i]);
  }
  const int rest = packs * V + threadIdx.x;
  if (blockIdx.x == gridDim.x - 1 && rest < size) gx[rest] = y[rest] <= 0 ? T(0) : gy[rest];
}
