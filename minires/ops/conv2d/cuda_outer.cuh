// Products of two tiles in shared memory whose rows are the index that is summed over.
//
// Rows are pixels, and entries of a row are channels, as in memory: nothing is transposed on the way
// here. (In minires/kernels/cuda/tile.cuh it is the other way round, the summed index lies side by side.)
#pragma once
#include "common.cuh"
#include "mma.cuh"
#include "prologue.cuh"

// A row of W entries is followed by 32 bytes of nothing: then the four pixels and eight channels that a
// warp reads together for tensor cores lie in 32 different banks (8 * pixel + channel).
template <class T> INLINE constexpr int pitch(int width) { return width + 32 / int(sizeof(T)); }

// Where the tile of B has what: entry `column(n)` of row `row(k)` belongs to pixel k and column n of the
// product. In the simplest case to each pixel there is a row of all columns.
template <int PITCH> struct Flat {
  static INLINE constexpr int row(int k) { return k * PITCH; }
  static INLINE constexpr int column(int n) { return n; }
};
// Or the columns are the taps of a kernel of 3 x 3, or those of one of its rows, and C channels of each. Then
// the tile is a part of an image, W + 2 pixels wide, and from one tap to the next one moves by a pixel.
template <int PITCH, int C, int W> struct Taps {
  static INLINE constexpr int row(int k) { return (k / W * (W + 2) + k % W) * PITCH; }
  static INLINE constexpr int column(int n) { return (n / C / 3 * (W + 2) + n / C % 3) * PITCH + n % C; }
};

template <int V, class T> INLINE Pack<T, V> shared_pack(const T* p) {
  TOUCH(SHARED_LOAD, p, int(sizeof(T)) * V);
  return *reinterpret_cast<const Pack<T, V>*>(p);
}

template <class Math, int WM, int WN, int PITCH_A, int PITCH_B, bool TENSOR = Math::TENSOR> struct Outer;

// Without tensor cores: DOWN x ACROSS lanes, of which each holds ROWS x COLS sums, in runs of GROUP_A and
// GROUP that are read from shared memory at once. More sums per lane mean fewer reads per product: where a
// warp has but 16 rows, its four quarters (DEPTH) hold the same sums, each of every fourth pair of pixels,
// and are added at the end. Lanes that differ in bit 0 alone read the same of A, and in bit 1 alone the same
// of B: the hardware then serves a read of 16 bytes in half the time.
template <class Math, int WM, int WN, int PITCH_A, int PITCH_B> struct Outer<Math, WM, WN, PITCH_A, PITCH_B, false> {
  typedef typename Math::T T;
  static constexpr int DOWN = WM == 16 && WN > 64 ? 4 : WM / 8, DEPTH = DOWN == 2 ? 4 : 1, ACROSS = 32 / DOWN / DEPTH;
  static constexpr int ROWS = WM / DOWN, COLS = WN / ACROSS;
  static_assert(DOWN == 2 || DOWN == 4 || DOWN == 8, "16, 32 or 64 rows");
  static constexpr int run(int n) { return n % WHOLE<T> == 0 ? WHOLE<T> : n % 2 == 0 ? 2 : 1; }
  static constexpr int GROUP_A = run(ROWS), GROUP = run(COLS);
  T sum[ROWS][COLS];

  // Of the bits of a lane's number, 0 and 2 tell its column, and 4 where there are eight; 1 tells its row, and
  // so do 3 or 3 and 4 where there are four or eight; with two rows these tell the quarter of the warp.
  static INLINE int lane_row(int lane) { return (lane >> 1 & 1) | (lane >> 3 & (DOWN / 2 - 1)) << 1; }
  static INLINE int lane_column(int lane) { return (lane & 1) | (lane >> 1 & 2) | (ACROSS == 8 ? lane >> 2 & 4 : 0); }
  static INLINE int lane_depth(int lane) { return DEPTH == 4 ? lane >> 3 : 0; }
  static INLINE int row(int lane, int i) { return GROUP_A * lane_row(lane) + i / GROUP_A * GROUP_A * DOWN + i % GROUP_A; }
  static INLINE int column(int lane, int j) { return GROUP * lane_column(lane) + j / GROUP * GROUP * ACROSS + j % GROUP; }
  static INLINE int first_a(int lane) { return row(lane, 0) + lane_depth(lane) * 2 * PITCH_A; }  // where this lane begins to read
  static INLINE int first_b(int lane) { return column(lane, 0) + lane_depth(lane) * 2 * PITCH_B; }

  INLINE void clear() {
    UNROLL for (int i = 0; i < ROWS; ++i)
      UNROLL for (int j = 0; j < COLS; ++j) sum[i][j] = 0;
  }
  template <int PIXELS, class B> INLINE void add(const T* a, const T* b) {
    static_assert(PIXELS % (2 * DEPTH) == 0, "");
    UNROLL for (int step = 0; step < PIXELS / DEPTH; ++step) {
      const int k = step / 2 * 2 * DEPTH + step % 2;  // two pixels for each quarter
      T va[ROWS], vb[COLS];
      UNROLL for (int i = 0; i < ROWS; i += GROUP_A) {
        const Pack<T, GROUP_A> v = shared_pack<GROUP_A>(a + (k * PITCH_A + DOWN * i));
        UNROLL for (int e = 0; e < GROUP_A; ++e) va[i + e] = v.v[e];
      }
      UNROLL for (int j = 0; j < COLS; j += GROUP) {
        const Pack<T, GROUP> v = shared_pack<GROUP>(b + (B::row(k) + B::column(ACROSS * j)));
        UNROLL for (int e = 0; e < GROUP; ++e) vb[j + e] = v.v[e];
      }
      UNROLL for (int i = 0; i < ROWS; ++i)
        UNROLL for (int j = 0; j < COLS; ++j) sum[i][j] = multiply_add(va[i], vb[j], sum[i][j]);
    }
  }
  INLINE void join() {  // the quarters of the warp
    if (DEPTH == 4)
      UNROLL for (int i = 0; i < ROWS; ++i)
        UNROLL for (int j = 0; j < COLS; ++j) {
          sum[i][j] += __shfl_xor_sync(0xffffffffu, sum[i][j], 8);
          sum[i][j] += __shfl_xor_sync(0xffffffffu, sum[i][j], 16);
        }
  }
};

// With tensor cores: fragments of mma.cuh, g = lane / 4, t = lane % 4. No instruction transposes words of
// 32 bits while it reads fragments, so each word is read by itself. Shared memory holds float32; a number
// is rounded to what tensor cores take when it is read.
//
// A word of a fragment is one pixel in tf32 and two in bfloat16. Which pixel is which of the K that an
// instruction sums over does not matter, as long as A and B agree: with two in a word they are 4 apart.
template <class Math, int WM, int WN, int PITCH_A, int PITCH_B> struct Outer<Math, WM, WN, PITCH_A, PITCH_B, true> {
  typedef typename Math::T T;
  static constexpr int ROWS = WM / 8, COLS = WN / 4, GROUP = 2, DEPTH = 1, K = 32 / int(sizeof(typename Math::Entry));
  T sum[ROWS][COLS];

  static INLINE int lane_depth(int) { return 0; }
  static INLINE int row(int lane, int i) { return (lane >> 2) + 8 * i; }
  static INLINE int column(int lane, int j) { return 2 * (lane & 3) + j / 2 * 8 + j % 2; }
  static INLINE int first_a(int lane) { return (lane & 3) * PITCH_A + (lane >> 2); }
  static INLINE int first_b(int lane) { return (lane & 3) * PITCH_B + (lane >> 2); }

  INLINE void clear() {
    UNROLL for (int i = 0; i < ROWS; ++i)
      UNROLL for (int j = 0; j < COLS; ++j) sum[i][j] = 0;
  }
  INLINE void join() {}
  template <int PITCH> static INLINE unsigned word(const T* p) {
    const float v = shared_pack<1>(p).v[0];
    return K == 8 ? word_of(to_tf32(v)) : to_bf16(v, shared_pack<1>(p + (K == 8 ? 0 : 4 * PITCH)).v[0]);
  }
  template <int PIXELS, class B> INLINE void add(const T* a, const T* b) {
    static_assert(PIXELS % K == 0, "whole fragments");
    UNROLL for (int k = 0; k < PIXELS; k += K) {
      unsigned fa[WM / 16][4], fb[WN / 8][2];
      UNROLL for (int i = 0; i < WM / 16; ++i)
        UNROLL for (int q = 0; q < 4; ++q) fa[i][q] = word<PITCH_A>(a + ((k + q / 2 * (K / 2)) * PITCH_A + 16 * i + 8 * (q % 2)));
      UNROLL for (int j = 0; j < WN / 8; ++j)
        UNROLL for (int q = 0; q < 2; ++q) fb[j][q] = word<PITCH_B>(b + (B::row(k + q * (K / 2)) + B::column(8 * j)));
      UNROLL for (int i = 0; i < WM / 16; ++i)
        UNROLL for (int j = 0; j < WN / 8; ++j)
          mma<Math>(sum[2 * i][2 * j], sum[2 * i][2 * j + 1], sum[2 * i + 1][2 * j], sum[2 * i + 1][2 * j + 1], fa[i], fb[j][0], fb[j][1]);
    }
  }
};

// What a thread brings to one of the two tiles: PASSES packs of V entries. A plain operand goes to shared
// memory past the registers. One with a prologue is loaded into registers before the products, and goes
// through the prologue and into shared memory behind them.
template <class T, int V, int PASSES, int FAMILY> struct Bring {
  static constexpr bool HELD = FAMILY != AS_IS, HELD_Y = FAMILY == BACKWARD;
  static_assert(PASSES <= 32, "a bit for each pass");
  Pack<T, V> held[HELD ? PASSES : 1], held_y[HELD_Y ? PASSES : 1];
  unsigned inside;  // bit j: pass j has something to bring, the others bring zeros

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
  INLINE void finish(int j, T* to, const Prologue<T, FAMILY, V>& prologue) const {
    if (!HELD) return;
    Pack<T, V> r = {};
    if (inside >> j & 1)
      UNROLL for (int i = 0; i < V; ++i) r.v[i] = prologue.apply(held[HELD ? j : 0].v[i], held_y[HELD_Y ? j : 0].v[i], i);
    TOUCH(SHARED_STORE, to, V * int(sizeof(T)));
    *reinterpret_cast<Pack<T, V>*>(to) = r;
  }
};

// Ends a block: the sums of its SLICES meet in shared memory, which nothing else uses any more; the first
// slice adds them in order and writes them to a share of `rows` x `columns` sums. The warp's row m is row
// `m0 + m` there, its column n is `entry(n)`. V sums side by side are written at once if a lane has as many.
template <int SLICES, int TILE_WARPS, int V, class Tile, class T, class Entry>
INLINE void write_share(Tile& tile, T* shared, T* share, int m0, int rows, int columns, const Entry& entry) {
  constexpr int SUMS = Tile::ROWS * Tile::COLS, RUN = Tile::GROUP < V ? Tile::GROUP : V;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % TILE_WARPS, slice = threadIdx.x / 32 / TILE_WARPS;
  tile.join();
  if (SLICES > 1) {
    __syncthreads();  // the stages have been read
    T* const mine = shared + (warp * SUMS * 32 + lane);
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
  if (Tile::lane_depth(lane)) return;  // its sums are another lane's
  UNROLL for (int i = 0; i < Tile::ROWS; ++i) {
    const int m = m0 + Tile::row(lane, i);
    UNROLL for (int j = 0; j < Tile::COLS; j += RUN) {
      const int n = entry(Tile::column(lane, j));
      if (m >= rows || n >= columns) continue;
      Pack<T, RUN> v;
      UNROLL for (int e = 0; e < RUN; ++e) v.v[e] = tile.sum[i][j + e];
      store_pack<RUN>(share + (m * columns + n), v);
    }
  }
}
