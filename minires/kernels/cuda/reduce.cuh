// Sums over the threads of a block, always in the same order: the same bits every time.
#pragma once

#include "common.cuh"

// Of a block of WARPS warps, 2^shift threads stand side by side, and the threads 2^shift apart below
// each other hold numbers of the same columns. Each thread brings N numbers in v, and gets back the
// sums of its column in their place:
//
//   shift = 3     lane 0  1 ... 7        column sums of each warp by shuffles: first rows that are
//                      8  9 ... 15       one apart, ... the distance doubles
//                     16 17 ... 23       then the warps' sums through shared memory, every row of
//                     24 25 ... 31       lanes a share of the warps, and by shuffles once more
//
// `shared` has room for WARPS * N * 32 numbers, which lie without gaps: no two lanes meet in one bank.
// All threads of the block must call this together, with a barrier between two calls, for others may
// still read what the first one left in `shared`.
template <int WARPS, int N, class T> INLINE void add_over_block(T (&v)[N], int shift, T* shared) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int column = lane & ((1 << shift) - 1);
  for (int distance = 1 << shift; distance < 32; distance *= 2)
    UNROLL for (int i = 0; i < N; ++i) v[i] += __shfl_xor_sync(0xffffffffu, v[i], distance);
  if (lane == column)
    UNROLL for (int i = 0; i < N; ++i) shared[((i * WARPS + warp) << shift) + column] = v[i];
  __syncthreads();
  UNROLL for (int i = 0; i < N; ++i) v[i] = 0;
  for (int w = lane >> shift; w < WARPS; w += 32 >> shift)
    UNROLL for (int i = 0; i < N; ++i) v[i] += shared[((i * WARPS + w) << shift) + column];
  for (int distance = 1 << shift; distance < 32; distance *= 2)
    UNROLL for (int i = 0; i < N; ++i) v[i] += __shfl_xor_sync(0xffffffffu, v[i], distance);
}

// v, or 0 where it is infinite or NaN: a number to take distances from
template <class T> INLINE T finite_or_zero(T v) { return v - v == 0 ? v : T(0); }

// What a few large blocks of threads put together, from what many blocks left in memory, a row for
// each of them: 8 channels to a block, which is 32 bytes, the least that memory hands out at a time.
constexpr int COLUMNS_SHIFT = 3;
constexpr int COLUMNS = 1 << COLUMNS_SHIFT;
constexpr int TALL = 1024;              // threads of a block, so that each has few numbers to wait for
constexpr int SLICES = TALL / COLUMNS;  // threads that share the rows of one channel
