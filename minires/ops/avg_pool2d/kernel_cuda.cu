// Average pooling on a GPU. Sums are in float64, as in the reference; nothing is ever added in memory.
#include "common.cuh"

constexpr int THREADS = 256;
constexpr int TAPS = 4;  // pixels of a window that a thread asks for together

struct Pool {
  int h_in, w_in, h_out, w_out, c;
  int packs;                              // of all pixels that the kernel writes
  int split;                              // threads that share one window: a power of two
  Divisor by_packs, by_width, by_height;  // of a pixel, and of an image, that the kernel writes
};

// y = the mean of each window. `table` has for each row of y where its windows begin in x, then where
// they end; the same for the columns; then for each pixel of y what to divide by.
//
// A global average has few windows, and large ones: a window's pixels are shared among `split` lanes of
// a warp, the others side by side, so that a warp still reads neighbours:
//
//   split = 4    lane  0  1 ... 7     packs of a pixel; the first, fifth, ... pixel of their windows
//                      8  9 ... 15    the second, sixth, ...
template <class T, int V>
__global__ void __launch_bounds__(THREADS)
    avg_pool2d_fwd(const T* __restrict__ x, const int* __restrict__ table, Pool g, T* __restrict__ y) {
  const int lane = threadIdx.x % 32, across = 32 / g.split, part = lane / across;
  const int item = (blockIdx.x * (THREADS / 32) + threadIdx.x / 32) * across + lane % across;
  int pixel, pack, row, i, j, image, area = 0, width = 1, count = 1;
  divide(min(item, g.packs - 1), g.by_packs, pixel, pack);
  divide(pixel, g.by_width, row, j);
  divide(row, g.by_height, image, i);
  const int *rows = table, *columns = rows + 2 * g.h_out, *counts = columns + 2 * g.w_out;
  const int top = rows[i], left = columns[j];
  if (item < g.packs) {  // all threads stay, for they meet below
    width = columns[g.w_out + j] - left;
    area = (rows[g.h_out + i] - top) * width, count = counts[i * g.w_out + j];
  }

  const T* corner = x + (((image * g.h_in + top) * g.w_in + left) * g.c + pack * V);
  int u = 0, v = part;  // row and column of the window where this thread is
  double total[V] = {};
  for (int tap = part; tap < area; tap += TAPS * g.split) {
    Pack<T, V> values[TAPS] = {};
    UNROLL for (int n = 0; n < TAPS; ++n) {
      if (tap + n * g.split >= area) continue;
      for (; v >= width; v -= width) ++u;
      values[n] = load_pack<V>(corner + (u * g.w_in + v) * g.c);
      v += g.split;
    }
    UNROLL for (int n = 0; n < TAPS; ++n)  // zeros where there was no pixel
      UNROLL for (int k = 0; k < V; ++k) total[k] += values[n].v[k];
  }
  for (int distance = across; distance < 32; distance *= 2)
    UNROLL for (int k = 0; k < V; ++k) total[k] += __shfl_xor_sync(0xffffffffu, total[k], distance);
  if (part || item >= g.packs) return;
  Pack<T, V> mean;
  UNROLL for (int k = 0; k < V; ++k) mean.v[k] = T(total[k] / count);
  store_pack<V>(y + (pixel * g.c + pack * V), mean);
}

// gx = of each pixel, the sum of scale * gy over the windows that hold it. `table` has for each row of
// x the first window that holds it and the end of the last, then the same for each column; `scale` is
// 1 / the number of pixels for each window.
template <class T, int V>
__global__ void __launch_bounds__(THREADS, 5)  // 5 blocks at a time leave each thread 48 registers
    avg_pool2d_bwd_x(const T* __restrict__ gy, const int* __restrict__ table, const T* __restrict__ scale,
                     Pool g, T* __restrict__ gx) {
  const int item = blockIdx.x * THREADS + threadIdx.x;
  if (item >= g.packs) return;
  int pixel, pack, row, h, w, image;
  divide(item, g.by_packs, pixel, pack);
  divide(pixel, g.by_width, row, w);
  divide(row, g.by_height, image, h);
  const int *rows = table, *columns = rows + 2 * g.h_in;
  const int first = columns[2 * w], end = columns[2 * w + 1];
  Pack<T, V> sum = {};
  for (int i = rows[2 * h]; i < rows[2 * h + 1]; ++i)
    for (int j = first; j < end; ++j) {
      const Pack<T, V> g_y = load_pack<V>(gy + (((image * g.h_out + i) * g.w_out + j) * g.c + pack * V));
      const T by = scale[i * g.w_out + j];
      UNROLL for (int k = 0; k < V; ++k) sum.v[k] = multiply_add(g_y.v[k], by, sum.v[k]);
    }
  store_pack<V>(gx + (pixel * g.c + pack * V), sum);
}
