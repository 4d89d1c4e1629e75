// Convolutions whose channels have next to nothing in common: as many groups as channels ("depthwise").
//
// A channel of y is made of one channel of x, or of two, and each number that is read takes part in a few
// products: nothing for a tile of a matrix to use again. All is bound by memory, and so the kernels are
// the definition, with a thread for V neighbouring channels of a pixel. The nine taps of neighbouring
// pixels read the same numbers again, from the cache. Taps outside of the image are left out.
//
// Groups have `in` channels of x and `out` of y each. With packs of V > 1 channels both are 1.
#include "common.cuh"

constexpr int THREADS = 256;

struct Depthwise {
  int h_in, w_in, c_in, h_out, w_out, c_out;  // channels of all groups
  int in, out;                                // channels of one group
  int k_h, k_w, s_h, s_w, p_h, p_w, d_h, d_w;
  int pixels, share;                          // of y; for the input gradient, of x
  Divisor per_image, per_row, packs;          // pixels of an image and of a row, and packs of channels of a pixel
};

// w_t (k_h * k_w * in, c_out) = w (c_out, in, k_h, k_w), so that neighbouring threads read neighbours
template <class T>
__global__ void __launch_bounds__(THREADS) depthwise_pack(const T* __restrict__ w, T* __restrict__ w_t, const Depthwise g) {
  const int i = blockIdx.x * THREADS + threadIdx.x, taps = g.k_h * g.k_w;
  if (i >= taps * g.in * g.c_out) return;
  const int o = i % g.c_out, e = i / g.c_out % g.in, tap = i / g.c_out / g.in;
  w_t[i] = w[(o * g.in + e) * taps + tap];
}

// y = act(sum over taps of w x + bias + residual)
template <class T, int V>
__global__ void __launch_bounds__(THREADS)
    depthwise_fwd(const T* __restrict__ x, const T* __restrict__ w_t, const T* __restrict__ bias, const T* __restrict__ residual,
                  T* __restrict__ y, int rectify, const Depthwise g) {
  const int i = blockIdx.x * THREADS + threadIdx.x;
  if (i >= g.pixels * g.packs.value) return;
  int pixel, pack, image, rest, p, q;
  divide(i, g.packs, pixel, pack);
  divide(pixel, g.per_image, image, rest);
  divide(rest, g.per_row, p, q);
  const int o = pack * V, from = V > 1 ? o : o / g.out * g.in, top = p * g.s_h - g.p_h, left = q * g.s_w - g.p_w;
  Pack<T, V> sum = {};
  if (bias) sum = load_pack<V>(bias + o);
  for (int u = 0; u < g.k_h; ++u) {
    const int h = top + u * g.d_h;
    if (unsigned(h) >= unsigned(g.h_in)) continue;
    for (int v = 0; v < g.k_w; ++v) {
      const int w = left + v * g.d_w;
      if (unsigned(w) >= unsigned(g.w_in)) continue;
      const T* const at = x + (((image * g.h_in + h) * g.w_in + w) * g.c_in + from);
      for (int e = 0; e < (V > 1 ? 1 : g.in); ++e) {
        const Pack<T, V> a = load_pack<V>(at + e), b = load_pack<V>(w_t + (((u * g.k_w + v) * g.in + e) * g.c_out + o));
        UNROLL for (int j = 0; j < V; ++j) sum.v[j] = multiply_add(a.v[j], b.v[j], sum.v[j]);
      }
    }
  }
  const int to = pixel * g.c_out + o;
  if (residual) {
    const Pack<T, V> other = load_pack<V>(residual + to);
    UNROLL for (int j = 0; j < V; ++j) sum.v[j] += other.v[j];
  }
  if (rectify)
    UNROLL for (int j = 0; j < V; ++j) sum.v[j] = relu(sum.v[j]);
  store_pack<V>(y + to, sum);
}

// gx = the sum over taps, and over the pixels of y that they were under, of w gy. A thread has a pixel of x:
// tap u was over row h of x for row i of y if i * s_h = h + p_h - u * d_h.
template <class T, int V>
__global__ void __launch_bounds__(THREADS)
    depthwise_bwd_input(const T* __restrict__ gy, const T* __restrict__ w_t, T* __restrict__ gx, const Depthwise g) {
  const int index = blockIdx.x * THREADS + threadIdx.x;
  if (index >= g.pixels * g.packs.value) return;
  int pixel, pack, image, rest, h, w;
  divide(index, g.packs, pixel, pack);
  divide(pixel, g.per_image, image, rest);
  divide(rest, g.per_row, h, w);
  const int c = pack * V, from = V > 1 ? c : c / g.in * g.out, e = V > 1 ? 0 : c % g.in;
  Pack<T, V> sum = {};
  for (int u = 0; u < g.k_h; ++u) {
    const int down = h + g.p_h - u * g.d_h, i = down / g.s_h;
    if (down < 0 || i * g.s_h != down || i >= g.h_out) continue;
    for (int v = 0; v < g.k_w; ++v) {
      const int across = w + g.p_w - v * g.d_w, j = across / g.s_w;
      if (across < 0 || j * g.s_w != across || j >= g.w_out) continue;
      const T* const at = gy + (((image * g.h_out + i) * g.w_out + j) * g.c_out + from);
      const T* const weight = w_t + (((u * g.k_w + v) * g.in + e) * g.c_out + from);
      // by twos: four at a time want more registers than ptxas gives them for sm_80, and it spills
      _Pragma("unroll 2") for (int o = 0; o < (V > 1 ? 1 : g.out); ++o) {
        const Pack<T, V> a = load_pack<V>(at + o), b = load_pack<V>(weight + o);
        UNROLL for (int k = 0; k < V; ++k) sum.v[k] = multiply_add(a.v[k], b.v[k], sum.v[k]);
      }
    }
  }
  store_pack<V>(gx + (pixel * g.c_in + c), sum);
}

// parts (shares, c_out, k_h * k_w * in): the sums of gy x over one share of the pixels of y each.
//
// A block has 32 neighbouring channels of y, an entry of their filters, and a share. Its 8 warps take every
// eighth pixel, and are added in order. `add_shares` in cuda_weight.cu adds the shares.
template <class T>
__global__ void __launch_bounds__(THREADS)
    depthwise_bwd_weight(const T* __restrict__ gy, const T* __restrict__ x, T* __restrict__ parts, const Depthwise g) {
  __shared__ T sums[THREADS / 32][32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, entries = g.k_h * g.k_w * g.in;
  const int n = blockIdx.x % entries, o = blockIdx.x / entries * 32 + lane, end = min((int(blockIdx.y) + 1) * g.share, g.pixels);
  const int tap = n / g.in, h0 = tap / g.k_w * g.d_h - g.p_h, w0 = tap % g.k_w * g.d_w - g.p_w, c = o / g.out * g.in + n % g.in;
  T sum = 0;
  if (o < g.c_out)
    for (int pixel = blockIdx.y * g.share + warp; pixel < end; pixel += THREADS / 32) {
      int image, rest, p, q;
      divide(pixel, g.per_image, image, rest);
      divide(rest, g.per_row, p, q);
      const int h = p * g.s_h + h0, w = q * g.s_w + w0;
      if (unsigned(h) >= unsigned(g.h_in) || unsigned(w) >= unsigned(g.w_in)) continue;
      sum = multiply_add(gy[pixel * g.c_out + o], x[((image * g.h_in + h) * g.w_in + w) * g.c_in + c], sum);
    }
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp > 0 || o >= g.c_out) return;
  for (int i = 1; i < THREADS / 32; ++i) sum += sums[i][lane];
  parts[(blockIdx.y * g.c_out + o) * entries + n] = sum;
}
