// Rows (m, c) of channels-last activations, shared out among blocks of threads: all pixels of all
// images one below the other, their channels side by side.
//
//            slab 0                 slab 1          A block of 256 threads goes down one strip of one
//   strip 0 | t0  t1 ... t31 |     | t0  ...        slab. Each thread keeps to its channels, V that lie
//           | t32 t33 ...    |     |                side by side: what belongs to a channel (its mean,
//           | ...            |                      its scale, its sum) stays in registers all the way.
//   strip 1 | ...
//
// The host decides on the sizes (minires/kernels/cuda/packs.py).
#pragma once

#include "common.cuh"

constexpr int THREADS = 256;   // of a block
constexpr int IN_FLIGHT = 4;   // rows that a thread asks for before it uses the first
constexpr int SLAB = 32;       // packs of a row that a block reads at most

struct Rows {
  int m, c;   // the sizes
  int shift;  // 2^shift threads stand side by side
  int strip;  // rows of a block
};

// Where in the rows the running thread begins, how far it steps, and where it ends.
struct Place {
  int channel, row, step, end;
};

template <int V> INLINE Place place_in(const Rows& rows) {
  Place at;
  const int first = int(blockIdx.x) * rows.strip;
  at.channel = (int(blockIdx.y) * SLAB + (int(threadIdx.x) & ((1 << rows.shift) - 1))) * V;
  at.row = first + (int(threadIdx.x) >> rows.shift);
  at.step = THREADS >> rows.shift;
  at.end = min(first + rows.strip, rows.m);
  if (at.channel >= rows.c) at.channel = at.end = 0;  // a thread beyond the last channel has no rows
  return at;
}
