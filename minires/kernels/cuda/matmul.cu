// Matrix products y = x @ w of moderate size, for matrices in any memory order.
//
// A block computes TILE x TILE entries of y. It walks along the sum, SLICE factors at a time: its
// threads copy a slice of TILE rows of x and of TILE columns of w into shared memory, and each of
// them multiplies from there for EACH x EACH entries, so that what is read from memory once is used
// TILE times. While a slice is multiplied, the next one is on its way into registers.
//
// The factors of an entry are added one after another. Where there are too few tiles for a large
// GPU and the sum is long, it is cut into parts, one for each block along z; matmul_add adds them.
#include "common.cuh"

constexpr int SIDE = 16, THREADS = SIDE * SIDE, SLICE = 16;

struct Product {
  unsigned long long x, w;        // where x (batch, n, k) and w (batch, k, m) begin
  long long x_batch, w_batch;     // entries from one matrix to the next; 0 where all have the same
  int x_row, x_column, w_row, w_column;  // from one row or column to the next
  int n, k, m, batch;
  int part;                       // factors of a part of the sum
};

// A slice of one operand: ROWS lines of SLICE factors, each thread COUNT of them. Neighbouring
// threads copy neighbours in memory: factors, if those lie side by side, else lines.
template <class T, int TILE> struct Slice {
  static constexpr int COUNT = TILE * SLICE / THREADS;
  static constexpr int PITCH = TILE + 2;  // neighbours of either kind are in different banks
  T held[COUNT];

  static INLINE void place(int i, bool by_factor, int& line, int& factor) {
    const int at = int(threadIdx.x) + i * THREADS;
    line = by_factor ? at / SLICE : at % TILE;
    factor = by_factor ? at % SLICE : at / TILE;
  }
  // Lines and factors outside are zeros, on both sides: they add nothing.
  INLINE void load(const T* from, int line_step, int factor_step, int line0, int lines, int factor0, int end) {
    UNROLL for (int i = 0; i < COUNT; i++) {
      int line, factor;
      place(i, factor_step == 1, line, factor);
      line += line0;
      factor += factor0;
      held[i] = line < lines && factor < end ? from[line * line_step + factor * factor_step] : T(0);
    }
  }
  INLINE void store(T (*to)[PITCH], bool by_factor) const {
    UNROLL for (int i = 0; i < COUNT; i++) {
      int line, factor;
      place(i, by_factor, line, factor);
      to[factor][line] = held[i];
    }
  }
};

// y (parts, batch, n, m): each block along z has one matrix of the batch, and one part of the sum.
template <class T, int TILE>
__global__ void __launch_bounds__(THREADS) matmul_fwd(const Product p, T* __restrict__ y) {
  typedef Slice<T, TILE> Part;
  constexpr int EACH = TILE / SIDE;
  __shared__ T xs[SLICE][Part::PITCH];
  __shared__ T ws[SLICE][Part::PITCH];
  const int batch = int(blockIdx.z) % p.batch, part = int(blockIdx.z) / p.batch;
  const T* x = reinterpret_cast<const T*>(p.x) + batch * p.x_batch;
  const T* w = reinterpret_cast<const T*>(p.w) + batch * p.w_batch;
  const int row0 = int(blockIdx.x) * TILE, column0 = int(blockIdx.y) * TILE;
  const int begin = part * p.part, end = min(p.k, begin + p.part);
  const int across = int(threadIdx.x) % SIDE, down = int(threadIdx.x) / SIDE;

  T sum[EACH][EACH];
  UNROLL for (int i = 0; i < EACH; i++)
    UNROLL for (int j = 0; j < EACH; j++) sum[i][j] = 0;
  Part a, b;
  a.load(x, p.x_row, p.x_column, row0, p.n, begin, end);
  b.load(w, p.w_column, p.w_row, column0, p.m, begin, end);
  for (int k0 = begin; k0 < end; k0 += SLICE) {
    __syncthreads();  // all have done with the slice before
    a.store(xs, p.x_column == 1);
    b.store(ws, p.w_row == 1);
    __syncthreads();  // the slice is there for all
    if (k0 + SLICE < end) {
      a.load(x, p.x_row, p.x_column, row0, p.n, k0 + SLICE, end);
      b.load(w, p.w_column, p.w_row, column0, p.m, k0 + SLICE, end);
    }
    UNROLL for (int k = 0; k < SLICE; k++) {
      T xk[EACH], wk[EACH];
      UNROLL for (int i = 0; i < EACH; i++) xk[i] = xs[k][down + i * SIDE];
      UNROLL for (int j = 0; j < EACH; j++) wk[j] = ws[k][across + j * SIDE];
      UNROLL for (int i = 0; i < EACH; i++)
        UNROLL for (int j = 0; j < EACH; j++) sum[i][j] = multiply_add(xk[i], wk[j], sum[i][j]);
    }
  }
  y += (long long)(blockIdx.z) * p.n * p.m;
  UNROLL for (int i = 0; i < EACH; i++) {
    UNROLL for (int j = 0; j < EACH; j++) {
      const int row = row0 + down + i * SIDE, column = column0 + across + j * SIDE;
      if (row < p.n && column < p.m) y[(long long)(row) * p.m + column] = sum[i][j];
    }
  }
}

// y = the sum of the parts, in their order
template <class T>
__global__ void __launch_bounds__(THREADS)
    matmul_add(const T* __restrict__ parts, T* __restrict__ y, int size, int count) {
  const int i = int(blockIdx.x) * THREADS + int(threadIdx.x);
  if (i >= size) return;
  double sum = 0;
  for (int part = 0; part < count; part++) sum += parts[(long long)(part) * size + i];
  y[i] = T(sum);
}
