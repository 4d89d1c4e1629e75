// Convolution of any geometry: the product of the matrix of all windows with the weights.
//
// Row m of that matrix is the window of output pixel m: its columns run over the taps of the kernel,
// and over the channels of each. The matrix is never written. It has k_h k_w times the entries of
// x, but a block of threads only needs BM rows of it and, at any moment, ROW bytes of each: a tile,
// which is copied from where these pixels lie in x ("implicit GEMM").
//
//                c_in     c_in     c_in
//              +--------+--------+--------+---
//    pixel m0  |tap 0,0 |tap 0,1 |tap 0,2 | ..      the tile of A walks along the rows,
//          :   |   [ tile ] ->   |        |         the tile of B along the packed weights
//              +--------+--------+--------+---
//
// While one stage of shared memory is multiplied, others are filled. Where nothing is to be computed
// on the way (family AS_IS), copies run beside the threads (cp.async). Otherwise threads load what
// comes next into registers before they multiply, apply the prologue afterwards, and store it.
#include "cuda_conv.cuh"

// The tile of A. A thread copies packs of VEC entries: every STEP-th row, always in the same place of
// a row. That place walks over channels and taps, one addition a step; which of the rows lie inside
// of x is found anew only where the walk comes to another tap.
template <class Math, int THREADS, int BM, int ROW, int VEC, int FAMILY> struct Windows {
  typedef typename Math::T T;
  typedef typename Math::Entry Entry;
  // whether numbers pass through registers: to apply a prologue, or to become shorter ones
  static constexpr bool HELD = FAMILY != AS_IS || sizeof(Entry) != sizeof(T);
  static constexpr bool USES_Y = Prologue<T, FAMILY, VEC>::USES_Y;
  static constexpr int BYTES = VEC * int(sizeof(Entry)), PACKS = ROW / BYTES, AHEAD = ROW / int(sizeof(Entry));
  static constexpr int STEP = THREADS / PACKS, PASSES = BM / STEP;
  static constexpr int KEPT = HELD ? PASSES : 1, KEPT_Y = USES_Y ? PASSES : 1;
  static_assert(THREADS % PACKS == 0 && BM % STEP == 0, "threads divide the tile");
  static_assert(STEP % 8 == 0, "a thread's rows are permuted alike");
  static_assert(PASSES <= 32, "a bit for each pass");

  int top[PASSES], left[PASSES];  // where each row's window begins: row and column of x,
  int first[PASSES];              // and its entry, which may lie before the first one of x
  int channel, r, s;              // the place of this thread's packs in a window
  int by;                         // entries from where a window begins to that place
  unsigned inside;                // bit i: there, row i is inside of x
  Shared to;                      // where row 0 goes in the first stage
  Pack<T, VEC> held[KEPT], held_y[KEPT_Y];
  unsigned held_inside;
  Prologue<T, FAMILY, VEC> prologue;

  INLINE void start(Shared a, const Conv& g, int m0, int group, int kind) {
    prologue.start(kind);
    const int row = threadIdx.x / PACKS, pack = threadIdx.x % PACKS;
    UNROLL for (int i = 0; i < PASSES; ++i) {
      const int m = m0 + row + i * STEP;
      int image, rest, p, q;
      divide(m, g.per_image, image, rest);
      divide(rest, g.per_row, p, q);
      top[i] = m < g.pixels ? p * g.s_h - g.p_h : -(1 << 30);  // no pixel: never inside
      left[i] = q * g.s_w - g.p_w;
      // Unsigned, for the product may pass the largest int on the way to an entry that does not.
      first[i] = int(((unsigned(image) * g.h_in + unsigned(p * g.s_h - g.p_h)) * g.w_in + left[i]) * g.c_in * g.groups +
                     group * g.c_in);
    }
    to = kept(a + (place_rows<ROW>(row, pack * BYTES / 16) + pack * BYTES % 16));
    channel = pack * VEC;
    r = s = 0;
    turn(g);
  }

  INLINE void turn(const Conv& g) {  // to the tap that `channel` has come to
    while (channel >= g.c_in) {
      channel -= g.c_in;
      if (++s == g.k_w) s = 0, ++r;
    }
    const int down = r * g.d_h, across = s * g.d_w;
    by = (down * g.w_in + across) * g.c_in * g.groups + channel;
    inside = 0;
    if (r < g.k_h)  // behind the last tap are the zeros that fill the last tile
      UNROLL for (int i = 0; i < PASSES; ++i)
        inside |= unsigned(unsigned(top[i] + down) < unsigned(g.h_in) && unsigned(left[i] + across) < unsigned(g.w_in)) << i;
  }
  INLINE void walk(const Conv& g) {
    channel += AHEAD;
    by += AHEAD;
    if (channel >= g.c_in) turn(g);
  }

  INLINE Shared at(int i) const { return to + i * STEP * ROW; }

  // Begin to bring the next tile: all the way, or as far as this thread's registers.
  INLINE void begin(const T* x, const T* x_y, const T* k, int stage, const Conv& g, int group) {
    UNROLL for (int i = 0; i < PASSES; ++i) {
      const unsigned ok = inside & 1u << i;
      if (!HELD) {
        copy_async<BYTES>(at(i) + stage, x + (first[i] + by), ok);
      } else if (ok) {
        held[i % KEPT] = load_pack<VEC>(x + (first[i] + by));
        if (USES_Y) held_y[i % KEPT_Y] = load_pack<VEC>(x_y + (first[i] + by));
      }
    }
    if (HELD) {
      prologue.load(k, g.c_in * g.groups, group * g.c_in + channel);
      held_inside = inside;
    }
    walk(g);
  }

  // Apply the prologue to what is in registers, and put it into shared memory. Outside of x there is
  // a zero, to which no prologue applies.
  INLINE void finish(int stage) {
    if (!HELD) return;
    UNROLL for (int i = 0; i < KEPT; ++i) {
      Pack<T, VEC> v;
      UNROLL for (int e = 0; e < VEC; ++e)
        v.v[e] = held_inside & 1u << i ? prologue.apply(held[i].v[e], held_y[i % KEPT_Y].v[e], e) : T(0);
      shared_store(at(i) + stage, Math::entries(v));
    }
  }
};

// The tile of B: BN rows of the packed weights, ROW bytes of each.
template <class Math, int THREADS, int BN, int ROW, class Tile> struct Weights {
  typedef typename Math::Entry Entry;
  static constexpr int CHUNK = WHOLE<Entry>, PACKS = ROW / 16;
  static constexpr int STEP = THREADS / PACKS, PASSES = (BN + STEP - 1) / STEP;
  static_assert(STEP % 16 == 0, "a thread's rows are permuted alike");
  const Entry* from;
  unsigned inside;
  Shared to;

  INLINE void start(Shared b, const Entry* w, const Conv& g, int n0) {
    const int row = threadIdx.x / PACKS, pack = threadIdx.x % PACKS;
    from = w + ((n0 + row) * g.pitch + pack * CHUNK);
    to = kept(b + Tile::place_columns(row, pack));
    inside = 0;
    UNROLL for (int i = 0; i < PASSES; ++i) inside |= unsigned(n0 + row + i * STEP < g.c_out) << i;
  }
  INLINE void begin(int stage, const Conv& g) {
    UNROLL for (int i = 0; i < PASSES; ++i) {
      if (BN % STEP && int(threadIdx.x) / PACKS + i * STEP >= BN) break;
      copy_async<16>(to + (stage + i * STEP * ROW), from + i * STEP * g.pitch, inside & 1u << i);
    }
    from += ROW / int(sizeof(Entry));
  }
};

// y = act(conv(x, w) + bias + residual), and the moments of each block of BM pixels.
//
// x, x_y, k, kind  an operand of the family (prologue.cuh): (images, h_in, w_in, groups c_in)
// w                packed weights (groups c_out, pitch): of each output channel taps, then channels
// bias, residual, moments, relu  see epilogue.cuh
// One block of threads for BM pixels, BN channels and one group; groups follow each other first, then
// channels, then pixels: blocks that run together read the same pixels.
template <class Math, int BM, int BN, int WM, int WN, int ROW, int VEC, int FAMILY, int STAGES>
__global__ void __launch_bounds__((BM / WM) * (BN / WN) * 32)
    conv2d_windows(const typename Math::T* __restrict__ x, const typename Math::T* __restrict__ x_y,
                   const typename Math::T* __restrict__ k, const typename Math::Entry* __restrict__ w,
                   const typename Math::T* __restrict__ bias, const typename Math::T* __restrict__ residual,
                   typename Math::T* __restrict__ y, typename Math::T* __restrict__ moments, Conv g, int kind,
                   int relu) {
  constexpr int THREADS = (BM / WM) * (BN / WN) * 32, STAGE = (BM + BN) * ROW;
  typedef typename Math::T T;
  typedef WarpTile<Math, WM, WN, ROW> Tile;
  extern __shared__ __align__(128) unsigned char memory[];

  const int warp = threadIdx.x / 32, warp_m = warp % (BM / WM), warp_n = warp / (BM / WM);
  const int blocks_n = (g.c_out + BN - 1) / BN, group = blockIdx.x % g.groups;
  const int block_n = blockIdx.x / g.groups % blocks_n, block_m = blockIdx.x / g.groups / blocks_n;
  const int m0 = block_m * BM, n0 = block_n * BN;
  w += group * g.c_out * g.pitch;

  const Shared a = shared_address(memory), b = a + BM * ROW;  // of the first stage
  Tile tile;
  tile.start(a, b, threadIdx.x % 32, warp_m * WM, warp_n * WN);
  Windows<Math, THREADS, BM, ROW, VEC, FAMILY> windows;
  Weights<Math, THREADS, BN, ROW, Tile> weights;
  windows.start(a, g, m0, group, kind);
  weights.start(b, w, g, n0);

  constexpr int AHEAD = ROW / int(sizeof(typename Math::Entry));
  const int steps = (g.k_h * g.k_w * g.c_in + AHEAD - 1) / AHEAD;
  UNROLL for (int step = 0; step < STAGES - 1; ++step) {
    if (step < steps) {
      weights.begin(step * STAGE, g);
      windows.begin(x, x_y, k, step * STAGE, g, group);
      windows.finish(step * STAGE);
    }
    copy_commit();  // a group for each step, be it empty: so the wait below counts right
  }
  int now = 0, next = (STAGES - 1) * STAGE;  // the stages that are read and written, in bytes
  for (int step = 0; step < steps; ++step) {
    copy_wait<STAGES - 2>();
    __syncthreads();  // this stage is there for all, and all have done with the one before
    const bool more = step + STAGES - 1 < steps;
    if (more) {
      weights.begin(next, g);
      windows.begin(x, x_y, k, next, g, group);
    }
    copy_commit();
    tile.add_product(now);
    if (more) windows.finish(next);
    now = now == (STAGES - 1) * STAGE ? 0 : now + STAGE;
    next = next == (STAGES - 1) * STAGE ? 0 : next + STAGE;
  }

  const int row0 = m0 + warp_m * WM + Tile::lane_row(threadIdx.x % 32);
  auto place = [&](int i, int& image, int& p, int& q) {
    const int m = row0 + Tile::row(i);
    int rest;
    divide(m, g.per_image, image, rest);
    divide(rest, g.per_row, p, q);
    return m < g.pixels;
  };
  const int column0 = n0 + warp_n * WN;
  leave_out_padding<Math, Tile, WN, FAMILY>(tile, x, x_y, k, kind, w, g, group, column0,
                                            column0 + Tile::GROUP * Tile::lane_column(threadIdx.x % 32), place);
  int at[Tile::ROWS];
  UNROLL for (int i = 0; i < Tile::ROWS; ++i) {
    int image, p, q;
    const bool there = place(i, image, p, q);
    at[i] = there ? g.y_begin + image * g.y_image + p * g.y_row + q * g.y_pixel : -1;
  }
  const Ends<T> ends = {bias, residual, y, moments, relu, g.c_out * g.groups};
  finish_block<Tile, BM, BN, WM>(tile, at, min(BM, g.pixels - m0), block_m, block_n == 0 && group == 0, warp_m,
                                 warp_n * WN, group * g.c_out + n0, min(BN, g.c_out - n0), g.c_out % Tile::GROUP == 0,
                                 reinterpret_cast<T*>(memory), ends);
}
