// Gradient of a convolution's weight: a product of two matrices that share their long side.
//
//   gw[o, (tap, c)] = sum over all pixels of y of  gy[pixel, o] * x[where the tap is over that pixel, c]
//
// Rows of the product are output channels, columns are the entries of a filter (its taps, and the channels
// of each), and the sum runs over every pixel of every image: 131,072 pixels in the first layers of a CIFAR
// network, for as few as 16 x 144 sums. So the pixels are cut into shares. A block of threads computes one
// tile of the product for one share, and `add_shares` adds the shares in order. How many shares there are
// follows from the sizes alone: the same bits on every GPU, in every run.
//
// A block goes through its share BK pixels at a time:
//
//   global memory                 shared memory (two stages)              registers
//   gy (pixels, c_out)   copy ->  BK rows of BM output channels    \  ->  sums of BM x BN,
//   x  (pixels, c_in)    copy ->  BK rows of BN filter entries     /      WM x WN to a warp
//
// While one stage is multiplied, the copies into the other are under way.
#include "common.cuh"
#include "cuda_outer.cuh"

// One convolution, or the part of one that a launch works on. Channels are those of one group.
struct WeightSizes {
  int h_in, w_in, c_in, c_out, groups, k_h, k_w, s_h, s_w, p_h, p_w, d_h, d_w, h_out, w_out;
  int pixels, share;           // pixels of y, and how many of them a share has
  Divisor per_image, per_row;  // h_out * w_out and w_out
  int gy_kind, x_kind;         // the prologues
  int by_w, by_h, by_entries;  // how far Walk::step goes, before it looks at the borders
};

// Keeps an address in registers: what is added to it is then added to it, and not to the sum before it.
template <class T> INLINE const T* kept_pointer(const T* p) {
#if ON_GPU
  asm volatile("" : "+l"(p));
#endif
  return p;
}

// Where a thread's pixel of y is in x. A step of BK pixels is a few additions: on by `by_w`, to the next row
// if that leaves the row, to the next image if that leaves the image. (Found from the pixel's number alone,
// its place would cost two divisions a step.)
struct Walk {
  int pixel;
  int h, w;  // the place of tap (0, 0), which may lie outside of the image
  int at;    // the entry of x there

  INLINE void start(const WeightSizes& g, int from) {
    int image, rest, p, q;
    divide(from, g.per_image, image, rest);
    divide(rest, g.per_row, p, q);
    pixel = from, h = p * g.s_h - g.p_h, w = q * g.s_w - g.p_w;
    at = ((image * g.h_in + h) * g.w_in + w) * g.c_in * g.groups;
  }
  INLINE void step(const WeightSizes& g, int pixels) {
    const int all = g.c_in * g.groups, row = g.w_in * all;
    pixel += pixels, h += g.by_h, w += g.by_w, at += g.by_entries;
    if (w >= g.w_out * g.s_w - g.p_w) {
      w -= g.w_out * g.s_w, h += g.s_h;
      at += g.s_h * row - g.w_out * g.s_w * all;
    }
    if (h >= g.h_out * g.s_h - g.p_h) {
      h -= g.h_out * g.s_h;
      at += (g.h_in - g.h_out * g.s_h) * row;
    }
  }
};

// Block (tile of the product, share): parts (shares, groups * c_out, k_h * k_w * c_in).
//
// WM x WN sums to a warp, and SLICES warps for the same sums, of which each takes its slice of the BK
// pixels; VG and VX entries of gy and x to a pack; G and X are the families of their prologues.
template <class Math, int BM, int BN, int WM, int WN, int SLICES, int BK, int VG, int VX, int G, int X>
__global__ void __launch_bounds__((BM / WM) * (BN / WN) * SLICES * 32, 1)
    conv2d_bwd_weight(const typename Math::T* __restrict__ gy, const typename Math::T* __restrict__ gy_y,
                      const typename Math::T* __restrict__ gy_k, const typename Math::T* __restrict__ x,
                      const typename Math::T* __restrict__ x_k, typename Math::T* __restrict__ parts, const WeightSizes g) {
  typedef typename Math::T T;
  constexpr int TILE_WARPS = (BM / WM) * (BN / WN), THREADS = TILE_WARPS * SLICES * 32, PARTS = THREADS / BK;
  constexpr int PITCH_A = pitch<T>(BM), PITCH_B = pitch<T>(BN), STAGE = BK * (PITCH_A + PITCH_B);
  static_assert(THREADS % BK == 0 && BK % SLICES == 0, "threads divide the pixels of a stage");
  typedef Outer<Math, WM, WN, PITCH_A, PITCH_B> Tile;
  constexpr int PASSES_A = BM / VG / PARTS, PASSES_B = BN / VX / PARTS;
  constexpr int APART_A = PARTS * VG, APART_B = PARTS * VX;  // entries from one pass to the next
  static_assert(BM % APART_A == 0 && BN % APART_B == 0, "whole passes");
  extern __shared__ __align__(128) unsigned char memory[];
  T* const stages = reinterpret_cast<T*>(memory);

  const int columns = g.k_h * g.k_w * g.c_in;
  const int across = (columns + BN - 1) / BN, down = (g.c_out + BM - 1) / BM;
  const int n0 = blockIdx.x % across * BN, m0 = blockIdx.x / across % down * BM, group = blockIdx.x / across / down;
  const int begin = blockIdx.y * g.share, end = min(begin + g.share, g.pixels);

  // This thread's row of both tiles, and its first entry of it. Where four threads share a row, eight that
  // store together have two rows that are two apart: those begin in different halves of the banks.
  const int line = threadIdx.x / PARTS, row = PARTS == 4 ? (line & ~3) | (line & 1) << 1 | (line >> 1 & 1) : line;
  const int m = threadIdx.x % PARTS * VG, n = threadIdx.x % PARTS * VX;
  Walk walk;
  walk.start(g, begin + row);
  int at_gy = (begin + row) * g.c_out * g.groups + group * g.c_out + m0 + m;
  const int rows_left = g.c_out - m0 - m;  // output channels from this thread's first one on

  // The filter entries that this thread brings: their tap's distance from tap (0, 0), and that in entries.
  // Behind the last entry this goes on to taps that there are not: their sums are not written.
  int tap_h[PASSES_B], tap_w[PASSES_B], tap_at[PASSES_B];
  UNROLL for (int j = 0; j < PASSES_B; ++j) {
    const int entry = n0 + n + j * APART_B, tap = entry / g.c_in;
    tap_h[j] = tap / g.k_w * g.d_h;
    tap_w[j] = tap % g.k_w * g.d_w;
    tap_at[j] = (tap / g.k_w * g.d_h * g.w_in + tap_w[j]) * g.c_in * g.groups + group * g.c_in + entry % g.c_in;
  }
  T *const k_left = stages + 2 * STAGE, *const k_right = k_left + 5 * BM;  // coefficients (5, BM) and (5, BN)
  if (G != AS_IS)
    for (int i = threadIdx.x; i < 5 * BM; i += THREADS)
      k_left[i] = m0 + i % BM < g.c_out ? gy_k[(i / BM * g.groups + group) * g.c_out + m0 + i % BM] : T(0);
  if (X != AS_IS)
    for (int i = threadIdx.x; i < 5 * BN; i += THREADS)
      k_right[i] = x_k[(i / BN * g.groups + group) * g.c_in + (n0 + i % BN) % g.c_in];
  if (G != AS_IS || X != AS_IS) __syncthreads();

  Bring<T, VG, PASSES_A, G> left;
  Bring<T, VX, PASSES_B, X> right;
  const int to_a = kept(row * PITCH_A + m), to_b = kept(BK * PITCH_A + row * PITCH_B + n);
  auto bring = [&](int stage) {
    const bool real = walk.pixel < end;
    const int rows = real ? rows_left : 0, h = real ? walk.h : -(1 << 29);
    UNROLL for (int j = 0; j < PASSES_A; ++j)
      left.begin(j, stages + (to_a + stage + j * APART_A), gy + at_gy + j * APART_A, gy_y + at_gy + j * APART_A, j * APART_A < rows);
    const T* const from = kept_pointer(x + walk.at);
    UNROLL for (int j = 0; j < PASSES_B; ++j) {
      const bool inside = unsigned(h + tap_h[j]) < unsigned(g.h_in) && unsigned(walk.w + tap_w[j]) < unsigned(g.w_in);
      right.begin(j, stages + (to_b + stage + j * APART_B), from + tap_at[j], from, inside);
    }
    walk.step(g, BK);
    at_gy += BK * g.c_out * g.groups;
  };
  auto finish = [&](int stage) {
    Prologue<T, G, VG> of_gy;
    Prologue<T, X, VX> of_x;
    of_gy.start(g.gy_kind);
    of_x.start(g.x_kind);
    UNROLL for (int j = 0; j < PASSES_A; ++j) {
      of_gy.load(k_left, BM, m + j * APART_A);
      left.finish(j, stages + (to_a + stage + j * APART_A), of_gy);
    }
    UNROLL for (int j = 0; j < PASSES_B; ++j) {
      of_x.load(k_right, BN, n + j * APART_B);
      right.finish(j, stages + (to_b + stage + j * APART_B), of_x);
    }
  };

  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % TILE_WARPS, slice = threadIdx.x / 32 / TILE_WARPS;
  const int warp_m = warp % (BM / WM) * WM, warp_n = warp / (BM / WM) * WN;
  const int from_a = kept(slice * (BK / SLICES) * PITCH_A + warp_m + Tile::first_a(lane));
  const int from_b = kept(BK * PITCH_A + slice * (BK / SLICES) * PITCH_B + warp_n + Tile::first_b(lane));
  Tile tile;
  tile.clear();

  bring(0);
  finish(0);
  copy_commit();
  int now = 0;
  for (int left_over = end - begin; left_over > 0; left_over -= BK) {
    copy_wait<0>();
    __syncthreads();  // this stage is there for all, and all are done with the other one
    const bool more = left_over > BK;
    if (more) bring(STAGE - now);
    copy_commit();
    tile.template add<BK / SLICES, Flat<PITCH_B>>(stages + (from_a + now), stages + (from_b + now));
    if (more) finish(STAGE - now);
    now = STAGE - now;
  }
  T* const share = parts + (blockIdx.y * g.groups + group) * g.c_out * columns;
  write_share<SLICES, TILE_WARPS, VX>(tile, stages, share, m0 + warp_m, g.c_out, columns, [&](int i) { return n0 + warp_n + i; });
}

// Entry `at` of an operand, which is of channel `channel` of c.
template <class T> INLINE T value_at(const T* x, const T* y, const T* k, int kind, int at, int c, int channel) {
  if (kind == PLAIN) return x[at];
  if (kind <= RECTIFIED) {
    Prologue<T, AFFINE, 1> prologue;
    prologue.start(kind), prologue.load(k, c, channel);
    return prologue.apply(x[at], T(0), 0);
  }
  Prologue<T, BACKWARD, 1> prologue;
  prologue.start(kind), prologue.load(k, c, channel);
  return prologue.apply(x[at], y[at], 0);
}

// Entry n of the filter of output channel o, from the pixels `first` to `last` - 1, by the definition.
template <class T>
INLINE T weight_entry(const T* gy, const T* gy_y, const T* gy_k, const T* x, const T* x_k, const WeightSizes& g, int first, int last, int o, int n) {
  const int group = o / g.c_out, c = group * g.c_in + n % g.c_in, tap = n / g.c_in, all_out = g.c_out * g.groups, all_in = g.c_in * g.groups;
  T sum = 0;
  _Pragma("unroll 1") for (int pixel = first; pixel < last; ++pixel) {
    Walk walk;
    walk.start(g, pixel);
    const int h = tap / g.k_w * g.d_h, w = tap % g.k_w * g.d_w;
    if (unsigned(walk.h + h) >= unsigned(g.h_in) || unsigned(walk.w + w) >= unsigned(g.w_in)) continue;
    const int at = pixel * all_out + o;
    const T left = value_at(gy, gy_y, gy_k, g.gy_kind, at, all_out, o);
    const T right = value_at(x, x, x_k, g.x_kind, walk.at + (h * g.w_in + w) * all_in + c, all_in, c);
    sum = multiply_add(left, right, sum);
  }
  return sum;
}

// gw (c_out, c_in, k_h, k_w) = the sum of the shares; `accumulate`: gw +=. A block has 32 entries of a share
// side by side. Each of its SLICES warps adds its run of shares, and the runs are added in order, all in
// float64.
//
// With `careful`, a sum that is not finite is computed again by the definition, in which padding takes no
// part: the products of tiles above multiply it too, and zero times infinity is NaN.
template <class T, int SLICES>
__global__ void __launch_bounds__(SLICES * 32)
    add_shares(const T* __restrict__ parts, T* __restrict__ gw, int shares, int accumulate, int careful, const T* __restrict__ gy,
               const T* __restrict__ gy_y, const T* __restrict__ gy_k, const T* __restrict__ x, const T* __restrict__ x_k, const WeightSizes g) {
  __shared__ double sums[SLICES][32];
  const int taps = g.k_h * g.k_w, columns = taps * g.c_in, size = g.groups * g.c_out * columns;
  const int lane = threadIdx.x % 32, slice = threadIdx.x / 32, i = blockIdx.x * 32 + lane;
  const int run = (shares + SLICES - 1) / SLICES, last = min(run * (slice + 1), shares);
  auto total = [&](double mine) {
    sums[slice][lane] = mine;
    __syncthreads();
    double sum = 0;
    for (int s = 0; s < SLICES; ++s) sum += sums[s][lane];
    return sum;
  };
  double sum = 0;
  if (i < size)
    _Pragma("unroll 8") for (int s = run * slice; s < last; ++s) sum += parts[s * size + i];
  sum = total(sum);
  const bool again = careful && !(sum - sum == 0);
  if (__syncthreads_or(again)) {  // rarely; every warp takes a run of the pixels
    const int pixels = (g.pixels + SLICES - 1) / SLICES;
    double other = 0;
    if (again && i < size)
      other = weight_entry(gy, gy_y, gy_k, x, x_k, g, pixels * slice, min(pixels * (slice + 1), g.pixels), i / columns, i % columns);
    other = total(other);
    if (again) sum = other;
  }
  if (slice > 0 || i >= size) return;
  const int o = i / columns, n = i % columns, at = (o * g.c_in + n % g.c_in) * taps + n / g.c_in;
  gw[at] = T(accumulate ? gw[at] + sum : sum);
}
