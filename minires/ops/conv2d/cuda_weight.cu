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
#include "mma.cuh"
#include "prologue.cuh"
#include "cuda_outer.cuh"

// One convolution, or the part of one that a launch works on. Channels are those of one group.
struct WeightSizes {
  int h_in, w_in, c_in, c_out, groups, k_h, k_w, s_h, s_w, p_h, p_w, d_h, d_w, h_out, w_out;
  int pixels, share;           // pixels of y, and how many of them a share has
  Divisor per_image, per_row;  // h_out * w_out and w_out
  int gy_kind, x_kind;         // the prologues
  int by_w, by_h, by_entries;  // how far Walk::step goes, before it looks at the borders
};

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

// What a thread brings to one of the two tiles: PASSES packs of V entries, all of one pixel. PARTS threads
// share a pixel. A plain operand goes to shared memory past the registers. One with a prologue is loaded into
// registers before the products, and goes through the prologue and into shared memory behind them.
template <class T, int WIDTH, int V, int PARTS, int FAMILY> struct Bring {
  static constexpr bool HELD = FAMILY != AS_IS, HELD_Y = FAMILY == BACKWARD;
  static constexpr int PACKS = WIDTH / V, PASSES = (PACKS + PARTS - 1) / PARTS;
  static_assert(PASSES <= 32, "a bit for each pass");
  Pack<T, V> held[HELD ? PASSES : 1], held_y[HELD_Y ? PASSES : 1];
  unsigned inside;  // bit j: pass j has something to bring, the others bring zeros

  static INLINE int column(int part, int j) { return (part + PARTS * j) * V; }
  static INLINE bool has(int part, int j) { return PACKS % PARTS == 0 || part + PARTS * j < PACKS; }

  INLINE void begin(int j, T* to, const T* from, const T* from_y, bool valid) {
    if (!HELD) {
      copy_async<V * int(sizeof(T))>(shared_address(to), from, valid);
      return;
    }
    inside = (j ? inside : 0u) | unsigned(valid) << j;
    if (!valid) return;
    held[HELD ? j : 0] = load_pack<V>(from);
    if (HELD_Y) held_y[HELD_Y ? j : 0] = load_pack<V>(from_y);
  }
  // k (5, WIDTH): the coefficients of the tile's columns, in shared memory
  INLINE void finish(int part, int j, T* to, const T* k, int kind) const {
    if (!HELD) return;
    Prologue<T, FAMILY, V> prologue;
    prologue.start(kind);
    prologue.load(k, WIDTH, column(part, j));
    Pack<T, V> r = {};
    if (inside >> j & 1)
      UNROLL for (int i = 0; i < V; ++i) r.v[i] = prologue.apply(held[HELD ? j : 0].v[i], held_y[HELD_Y ? j : 0].v[i], i);
    TOUCH(SHARED_STORE, to, V * int(sizeof(T)));
    *reinterpret_cast<Pack<T, V>*>(to) = r;
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
  typedef Bring<T, BM, VG, PARTS, G> Left;
  typedef Bring<T, BN, VX, PARTS, X> Right;
  extern __shared__ __align__(128) unsigned char memory[];
  T* const stages = reinterpret_cast<T*>(memory);

  const int columns = g.k_h * g.k_w * g.c_in;
  const int across = (columns + BN - 1) / BN, down = (g.c_out + BM - 1) / BM;
  const int n0 = blockIdx.x % across * BN, m0 = blockIdx.x / across % down * BM, group = blockIdx.x / across / down;
  const int begin = blockIdx.y * g.share, end = min(begin + g.share, g.pixels);

  // This thread's row of both tiles, and its part of it. Where four threads share a row, eight that store
  // together have two rows that are two apart: those begin in different halves of the banks.
  const int part = threadIdx.x % PARTS, line = threadIdx.x / PARTS;
  const int row = PARTS == 4 ? (line & ~3) | (line & 1) << 1 | (line >> 1 & 1) : line;
  Walk walk;
  walk.start(g, begin + row);
  int at_gy = (begin + row) * g.c_out * g.groups + group * g.c_out + m0 + Left::column(part, 0);
  const int rows_left = g.c_out - m0 - Left::column(part, 0);  // output channels from this thread's first one on

  // The filter entries that this thread brings: their tap's distance from tap (0, 0), and that in entries.
  int tap_h[Right::PASSES], tap_w[Right::PASSES], tap_at[Right::PASSES];
  UNROLL for (int j = 0; j < Right::PASSES; ++j) {
    const int n = n0 + Right::column(part, j), tap = n / g.c_in;
    tap_h[j] = n < columns ? tap / g.k_w * g.d_h : -(1 << 30);  // a column too many is outside of any image
    tap_w[j] = tap % g.k_w * g.d_w;
    tap_at[j] = (tap / g.k_w * g.d_h * g.w_in + tap_w[j]) * g.c_in * g.groups + group * g.c_in + n % g.c_in;
  }
  T *const k_left = stages + 2 * STAGE, *const k_right = k_left + 5 * BM;  // coefficients (5, BM) and (5, BN)
  if (Left::HELD)
    for (int i = threadIdx.x; i < 5 * BM; i += THREADS)
      k_left[i] = m0 + i % BM < g.c_out ? gy_k[(i / BM * g.groups + group) * g.c_out + m0 + i % BM] : T(0);
  if (Right::HELD)
    for (int i = threadIdx.x; i < 5 * BN; i += THREADS)
      k_right[i] = n0 + i % BN < columns ? x_k[(i / BN * g.groups + group) * g.c_in + (n0 + i % BN) % g.c_in] : T(0);
  if (Left::HELD || Right::HELD) __syncthreads();

  Left left;
  Right right;
  const int to_a = kept(row * PITCH_A + Left::column(part, 0)), to_b = kept(BK * PITCH_A + row * PITCH_B + Right::column(part, 0));
  auto bring = [&](int stage) {
    T *const a = stages + (to_a + stage), *const b = stages + (to_b + stage);
    const bool real = walk.pixel < end;
    const int rows = real ? rows_left : 0, h = real ? walk.h : -(1 << 29);
    UNROLL for (int j = 0; j < Left::PASSES; ++j) {
      constexpr int APART = PARTS * VG;
      if (Left::has(part, j)) left.begin(j, a + j * APART, gy + at_gy + j * APART, gy_y + at_gy + j * APART, j * APART < rows);
    }
    const T* const from = x + walk.at;
    UNROLL for (int j = 0; j < Right::PASSES; ++j) {
      const bool inside = unsigned(h + tap_h[j]) < unsigned(g.h_in) && unsigned(walk.w + tap_w[j]) < unsigned(g.w_in);
      if (Right::has(part, j)) right.begin(j, b + j * PARTS * VX, from + tap_at[j], from, inside);
    }
    walk.step(g, BK);
    at_gy += BK * g.c_out * g.groups;
  };
  auto finish = [&](int stage) {
    UNROLL for (int j = 0; j < Left::PASSES; ++j)
      if (Left::has(part, j)) left.finish(part, j, stages + (to_a + stage + j * PARTS * VG), k_left, g.gy_kind);
    UNROLL for (int j = 0; j < Right::PASSES; ++j)
      if (Right::has(part, j)) right.finish(part, j, stages + (to_b + stage + j * PARTS * VX), k_right, g.x_kind);
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
    tile.template add<BK / SLICES>(stages + (from_a + now), stages + (from_b + now));
    if (more) finish(STAGE - now);
    now = STAGE - now;
  }

  tile.join();
  // The slices' sums meet in shared memory, and the first slice adds them in order.
  constexpr int SUMS = Tile::ROWS * Tile::COLS;
  if (SLICES > 1) {
    __syncthreads();  // the stages have been read
    T* const mine = stages + (warp * SUMS * 32 + lane);
    if (slice > 0)
      UNROLL for (int i = 0; i < SUMS; ++i) {
        TOUCH(SHARED_STORE, mine, int(sizeof(T)));
        mine[((slice - 1) * TILE_WARPS * SUMS + i) * 32] = tile.sum[i / Tile::COLS][i % Tile::COLS];
      }
    __syncthreads();
    if (slice > 0) return;
    for (int s = 0; s < SLICES - 1; ++s)
      UNROLL for (int i = 0; i < SUMS; ++i)
        tile.sum[i / Tile::COLS][i % Tile::COLS] += shared_pack<1>(mine + (s * TILE_WARPS * SUMS + i) * 32).v[0];
  }
  // Runs of a lane's sums are written at once where the row of a filter begins at a multiple of them.
  constexpr int RUN = Tile::GROUP < VX ? Tile::GROUP : VX;
  UNROLL for (int i = 0; i < Tile::ROWS; ++i) {
    const int m = m0 + warp_m + Tile::row(lane, i);
    UNROLL for (int j = 0; j < Tile::COLS; j += RUN) {
      const int n = n0 + warp_n + Tile::column(lane, j);
      if (m >= g.c_out || n >= columns || Tile::lane_depth(lane)) continue;
      Pack<T, RUN> v;
      UNROLL for (int e = 0; e < RUN; ++e) v.v[e] = tile.sum[i][j + e];
      store_pack<RUN>(parts + (((blockIdx.y * g.groups + group) * g.c_out + m) * columns + n), v);
    }
  }
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

// One entry of one share by the definition, in which padding takes no part: not even where gy is infinite,
// which the product above multiplies by the padding's zeros.
template <class T>
INLINE T weight_entry(const T* gy, const T* gy_y, const T* gy_k, const T* x, const T* x_k, const WeightSizes& g, int share, int o, int n) {
  const int group = o / g.c_out, c = group * g.c_in + n % g.c_in, tap = n / g.c_in, all_out = g.c_out * g.groups, all_in = g.c_in * g.groups;
  const int end = min((share + 1) * g.share, g.pixels);
  T sum = 0;
  for (int pixel = share * g.share; pixel < end; ++pixel) {
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
// float64. With `careful`, what is not finite is computed again by the definition.
template <class T, int SLICES>
__global__ void __launch_bounds__(SLICES * 32)
    add_shares(const T* __restrict__ parts, T* __restrict__ gw, int shares, int accumulate, int careful, const T* __restrict__ gy,
               const T* __restrict__ gy_y, const T* __restrict__ gy_k, const T* __restrict__ x, const T* __restrict__ x_k, const WeightSizes g) {
  __shared__ double sums[SLICES][32];
  const int taps = g.k_h * g.k_w, columns = taps * g.c_in, size = g.groups * g.c_out * columns;
  const int lane = threadIdx.x % 32, slice = threadIdx.x / 32, i = blockIdx.x * 32 + lane;
  const int run = (shares + SLICES - 1) / SLICES, last = min(run * (slice + 1), shares);
  double sum = 0;
  if (i < size) {
    const T* const from = parts + i;
    _Pragma("unroll 8") for (int s = run * slice; s < last; ++s) sum += from[s * size];
    if (careful && !(sum - sum == 0)) {  // rarely
      sum = 0;
      _Pragma("unroll 1") for (int s = run * slice; s < last; ++s) {
        const T part = from[s * size];
        sum += part - part == 0 ? part : weight_entry(gy, gy_y, gy_k, x, x_k, g, s, i / columns, i % columns);
      }
    }
  }
  sums[slice][lane] = sum;
  __syncthreads();
  if (slice > 0 || i >= size) return;
  for (int s = 1; s < SLICES; ++s) sum += sums[s][lane];
  const int o = i / columns, n = i % columns, at = (o * g.c_in + n % g.c_in) * taps + n / g.c_in;
  gw[at] = T(accumulate ? gw[at] + sum : sum);
}
