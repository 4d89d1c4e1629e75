// Batch normalisation on a GPU. Rows (m, c) are shared out among blocks as rows.cuh says: a thread
// keeps to V channels, and has what belongs to them in registers while it goes down its rows.
//
// All of this is bound by memory: every array is read once and written once, and each thread asks for
// IN_FLIGHT packs of every array before it uses the first. Statistics are in statistics.cu.
#include "reduce.cuh"
#include "rows.cuh"

// (v - mean) * scale + shift: the same instructions, and so the same bits, as in all prologues, for a
// gradient must meet the zeros that its ReLU made.
template <class T> INLINE T normalise(T v, T mean, T scale, T shift) {
  return multiply_add(v - mean, scale, shift);
}

// What the host knows only as numbers of Python: eps; the weights of old and new running statistics;
// what makes the variance an unbiased one, m / (m - 1).
template <class T> struct Numbers {
  T eps, old, fresh, unbiased;
};

// For each channel own (2, c) = w and b, inv_std = 1 / sqrt(var + eps), and the coefficients k (5, c)
// of an operand: mean, scale = w * inv_std, shift = b, 0, 0. The running statistics move towards
// these, if there are any, and one batch more is counted.
template <class T>
__global__ void __launch_bounds__(THREADS)
    batch_norm_affine(const T* __restrict__ mean, const T* __restrict__ var, const T* __restrict__ w,
                      const T* __restrict__ b, Numbers<T> numbers, int c, T* __restrict__ own,
                      T* __restrict__ inv_std, T* __restrict__ k, T* running_mean, T* running_var,
                      long long* count) {
  const int j = blockIdx.x * THREADS + threadIdx.x;
  if (j >= c) return;
  if (count && j == 0) *count += 1;
  const T inv = T(1 / sqrt(double(var[j] + numbers.eps)));
  own[j] = w[j], own[c + j] = b[j];
  inv_std[j] = inv;
  k[j] = mean[j], k[c + j] = w[j] * inv, k[2 * c + j] = b[j], k[3 * c + j] = k[4 * c + j] = 0;
  if (running_mean) {
    running_mean[j] = numbers.old * running_mean[j] + numbers.fresh * mean[j];
    running_var[j] = numbers.old * running_var[j] + numbers.fresh * (var[j] * numbers.unbiased);
  }
}

// y = w * inv_std * (x - mean) + b, plus the residual if there is one, and through a ReLU if
// `rectified`. The residual is taken as it is; or, with coefficients k (5, c), normalised by them: a
// shortcut whose own batch norm is applied here.
template <class T, int V>
__global__ void __launch_bounds__(THREADS)
    batch_norm_fwd(const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ b,
                   const T* __restrict__ mean, const T* __restrict__ inv_std, const T* __restrict__ residual,
                   const T* __restrict__ k, int rectified, Rows rows, T* __restrict__ y) {
  const Place at = place_in<V>(rows);
  const int c = rows.c;
  const Pack<T, V> center = load_pack<V>(mean + at.channel), shift = load_pack<V>(b + at.channel);
  Pack<T, V> scale = load_pack<V>(w + at.channel), by = load_pack<V>(inv_std + at.channel);
  UNROLL for (int j = 0; j < V; ++j) scale.v[j] *= by.v[j];
  Pack<T, V> k_mean = {}, k_scale = {}, k_shift = {};
  if (k) {
    k_mean = load_pack<V>(k + at.channel);
    k_scale = load_pack<V>(k + (c + at.channel)), k_shift = load_pack<V>(k + (2 * c + at.channel));
  }

  for (int row = at.row; row < at.end; row += IN_FLIGHT * at.step) {
    Pack<T, V> v[IN_FLIGHT] = {}, other[IN_FLIGHT] = {};
    UNROLL for (int i = 0; i < IN_FLIGHT; ++i) {
      if (row + i * at.step >= at.end) continue;
      v[i] = load_pack<V>(x + ((row + i * at.step) * c + at.channel));
      if (residual) other[i] = load_pack<V>(residual + ((row + i * at.step) * c + at.channel));
    }
    UNROLL for (int i = 0; i < IN_FLIGHT; ++i) {
      if (row + i * at.step >= at.end) continue;
      UNROLL for (int j = 0; j < V; ++j) {
        T z = normalise(v[i].v[j], center.v[j], scale.v[j], shift.v[j]);
        if (k) z += normalise(other[i].v[j], k_mean.v[j], k_scale.v[j], k_shift.v[j]);
        else if (residual) z += other[i].v[j];
        v[i].v[j] = rectified ? relu(z) : z;
      }
      store_pack<V>(y + ((row + i * at.step) * c + at.channel), v[i]);
    }
  }
}

// sums[strip] (2, c) = the sums of g * (x - mean) and of g over one strip of rows, where g = gy + second,
// set to 0 where a ReLU was shut: where `gate`, its output, is at most 0, or x normalised by the
// coefficients k (5, c). `masked` receives g. All of second, gate, k and masked may be absent.
template <class T, int V>
__global__ void __launch_bounds__(THREADS)
    batch_norm_bwd_sums(const T* __restrict__ gy, const T* __restrict__ x, const T* __restrict__ mean,
                        const T* __restrict__ second, const T* __restrict__ gate, const T* __restrict__ k,
                        Rows rows, T* __restrict__ masked, T* __restrict__ sums) {
  __shared__ T shared[THREADS / 32 * 2 * V * 32];
  const Place at = place_in<V>(rows);
  const int c = rows.c;
  const Pack<T, V> center = load_pack<V>(mean + at.channel);
  Pack<T, V> k_mean = {}, k_scale = {}, k_shift = {};
  if (k) {
    k_mean = load_pack<V>(k + at.channel);
    k_scale = load_pack<V>(k + (c + at.channel)), k_shift = load_pack<V>(k + (2 * c + at.channel));
  }
  T total[2 * V] = {};  // of g * (x - mean), then of g

  for (int row = at.row; row < at.end; row += IN_FLIGHT * at.step) {
    Pack<T, V> g[IN_FLIGHT] = {}, v[IN_FLIGHT] = {}, more[IN_FLIGHT] = {}, open[IN_FLIGHT] = {};
    UNROLL for (int i = 0; i < IN_FLIGHT; ++i) {
      if (row + i * at.step >= at.end) continue;
      const int here = (row + i * at.step) * c + at.channel;
      g[i] = load_pack<V>(gy + here), v[i] = load_pack<V>(x + here);
      if (second) more[i] = load_pack<V>(second + here);
      if (gate) open[i] = load_pack<V>(gate + here);
    }
    T some[2 * V] = {};  // these few rows by themselves: short sums lose less
    UNROLL for (int i = 0; i < IN_FLIGHT; ++i) {
      if (row + i * at.step >= at.end) continue;
      UNROLL for (int j = 0; j < V; ++j) {
        T value = g[i].v[j];
        if (second) value += more[i].v[j];
        if (gate && open[i].v[j] <= 0) value = 0;
        if (k && normalise(v[i].v[j], k_mean.v[j], k_scale.v[j], k_shift.v[j]) <= 0) value = 0;
        g[i].v[j] = value;
        some[j] = multiply_add(value, v[i].v[j] - center.v[j], some[j]);
        some[V + j] += value;
      }
      if (masked) store_pack<V>(masked + ((row + i * at.step) * c + at.channel), g[i]);
    }
    UNROLL for (int j = 0; j < 2 * V; ++j) total[j] += some[j];
  }

  add_over_block<THREADS / 32>(total, rows.shift, shared);
  if (threadIdx.x >> rows.shift == 0 && at.end) {  // the first row of threads
    T* to = sums + (int(blockIdx.x) * 2 * c + at.channel);
    UNROLL for (int j = 0; j < V; ++j) to[j] = total[j], to[c + j] = total[V + j];
  }
}

// gw and gb from the sums (blocks, 2, c) of batch_norm_bwd_sums, added up in float64. `slopes` (5, c),
// if wanted, is filled with the coefficients of gx, given those of y in `forward`: their mean, scale
// and shift, share = gb / m and slope = gw / m * inv_std; inverse = 1 / m.
template <class T>
__global__ void __launch_bounds__(TALL)
    batch_norm_bwd_affine(const T* __restrict__ sums, int blocks, int c, const T* __restrict__ inv_std,
                          T inverse, const T* forward, T* __restrict__ gw, T* __restrict__ gb, T* slopes) {
  __shared__ double shared[TALL / 32 * 2 * 32];
  const int channel = blockIdx.x * COLUMNS + threadIdx.x % COLUMNS;
  double total[2] = {};
  if (channel < c)
#pragma unroll 8
    for (int b = threadIdx.x / COLUMNS; b < blocks; b += SLICES) {
      total[0] += sums[b * 2 * c + channel];
      total[1] += sums[(b * 2 + 1) * c + channel];
    }
  add_over_block<TALL / 32>(total, COLUMNS_SHIFT, shared);
  if (channel >= c || threadIdx.x >= COLUMNS) return;
  const T inv = inv_std[channel], of_w = T(total[0] * inv), of_b = T(total[1]);
  gw[channel] = of_w, gb[channel] = of_b;
  if (slopes) {
    for (int row = 0; row < 3; ++row) slopes[row * c + channel] = forward[row * c + channel];
    slopes[3 * c + channel] = of_b * inverse, slopes[4 * c + channel] = of_w * inverse * inv;
  }
}

// gx = w * inv_std * (gy - gb / m - (x - mean) * inv_std * gw / m), with inverse = 1 / m; without x, for
// fixed statistics, gx = w * inv_std * gy.
template <class T, int V>
__global__ void __launch_bounds__(THREADS)
    batch_norm_bwd_x(const T* __restrict__ gy, const T* __restrict__ x, const T* __restrict__ w,
                     const T* __restrict__ mean, const T* __restrict__ inv_std, const T* __restrict__ gw,
                     const T* __restrict__ gb, T inverse, Rows rows, T* __restrict__ gx) {
  const Place at = place_in<V>(rows);
  const Pack<T, V> by = load_pack<V>(inv_std + at.channel);
  Pack<T, V> scale = load_pack<V>(w + at.channel), center = {}, share = {}, slope = {};
  UNROLL for (int j = 0; j < V; ++j) scale.v[j] *= by.v[j];
  if (x) {
    center = load_pack<V>(mean + at.channel);
    share = load_pack<V>(gb + at.channel), slope = load_pack<V>(gw + at.channel);
    UNROLL for (int j = 0; j < V; ++j) share.v[j] *= inverse, slope.v[j] *= inverse * by.v[j];
  }

  for (int row = at.row; row < at.end; row += IN_FLIGHT * at.step) {
    Pack<T, V> g[IN_FLIGHT] = {}, v[IN_FLIGHT] = {};
    UNROLL for (int i = 0; i < IN_FLIGHT; ++i) {
      if (row + i * at.step >= at.end) continue;
      g[i] = load_pack<V>(gy + ((row + i * at.step) * rows.c + at.channel));
      if (x) v[i] = load_pack<V>(x + ((row + i * at.step) * rows.c + at.channel));
    }
    UNROLL for (int i = 0; i < IN_FLIGHT; ++i) {
      if (row + i * at.step >= at.end) continue;
      UNROLL for (int j = 0; j < V; ++j) {
        T value = g[i].v[j];
        if (x) value = multiply_add(center.v[j] - v[i].v[j], slope.v[j], value - share.v[j]);
        g[i].v[j] = scale.v[j] * value;
      }
      store_pack<V>(gx + ((row + i * at.step) * rows.c + at.channel), g[i]);
    }
  }
}
