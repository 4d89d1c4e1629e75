// Mean and variance of each channel, from blocks of rows.
//
// The sum of squares minus the square of the sum would lose all digits where the mean is large. So a
// block's numbers are gone over twice while they are in registers: first for their mean, then for
// their squared distances from it, and blocks are put together by the formula of Chan, Golub and
// LeVeque (1983, Eq. 2.1): with means m_i, sums of squares s_i and sizes n_i,
//
//   mean = sum(n_i m_i) / n        s = sum(s_i) + sum(n_i (m_i - mean)^2)
//
// The moments of a block are a row of 2 c + 1 numbers: c means, c sums of squares, and how many rows it
// has. Batch norm's blocks come from the kernel below, a convolution's from its own (epilogue.cuh).
//
// Every mean is taken of distances from a number of the block, `near`: they are small where the
// numbers are not, and all 0 where all numbers are equal.
#include "reduce.cuh"
#include "rows.cuh"

// moments[strip] (2 c + 1,) = those of one strip of rows (see rows.cuh).
template <class T, int V>
__global__ void __launch_bounds__(THREADS)
    block_moments(const T* __restrict__ x, Rows rows, T* __restrict__ moments) {
  __shared__ T shared[THREADS / 32 * V * 32];
  const Place at = place_in<V>(rows);
  Pack<T, V> near = load_pack<V>(x + (int(blockIdx.x) * rows.strip * rows.c + at.channel));
  T total[V] = {}, squares[V] = {};  // of this thread's distances from near; around their own mean
  int n = 0;                         // rows so far
  UNROLL for (int j = 0; j < V; ++j) near.v[j] = finite_or_zero(near.v[j]);

  for (int row = at.row; row < at.end; row += IN_FLIGHT * at.step) {
    Pack<T, V> v[IN_FLIGHT] = {};
    UNROLL for (int i = 0; i < IN_FLIGHT; ++i)
      if (row + i * at.step < at.end) v[i] = load_pack<V>(x + ((row + i * at.step) * rows.c + at.channel));
    const int more = min(IN_FLIGHT, (at.end - row - 1) / at.step + 1);  // rows that there are
    const T by_n = n ? T(1) / n : T(0), by_more = T(1) / more, weight = T(n) * more / (n + more);
    UNROLL for (int j = 0; j < V; ++j) {
      T sum = 0, square = 0;
      UNROLL for (int i = 0; i < IN_FLIGHT; ++i) {
        v[i].v[j] -= near.v[j];
        if (i < more) sum += v[i].v[j];
      }
      const T mean = sum * by_more, away = mean - total[j] * by_n;
      UNROLL for (int i = 0; i < IN_FLIGHT; ++i)
        if (i < more) square += (v[i].v[j] - mean) * (v[i].v[j] - mean);
      squares[j] += n ? square + away * away * weight : square;  // infinity times 0 would be NaN
      total[j] += sum;
    }
    n += more;
  }

  // All threads of a column: their sums make its mean; then each one's squares are around that.
  const int count = min(rows.strip, rows.m - int(blockIdx.x) * rows.strip);
  const T by_count = T(1) / count, by_n = n ? T(1) / n : T(0);
  T mean[V];
  UNROLL for (int j = 0; j < V; ++j) mean[j] = total[j];
  add_over_block<THREADS / 32>(mean, rows.shift, shared);
  UNROLL for (int j = 0; j < V; ++j) {
    mean[j] *= by_count;
    const T away = total[j] * by_n - mean[j];
    if (n) squares[j] += away * away * n;
  }
  __syncthreads();
  add_over_block<THREADS / 32>(squares, rows.shift, shared);
  if (threadIdx.x >> rows.shift == 0 && at.end) {  // the first row of threads has them all
    T* to = moments + (int(blockIdx.x) * (2 * rows.c + 1) + at.channel);
    UNROLL for (int j = 0; j < V; ++j) to[j] = near.v[j] + mean[j], to[rows.c + j] = squares[j];
    if (at.channel == 0) to[2 * rows.c] = T(count);
  }
}

// Put `blocks` moments together, in float64: means into mean[group * pitch], sums of squares into
// squares[group * pitch], and how many rows that are into rows[group * pitch]; or, where that is not
// asked for, variances in place of the sums. blockIdx.y is the group, which has `run` of the blocks.
template <class T, class R>
__global__ void __launch_bounds__(TALL)
    combine_moments(const T* __restrict__ moments, int blocks, int run, int c, int pitch, R* __restrict__ mean,
                    R* __restrict__ squares, R* __restrict__ rows) {
  __shared__ double shared[TALL / 32 * 3 * 32];
  const int channel = blockIdx.x * COLUMNS + threadIdx.x % COLUMNS, group = blockIdx.y;
  const int begin = group * run, end = min(begin + run, blocks), row = 2 * c + 1;
  const bool inside = channel < c;
  double sums[3] = {}, near = 0;
  if (inside) {
    near = finite_or_zero(double(moments[begin * row + channel]));
#pragma unroll 8
    for (int b = begin + threadIdx.x / COLUMNS; b < end; b += SLICES) {
      const T* of = moments + b * row;
      const double n = of[2 * c], away = of[channel] - near;
      sums[0] += n * away;
      sums[1] += of[c + channel] + n * away * away;
      sums[2] += n;
    }
  }
  add_over_block<TALL / 32>(sums, COLUMNS_SHIFT, shared);
  if (inside && threadIdx.x < COLUMNS) {
    const double n = sums[2], away = sums[0] / n, rest = sums[1] - sums[0] * away;
    const double square = rest < 0 ? 0 : rest;  // rounding alone makes it less than 0; NaN stays
    mean[group * pitch + channel] = R(near + away);
    squares[group * pitch + channel] = R(rows ? square : square / n);
    if (rows && channel == 0) rows[group * pitch] = R(n);
  }
}
