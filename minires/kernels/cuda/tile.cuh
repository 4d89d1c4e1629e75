// The product of two tiles in shared memory, by the warps of a block.
//
// Both tiles keep the summed index side by side: a row of A is a pixel, a row of B an output
// channel. So channels-last images, and weights (c_out, k_h, k_w, c_in), get there by copies of 16
// bytes with nothing to transpose, and the same bytes serve every arithmetic.
//
//               summed index ->                        B (BN rows)
//        +--------------------------+             +----------------+
//     A  | chunk chunk chunk chunk  |   times     | ...            |   = sums (BM x BN)
//  (BM   | ...                      |             | ...            |     WM x WN by each warp
//  rows) +--------------------------+             +----------------+
//
// Shared memory has 32 banks of 4 bytes. Rows of 64 bytes one below the other would have every
// second row in the same banks, and eight lanes that read a column of chunks would wait for each
// other. Two remedies, both without a conflict:
//   permuted   rows of ROW (64 or 128) bytes, whose chunks of 16 bytes change places by row (place_rows)
//   padded     rows PITCH bytes apart, where PITCH = 16 (mod 32): eight rows begin in eight places
//
// A warp does WM x WN of the product. Its lanes stand in rows and columns; a lane holds
//   rows     lane_row + row(i)                      i < ROWS
//   columns  GROUP * lane_column + column(j)        j < COLS, GROUP of them side by side
#pragma once
#include "common.cuh"
#include "mma.cuh"

// Where a chunk of a row lies. Rows 8 apart are permuted alike.
template <int ROW> INLINE int place_rows(int row, int chunk) {
  static_assert(ROW == 64 || ROW == 128, "a row is half of the banks, or all");
  return row * ROW + 16 * (chunk ^ (ROW == 128 ? row & 7 : row >> 1 & 3));
}
// The same of a tile whose rows are read four by four; rows 16 apart are permuted alike.
template <int ROW> INLINE int place_fours(int row, int chunk) {
  return row * ROW + 16 * (chunk ^ (row >> 2 & 3));
}

template <class Math, int WM, int WN, int ROW, bool TENSOR = Math::TENSOR> struct WarpTile;

// ---- tensor cores: fragments of 16 rows by 32 bytes, each of which feeds several products ----

template <class Math, int WM, int WN, int ROW> struct WarpTile<Math, WM, WN, ROW, true> {
  static_assert(WM % 16 == 0 && WN % 16 == 0, "whole fragments");
  static constexpr int ROWS = WM / 8, COLS = WN / 4, GROUP = 2;
  static constexpr int ROW_LANES = 28;  // the bits of a lane's number that tell its row
  float sum[ROWS][COLS];
  Shared rows, columns;  // where this lane reads in both tiles

  static INLINE int row(int i) { return 8 * i; }
  static INLINE int column(int j) { return j / 2 * 8 + j % 2; }
  static INLINE int lane_row(int lane) { return lane >> 2; }
  static INLINE int lane_column(int lane) { return lane & 3; }
  static INLINE int place_columns(int row, int chunk) { return place_rows<ROW>(row, chunk); }
  static INLINE int order(int n) { return n; }  // where column n lies in a padded tile

  INLINE void clear() {
    UNROLL for (int i = 0; i < ROWS; ++i)
      UNROLL for (int j = 0; j < COLS; ++j) sum[i][j] = 0.f;
  }

  // The warp's part begins with row m of the tile at `a` and row n of the tile at `b`.
  INLINE void start(Shared a, Shared b, int lane, int m, int n) {
    rows = kept(a + place_rows<ROW>(m + (lane & 15), lane >> 4));
    columns = kept(b + place_rows<ROW>(n + (lane >> 4) * 8 + (lane & 7), lane >> 3 & 1));
    clear();
  }
  // Add the product of two permuted tiles, `stage` bytes behind those of `start`. From one fragment
  // to the next the row grows by 16, which leaves the permutation as it is; from one slice of 32
  // bytes to the next the chunk differs by an exclusive or: no address is computed in the loop.
  INLINE void add_product(int stage) {
    UNROLL for (int k = 0; k < ROW / 32; ++k) {
      const Shared at_a = (rows + stage) ^ 32 * k, at_b = (columns + stage) ^ 32 * k;
      unsigned fa[WM / 16][4], fb[WN / 16][4];
      UNROLL for (int i = 0; i < WM / 16; ++i) load_matrices(fa[i], at_a + i * 16 * ROW);
      UNROLL for (int j = 0; j < WN / 16; ++j) load_matrices(fb[j], at_b + j * 16 * ROW);
      multiply(fa, fb);
    }
  }

  // The same for padded tiles: `place(m)` is the row of A that pixel m of the block begins with.
  template <int PITCH, class Place>
  INLINE void start_padded(Shared a, Shared b, int lane, const Place& place, int m, int n) {
    rows = kept(a + place(m + (lane & 15)) * PITCH + 16 * (lane >> 4));
    columns = kept(b + (n + (lane >> 4) * 8 + (lane & 7)) * PITCH + 16 * (lane >> 3 & 1));
    clear();
  }
  template <int PITCH, int BYTES, class Place> INLINE void add_padded(int by_a, int by_b, const Place& place) {
    UNROLL for (int k = 0; k < BYTES / 32; ++k) {
      unsigned fa[WM / 16][4], fb[WN / 16][4];
      UNROLL for (int i = 0; i < WM / 16; ++i) load_matrices(fa[i], rows + (by_a + place(16 * i) * PITCH + 32 * k));
      UNROLL for (int j = 0; j < WN / 16; ++j) load_matrices(fb[j], columns + (by_b + 16 * j * PITCH + 32 * k));
      multiply(fa, fb);
    }
  }

  INLINE void multiply(const unsigned (&fa)[WM / 16][4], const unsigned (&fb)[WN / 16][4]) {
    UNROLL for (int i = 0; i < WM / 16; ++i)
      UNROLL for (int j = 0; j < WN / 8; ++j)
        mma<Math>(sum[2 * i][2 * j], sum[2 * i][2 * j + 1], sum[2 * i + 1][2 * j], sum[2 * i + 1][2 * j + 1],
                  fa[i], fb[j / 2][2 * (j % 2)], fb[j / 2][2 * (j % 2) + 1]);
  }
};

// ---- the other arithmetics: each thread multiplies what it holds in registers ----
//
// A thread reads a chunk (16 bytes along the summed index) of each of its rows and columns, and
// multiplies all with all: for 8 rows and 8 columns of floats 16 reads feed 256 multiply-adds.
// Lanes stand 8 x 4, and 16 x 2 where a warp has 16 columns only. Lanes that differ in bit 0 read
// the same row of A, lanes that differ in bit 1 the same row of B: the hardware then serves half a
// warp at a time where it would serve a quarter.

template <class Math, int WM, int WN, int ROW> struct WarpTile<Math, WM, WN, ROW, false> {
  typedef typename Math::T T;
  static constexpr int LANE = WHOLE<T>;                              // entries of a chunk
  static constexpr int ACROSS = WN == 16 ? 2 : 4, DOWN = 32 / ACROSS;  // lanes
  static constexpr int ROWS = WM / DOWN, COLS = WN / ACROSS, GROUP = 4;
  static constexpr int ROW_LANES = ACROSS == 4 ? 26 : 30;
  static_assert(WM % DOWN == 0 && WN % 16 == 0, "whole lanes");
  typedef Pack<T, LANE> Chunk;
  T sum[ROWS][COLS];
  Shared rows, columns;

  static INLINE int row(int i) { return DOWN * i; }
  static INLINE int column(int j) { return j / 4 * (4 * ACROSS) + j % 4; }
  static INLINE int lane_row(int lane) { return ACROSS == 4 ? (lane >> 1 & 1) | (lane >> 2 & 6) : lane >> 1; }
  static INLINE int lane_column(int lane) { return ACROSS == 4 ? (lane & 1) | (lane >> 1 & 2) : lane & 1; }
  static INLINE int place_columns(int row, int chunk) { return place_fours<ROW>(row, chunk); }
  // What the lanes of a warp read together lies side by side: columns 0, 4, 8, 12, 1, 5, ...
  static INLINE int order(int n) { return n / 16 * 16 + n % 4 * 4 + n / 4 % 4; }

  INLINE void clear() {
    UNROLL for (int i = 0; i < ROWS; ++i)
      UNROLL for (int j = 0; j < COLS; ++j) sum[i][j] = T(0);
  }
  INLINE void start(Shared a, Shared b, int lane, int m, int n) {
    rows = kept(a + place_rows<ROW>(m + lane_row(lane), 0));
    columns = kept(b + place_fours<ROW>(n + 4 * lane_column(lane), 0));
    clear();
  }
  INLINE void add_product(int stage) {
    UNROLL for (int k = 0; k < ROW / 16; ++k) {
      const Shared at_a = (rows + stage) ^ 16 * k, at_b = (columns + stage) ^ 16 * k;
      Chunk vb[COLS];
      UNROLL for (int j = 0; j < COLS; ++j)
        vb[j] = shared_load<Chunk>((at_b ^ 16 * (column(j) >> 2 & 3)) + column(j) * ROW);
      UNROLL for (int i = 0; i < ROWS; ++i) add_row(i, shared_load<Chunk>(at_a + row(i) * ROW), vb);
    }
  }
  template <int PITCH, class Place>
  INLINE void start_padded(Shared a, Shared b, int lane, const Place& place, int m, int n) {
    rows = kept(a + place(m + lane_row(lane)) * PITCH);
    columns = kept(b + order(n + 4 * lane_column(lane)) * PITCH);
    clear();
  }
  template <int PITCH, int BYTES, class Place> INLINE void add_padded(int by_a, int by_b, const Place& place) {
    UNROLL for (int k = 0; k < BYTES / 16; ++k) {
      Chunk vb[COLS];
      UNROLL for (int j = 0; j < COLS; ++j)
        vb[j] = shared_load<Chunk>(columns + (by_b + order(column(j)) * PITCH + 16 * k));
      UNROLL for (int i = 0; i < ROWS; ++i)
        add_row(i, shared_load<Chunk>(rows + (by_a + place(row(i)) * PITCH + 16 * k)), vb);
    }
  }
  INLINE void add_row(int i, const Chunk& va, const Chunk (&vb)[COLS]) {
    UNROLL for (int e = 0; e < LANE; ++e)
      UNROLL for (int j = 0; j < COLS; ++j) sum[i][j] = multiply_add(va.v[e], vb[j].v[e], sum[i][j]);
  }
};
