// Weights as the convolution kernels read them: of each row of a matrix the taps, and of each tap the
// channels, side by side; rounded to what the arithmetic multiplies.
//
//   forward         row = output channel o, summed over input channels c:   w[o, c, u, v]
//   input gradient  row = input channel c, summed over output channels o:   the same, transposed, and
//                   its taps from the last to the first
//
// Which taps, and in which order, is told by where they begin and by a step: the input gradient of a
// stride takes every second one, say.
#include "common.cuh"
#include "mma.cuh"

struct Pack2d {
  unsigned long long w, packed;  // addresses
  int transposed;                // w is (groups channels, rows, k_h, k_w), else (groups rows, channels, k_h, k_w)
  int rows, channels;            // of a group: of the packed matrix, and what is summed
  int k_h, k_w;                  // taps of w
  int taps_h, taps_w;            // taps that are taken: rows u = u0 + i u_step, columns v = v0 + j v_step
  int u0, v0, u_step, v_step;
  int pitch;                     // entries from one row of the result to the next
};

// A training step packs the weights of every layer, twice: so a launch takes a table of them, by value.
constexpr int MOST = 48;  // packs of a launch (cuda_pack.py)
struct Packs {
  Pack2d of[MOST];
  int first[MOST + 1];  // the first block of each; behind the last, how many there are
  int count;
};

// packed[group rows + row, (i taps_w + j) channels + channel], and zeros up to the pitch.
// A block of 32 x 8 threads does 32 rows and 32 channels, tap by tap, by way of shared memory: so that
// what lanes read lies together, and what they write.
template <class Math>
__global__ void __launch_bounds__(256, 1) conv2d_pack(Packs packs) {
  typedef typename Math::T T;
  __shared__ T tile[32][33];  // a column more, for lanes to find a column in 32 banks
  int mine = 0;
  while (mine + 1 < packs.count && packs.first[mine + 1] <= int(blockIdx.x)) ++mine;
  const Pack2d g = packs.of[mine];
  const T* w = reinterpret_cast<const T*>(g.w);
  typename Math::Entry* packed = reinterpret_cast<typename Math::Entry*>(g.packed);
  const int block = blockIdx.x - packs.first[mine], x = threadIdx.x % 32, y = threadIdx.x / 32;
  const int blocks_c = (g.channels + 31) / 32, blocks_r = (g.rows + 31) / 32;
  const int c0 = block % blocks_c * 32, r0 = block / blocks_c % blocks_r * 32;
  const int group = block / blocks_c / blocks_r, size = g.k_h * g.k_w;
  for (int i = 0; i < g.taps_h; ++i)
    for (int j = 0; j < g.taps_w; ++j) {
      const int tap = (g.u0 + i * g.u_step) * g.k_w + g.v0 + j * g.v_step;
      for (int z = y; z < 32; z += 8) {  // x runs along w: along the rows if it is transposed
        const int row = r0 + (g.transposed ? x : z), channel = c0 + (g.transposed ? z : x);
        if (row >= g.rows || channel >= g.channels) continue;
        const int by_channel = (group * g.channels + channel) * g.rows + row;
        const int by_row = (group * g.rows + row) * g.channels + channel;
        tile[z][x] = w[(g.transposed ? by_channel : by_row) * size + tap];
      }
      __syncthreads();
      for (int z = y; z < 32; z += 8) {  // x runs along the channels
        const int row = r0 + z, channel = c0 + x;
        if (row >= g.rows || channel >= g.channels) continue;
        const int to = (group * g.rows + row) * g.pitch + (i * g.taps_w + j) * g.channels + channel;
        packed[to] = Math::entry(g.transposed ? tile[x][z] : tile[z][x]);
      }
      __syncthreads();  // all have read the tile
    }
  const int used = g.taps_h * g.taps_w * g.channels;
  if (c0 == 0)
    for (int z = y; z < 32 && r0 + z < g.rows; z += 8)
      for (int e = used + x; e < g.pitch; e += 32) packed[(group * g.rows + r0 + z) * g.pitch + e] = Math::entry(T(0));
}
