// Cross entropy on the GPU: a warp for each row of logits.
//
// The 32 threads of a warp, its lanes, read a row side by side, each of them every 32nd logit, and
// then put their maxima or sums together: five times each lane takes the value of the lane whose
// number differs in one bit. The order of all additions is fixed by the number of classes alone.
//
// A label that is neither a class nor the one to ignore makes the row NaN. It never reaches memory:
// an entry is looked up only for labels that were compared with the number of classes. Where labels
// are checked beforehand, which is everywhere but in the replay of a CUDA graph, there is none.
#include "common.cuh"

constexpr int ROWS = 4;  // of a block

INLINE float exponential(float v) { return expf(v); }
INLINE double exponential(double v) { return exp(v); }
INLINE float logarithm(float v) { return logf(v); }
INLINE double logarithm(double v) { return log(v); }
INLINE float logarithm_1p(float v) { return log1pf(v); }
INLINE double logarithm_1p(double v) { return log1p(v); }
INLINE float not_a_number(float) { return __int_as_float(0x7fc00000); }
INLINE double not_a_number(double) { return __longlong_as_double(0x7ff8000000000000); }

template <class T> INLINE T larger(T a, T b) { return a > b || a != a ? a : b; }  // NaN is larger

template <class T> INLINE T largest_of_lanes(T v) {
  UNROLL for (int bit = 16; bit > 0; bit /= 2) v = larger(v, __shfl_xor_sync(0xffffffffu, v, bit));
  return v;
}
template <class T> INLINE T sum_of_lanes(T v) {
  UNROLL for (int bit = 16; bit > 0; bit /= 2) v += __shfl_xor_sync(0xffffffffu, v, bit);
  return v;
}

// What a softmax is made of. Its largest logits are counted, and the exponentials of the others
// summed apart: beside a single largest one the loss is log(1 + rest), however small the rest is.
// Sums are in double precision, so that they do not lose digits with the number of classes.
template <class T> struct Softmax {
  T most, count, rest;  // max(x); how many x are max(x); the sum of the others' exp(x - max(x))
  double away;          // the sum of x - max(x)
};

template <class T> INLINE Softmax<T> softmax_of(const T* x, int classes, int lane) {
  T most = x[lane < classes ? lane : 0];
  for (int k = lane + 32; k < classes; k += 32) most = larger(x[k], most);
  most = largest_of_lanes(most);
  int count = 0;
  double rest = 0, away = 0;
  for (int k = lane; k < classes; k += 32) {
    const T v = x[k] - most;  // NaN where both are infinite, and then in all that follows
    const bool top = v == 0;
    count += top;
    rest += top ? T(0) : exponential(v);
    away += v;
  }
  count = sum_of_lanes(count);
  return {most, T(count > 0 ? count : 1), T(sum_of_lanes(rest)), sum_of_lanes(away)};
}

template <class T>
__global__ void __launch_bounds__(32 * ROWS)
    cross_entropy_fwd(const T* __restrict__ x, const long long* __restrict__ labels,
                      T* __restrict__ losses, T smoothing, long long ignore, int n, int classes) {
  const int row = int(blockIdx.x) * ROWS + int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  if (row >= n) return;  // the whole warp
  const long long label = labels[row];
  x += (long long)(row) * classes;
  T loss = 0;
  if (label != ignore) {
    const Softmax<T> s = softmax_of(x, classes, lane);
    const T log_sum = logarithm(s.count) + logarithm_1p(s.rest / s.count);
    loss = 0 * log_sum;  // a part without weight is left out: 0 * inf would be NaN
    if (label < 0 || label >= classes)
      loss = not_a_number(loss);
    else if (smoothing < 1)
      loss = (1 - smoothing) * (log_sum - (x[label] - s.most));
    if (smoothing > 0) loss += smoothing * (log_sum - T(s.away / classes));
  }
  if (lane == 0) losses[row] = loss;
}

template <class T>
__global__ void __launch_bounds__(32 * ROWS)
    cross_entropy_bwd_x(const T* __restrict__ g, const T* __restrict__ x,
                        const long long* __restrict__ labels, T* __restrict__ gx, T smoothing,
                        long long ignore, int n, int classes) {
  const int row = int(blockIdx.x) * ROWS + int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  if (row >= n) return;  // the whole warp
  const long long label = labels[row];
  x += (long long)(row) * classes;
  gx += (long long)(row) * classes;
  if (label == ignore || label < 0 || label >= classes) {
    const T fill = label == ignore ? T(0) : not_a_number(T(0));
    for (int k = lane; k < classes; k += 32) gx[k] = fill;
    return;
  }
  const Softmax<T> s = softmax_of(x, classes, lane);
  const T total = s.count + s.rest, uniform = smoothing / classes, gy = g[row];
  for (int k = lane; k < classes; k += 32) {
    const T v = x[k] - s.most, p = exponential(v) / total;
    T difference = p - uniform;
    if (k == label) {  // p - 1, as minus all others where p can be almost 1 and loses its digits
      const T away = v == 0 && s.count == 1 ? -(s.rest / (1 + s.rest)) : p - 1;
      difference = away + (smoothing - uniform);
    }
    gx[k] = difference != 0 ? difference * gy : difference;  // 0 stays 0 beside an infinite gy
  }
}
