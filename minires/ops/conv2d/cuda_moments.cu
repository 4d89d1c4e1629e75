// Mean and variance of each channel, from the moments of blocks of pixels.
//
// Of n values with mean m and sum of squared distances q, around any center c:
//   sum of (v - c) = n (m - c)        sum of (v - c)^2 = q + n (m - c)^2
// These add up over the blocks, in float64 and in a fixed order (Chan, Golub, LeVeque, "Algorithms for
// computing the sample variance", 1983). With the mean of the first block for c, which is near the mean
// of all, what cancels in the end is small.
#include "common.cuh"

constexpr int CHANNELS = 8, SLICES = 128;  // a block of threads: 8 channels (32 bytes), 128 slices

// mean, var (c,) from moments (blocks, 2 c + 1): means, sums of squares, how many values. Slice s adds
// blocks s, s + SLICES, ...; then the slices are added in pairs.
template <class T>
__global__ void __launch_bounds__(CHANNELS * SLICES)
    conv2d_moments(const T* __restrict__ moments, T* __restrict__ mean, T* __restrict__ var, int blocks, int c) {
  __shared__ double sums[SLICES][CHANNELS];
  __shared__ double squares[SLICES][CHANNELS];
  __shared__ double counts[SLICES][CHANNELS];
  const int own = threadIdx.x % CHANNELS, slice = threadIdx.x / CHANNELS, channel = blockIdx.x * CHANNELS + own;
  const int row = 2 * c + 1;
  double sum = 0, square = 0, count = 0, center = 0;
  if (channel < c) {
    center = moments[channel];
    _Pragma("unroll 4") for (int b = slice; b < blocks; b += SLICES) {
      const T* of = moments + b * row;
      const double n = of[2 * c], away = double(of[channel]) - center;
      sum += n * away;
      square += of[c + channel] + n * away * away;
      count += n;
    }
  }
  sums[slice][own] = sum, squares[slice][own] = square, counts[slice][own] = count;
  for (int half = SLICES / 2; half > 0; half /= 2) {
    __syncthreads();  // the sums to be read are there
    if (slice < half) {
      sums[slice][own] += sums[slice + half][own];
      squares[slice][own] += squares[slice + half][own];
      counts[slice][own] += counts[slice + half][own];
    }
  }
  if (slice == 0 && channel < c) {  // what this thread wrote itself
    const double n = counts[0][own], away = sums[0][own] / n;
    mean[channel] = T(center + away);
    const double v = squares[0][own] / n - away * away;
    var[channel] = T(v < 0 ? 0 : v);
  }
}
