// Max pooling on a GPU. A thread makes V channels of one pixel: of y in the forward pass, of gx in the
// backward pass; so every entry is written once, by one thread, and nothing is ever added in memory.
#include "prologue.cuh"

constexpr int THREADS = 256;
constexpr int TAPS = 4;     // of a row of the window, whose pixels are asked for together
constexpr int WINDOWS = 2;  // side by side, whose gradients are asked for together

struct Pool {
  int h_in, w_in, h_out, w_out, c, k_h, k_w, s_h, s_w, p_h, p_w, d_h, d_w;
  int threads;                                // packs of all pixels that the kernel writes
  Divisor by_packs, by_width, by_height;      // of a pixel, and of an image, that the kernel writes
  Divisor by_s_h, by_s_w;
};

// The pixel and the first channel of the running thread; false if there is no such pixel.
struct Place {
  int image, row, column, channel, pixel;
};
template <int V> INLINE bool find_place(const Pool& g, Place& at) {
  const int thread = blockIdx.x * THREADS + threadIdx.x;
  if (thread >= g.threads) return false;
  int pack, row;
  divide(thread, g.by_packs, at.pixel, pack);
  divide(at.pixel, g.by_width, row, at.column);
  divide(row, g.by_height, at.image, at.row);
  at.channel = pack * V;
  return true;
}

// y = the largest x under each window, after the prologue of x (coefficients k (5, c), kind);
// index = where it stood, as h * w_in + w. Of equal ones the first counts; a NaN is larger than any
// number, and the last one counts.
template <class T, int FAMILY, int V>
__global__ void __launch_bounds__(THREADS, 4)  // 4 blocks at a time leave each thread 64 registers
    max_pool2d_fwd(const T* __restrict__ x, const T* __restrict__ k, int kind, Pool g, T* __restrict__ y,
                   int* __restrict__ index) {
  Place at;
  if (!find_place<V>(g, at)) return;
  Prologue<T, FAMILY, V> prologue;
  prologue.start(kind);
  prologue.load(k, g.c, at.channel);
  const int top = at.row * g.s_h - g.p_h, left = at.column * g.s_w - g.p_w;
  Pack<T, V> best = {};
  Pack<int, V> chosen;
  UNROLL for (int j = 0; j < V; ++j) chosen.v[j] = -1;

  for (int u = 0; u < g.k_h; ++u) {
    const int h = top + u * g.d_h;
    if (h < 0 || h >= g.h_in) continue;
    const T* line = x + ((at.image * g.h_in + h) * g.w_in * g.c + at.channel);
    for (int first = 0; first < g.k_w; first += TAPS) {
      Pack<T, V> v[TAPS] = {};
      bool inside[TAPS];
      UNROLL for (int i = 0; i < TAPS; ++i) {
        const int w = left + (first + i) * g.d_w;
        inside[i] = first + i < g.k_w && w >= 0 && w < g.w_in;
        if (inside[i]) v[i] = load_pack<V>(line + w * g.c);
      }
      UNROLL for (int i = 0; i < TAPS; ++i)
        UNROLL for (int j = 0; j < V; ++j) {
          const T value = prologue.apply(v[i].v[j], T(0), j);
          const bool better = chosen.v[j] < 0 || value > best.v[j] || value != value;
          if (!inside[i] || !better) continue;
          best.v[j] = value;
          chosen.v[j] = h * g.w_in + left + (first + i) * g.d_w;
        }
    }
  }
  store_pack<V>(y + (at.pixel * g.c + at.channel), best);
  store_pack<V>(index + (at.pixel * g.c + at.channel), chosen);
}

// gx = of each pixel, the sum of gy of the windows that chose it, in their order: windows ask no pixel,
// a pixel asks the windows that reach it, i from ceil((h + p - (k - 1) d) / s) to floor((h + p) / s).
template <class T, int V>
__global__ void __launch_bounds__(THREADS, 5)  // 5 blocks at a time leave each thread 48 registers
    max_pool2d_bwd_x(const T* __restrict__ gy, const int* __restrict__ index, Pool g, T* __restrict__ gx) {
  Place at;
  if (!find_place<V>(g, at)) return;
  int first_i, first_j, end_i, end_j, rest;
  divide(max(at.row + g.p_h - (g.k_h - 1) * g.d_h + g.s_h - 1, 0), g.by_s_h, first_i, rest);
  divide(max(at.column + g.p_w - (g.k_w - 1) * g.d_w + g.s_w - 1, 0), g.by_s_w, first_j, rest);
  divide(at.row + g.p_h, g.by_s_h, end_i, rest);
  divide(at.column + g.p_w, g.by_s_w, end_j, rest);
  end_i = min(end_i + 1, g.h_out), end_j = min(end_j + 1, g.w_out);
  const int here = at.row * g.w_in + at.column;
  Pack<T, V> sum = {};

  for (int i = first_i; i < end_i; ++i) {
    const int line = (at.image * g.h_out + i) * g.w_out * g.c + at.channel;
    for (int first = first_j; first < end_j; first += WINDOWS) {
      Pack<T, V> v[WINDOWS] = {};
      Pack<int, V> chosen[WINDOWS];
      UNROLL for (int n = 0; n < WINDOWS; ++n) {
        UNROLL for (int j = 0; j < V; ++j) chosen[n].v[j] = -1;
        if (first + n >= end_j) continue;
        chosen[n] = load_pack<V>(index + (line + (first + n) * g.c));
        v[n] = load_pack<V>(gy + (line + (first + n) * g.c));
      }
      UNROLL for (int n = 0; n < WINDOWS; ++n)
        UNROLL for (int j = 0; j < V; ++j)
          if (chosen[n].v[j] == here) sum.v[j] += v[n].v[j];
    }
  }
  store_pack<V>(gx + (at.pixel * g.c + at.channel), sum);
}
