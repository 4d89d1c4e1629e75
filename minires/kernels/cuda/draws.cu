// Random draws on the GPU, with the state of the generator in its memory: a CUDA graph that is
// replayed reads the state anew, and draws other numbers than before.
#include "philox.cuh"

constexpr int THREADS = 256;

// mask = 0 with probability p, else `scale`: what dropout multiplies with. Entry i has the draw i % 4
// of group i / 4, whatever the launch; `first` is the group of this launch's first entry.
template <class T>
__global__ void __launch_bounds__(THREADS)
    draw_mask(const unsigned long long* __restrict__ state, T* __restrict__ mask, float p, T scale,
              int first, int size) {
  const int group = int(blockIdx.x) * THREADS + int(threadIdx.x), i = 4 * group;
  if (i >= size) return;
  const Philox draws = draws_of(state, first + group);
  constexpr int V = WHOLE<T>;  // 16 bytes: all four floats, or two doubles
  UNROLL for (int e = 0; e < 4; e += V) {
    Pack<T, V> kept;
    UNROLL for (int k = 0; k < V; k++) kept.v[k] = uniform(draws.v[e + k]) >= p ? scale : T(0);
    if (i + e + V <= size)
      store_pack(mask + i + e, kept);
    else
      UNROLL for (int k = 0; k < V - 1; k++)
        if (i + e + k < size) mask[i + e + k] = kept.v[k];
  }
}

// A launch of its own, because no block of the one before may see the new number.
__global__ void draws_done(unsigned long long* __restrict__ state) { state[1] += 1; }
