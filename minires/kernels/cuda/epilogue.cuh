// Epilogues: what becomes of a block's sums before they are written (minires/kernels/epilogue.py).
//
//   y = act(sum + bias + residual), and of each channel of the block the moments of y: the mean and
//   the sum of squared distances from it
//
// Sums stay in the registers where the product left them; a lane holds rows and columns as tile.cuh
// says. Moments are taken in two passes over these registers: first the mean, then the distances
// from it. So squares are never taken of numbers far from 0, and no digits cancel.
#pragma once
#include "common.cuh"
#include "tile.cuh"

// What a block ends with, as arguments of a kernel; pointers are null for what is not there.
template <class T> struct Ends {
  const T* bias;      // (c,)
  const T* residual;  // like y
  T* y;
  T* moments;  // (blocks, 2 c + 1): means, sums of squares, and how many pixels
  int relu;    // whether act is ReLU
  int c;       // channels of y
};

// The moments of each column of a block of BM x BN values. `at[i]` is negative where row i is no
// pixel; `part` is shared memory for BM / WM * BN numbers. Sums run over a lane's rows, then over
// the lanes of a warp, then over the warps: the same order, and so the same bits, every time.
template <class Tile, int BM, int BN, int WM, class T>
INLINE void block_moments(const Tile& tile, const int (&at)[Tile::ROWS], int pixels, int warp_m, int column0,
                          T* part, T* mean_to, T* square_to, int columns) {
  const int lane = threadIdx.x % 32;
  T mean[Tile::COLS];
  UNROLL for (int pass = 0; pass < 2; ++pass) {
    __syncthreads();  // nobody reads what this memory was before
    UNROLL for (int j = 0; j < Tile::COLS; ++j) {
      T total = T(0);
      UNROLL for (int i = 0; i < Tile::ROWS; ++i) {
        const T away = pass ? tile.sum[i][j] - mean[j] : tile.sum[i][j];
        if (at[i] >= 0) total += pass ? away * away : away;
      }
      UNROLL for (int bit = 1; bit < 32; bit *= 2)
        if (Tile::ROW_LANES & bit) total += __shfl_xor_sync(0xffffffffu, total, bit);
      if (Tile::lane_row(lane) == 0) part[warp_m * BN + column0 + Tile::column(j)] = total;
    }
    __syncthreads();  // the warps' sums are there
    UNROLL for (int j = 0; j < Tile::COLS; ++j) {
      const int column = column0 + Tile::column(j);
      T total = T(0);
      for (int warp = 0; warp < BM / WM; ++warp) total += part[warp * BN + column];
      if (pass == 0) mean[j] = total / pixels;
      if (pass == 1 && warp_m == 0 && Tile::lane_row(lane) == 0 && column < columns)
        mean_to[column] = mean[j], square_to[column] = total;
    }
  }
}

// End a block. `at[i]` is where row i of this lane begins in y, or negative; `columns` of the BN
// exist, from channel `channel` of y on; `block` is that of the block's pixels, and `first` whether
// this block of threads is the one that tells how many `pixels` it has.
template <class Tile, int BM, int BN, int WM, class T>
INLINE void finish_block(Tile& tile, const int (&at)[Tile::ROWS], int pixels, int block, bool first, int warp_m,
                         int warp_column, int channel, int columns, bool whole, T* part, const Ends<T>& ends) {
  constexpr int GROUP = Tile::GROUP;
  const int column0 = warp_column + GROUP * Tile::lane_column(threadIdx.x % 32);
  UNROLL for (int j = 0; j < Tile::COLS; j += GROUP) {
    const int column = column0 + Tile::column(j);
    UNROLL for (int e = 0; e < GROUP; ++e) {
      const T b = ends.bias && column + e < columns ? ends.bias[channel + column + e] : T(0);
      UNROLL for (int i = 0; i < Tile::ROWS; ++i) tile.sum[i][j + e] += b;
    }
    UNROLL for (int i = 0; i < Tile::ROWS; ++i) {
      if (ends.residual && at[i] >= 0 && column < columns) {
        const T* from = ends.residual + (at[i] + channel + column);
        Pack<T, GROUP> other;
        if (whole) {
          other = load_pack<GROUP>(from);
        } else {
          UNROLL for (int e = 0; e < GROUP; ++e) other.v[e] = column + e < columns ? from[e] : T(0);
        }
        UNROLL for (int e = 0; e < GROUP; ++e) tile.sum[i][j + e] += other.v[e];
      }
      if (ends.relu)
        UNROLL for (int e = 0; e < GROUP; ++e) tile.sum[i][j + e] = relu(tile.sum[i][j + e]);
    }
  }

  if (ends.moments) {
    T* to = ends.moments + block * (2 * ends.c + 1);
    block_moments<Tile, BM, BN, WM>(tile, at, pixels, warp_m, column0, part, to + channel, to + ends.c + channel, columns);
    if (first && threadIdx.x == 0) to[2 * ends.c] = T(pixels);
  }

  UNROLL for (int i = 0; i < Tile::ROWS; ++i) {
    if (at[i] < 0) continue;
    UNROLL for (int j = 0; j < Tile::COLS; j += GROUP) {
      const int column = column0 + Tile::column(j);
      if (column >= columns) continue;
      T* to = ends.y + (at[i] + channel + column);
      Pack<T, GROUP> v;
      UNROLL for (int e = 0; e < GROUP; ++e) v.v[e] = tile.sum[i][j + e];
      if (whole) {  // whole groups of channels, side by side and aligned
        store_pack<GROUP>(to, v);
      } else {
        UNROLL for (int e = 0; e < GROUP; ++e)
          if (column + e < columns) to[e] = v.v[e];
      }
    }
  }
}
