// Gradient of a convolution's weight, for 3 x 3 taps that lie side by side, and few channels.
//
// In cuda_weight.cu each tap brings its own pixels of x to shared memory: every number nine times, for
// products with no more than 16 to 64 rows. Here a tile is H x W pixels of y and the part of an image that
// their windows cover, which is brought once. The tap beside is the pixel beside:
//
//   gy   p0  p1  p2  ...         tap 0 of p0 .. is x0 x1 x2 .., tap 1 is x1 x2 x3 .., tap 2 is x2 x3 x4 ..
//   x    x0  x1  x2  x3  x4 ...
//
// A block has C output channels, and the taps of KERNEL_ROWS rows of the kernel, all three or one, of which
// each warp takes WC channels; a share is a run of tiles. `add_shares` in cuda_weight.cu adds the shares.
#include "cuda_outer.cuh"

struct RowSizes {
  int h_in, w_in, h_out, w_out, c_out, p_h, p_w;
  int tiles, share;                 // of H x W pixels, and how many of them a share has
  Divisor tiles_of_image, tiles_of_row;
  int gy_kind, x_kind;              // the prologues
};

// What a thread brings of H x WIDTH pixels of C channels: always the same channels, of every STEP-th pixel.
template <class T, int C, int H, int WIDTH, int THREADS> struct Part {
  static constexpr int V = WHOLE<T>, PACKS = C / V, PIXELS = H * WIDTH, STEP = THREADS / PACKS;
  static constexpr int PASSES = (PIXELS + STEP - 1) / STEP, APART = STEP * pitch<T>(C);
  static_assert(THREADS % PACKS == 0 && STEP % 4 == 0, "a thread stays with its channels");
  int row[PASSES], column[PASSES], entry[PASSES];  // of the pixel of each pass; its entry, from the part's first
  int to;                                          // where pass 0 goes in shared memory
  int channel;

  INLINE void start(int w, int c) {  // w columns of c channels in memory
    // Where four threads share a pixel, eight that store together have two pixels that are two apart.
    const int line = threadIdx.x / PACKS, pixel = PACKS == 4 ? (line & ~3) | (line & 1) << 1 | (line >> 1 & 1) : line;
    channel = threadIdx.x % PACKS * V;
    to = kept(pixel * pitch<T>(C) + channel);
    UNROLL for (int j = 0; j < PASSES; ++j) {
      const int at = pixel + j * STEP;
      row[j] = at < PIXELS ? at / WIDTH : -(1 << 29), column[j] = at % WIDTH;
      entry[j] = at < PIXELS ? (at / WIDTH * w + column[j]) * c + channel : 0;
    }
  }
  INLINE bool has(int j) const { return PIXELS % STEP == 0 || j + 1 < PASSES || row[j] >= 0; }
};

template <class Math, int C, int KERNEL_ROWS, int WC, int SLICES, int H, int W, int G, int X>
__global__ void __launch_bounds__(C / WC * SLICES * 32, 1)
    conv2d_bwd_weight_rows(const typename Math::T* __restrict__ gy, const typename Math::T* __restrict__ gy_y,
                           const typename Math::T* __restrict__ gy_k, const typename Math::T* __restrict__ x,
                           const typename Math::T* __restrict__ x_k, typename Math::T* __restrict__ parts, const RowSizes g) {
  typedef typename Math::T T;
  constexpr int TILE_WARPS = C / WC, THREADS = TILE_WARPS * SLICES * 32, PITCH = pitch<T>(C);
  constexpr int X_ROWS = H + KERNEL_ROWS - 1, A = H * W * PITCH, STAGE = A + X_ROWS * (W + 2) * PITCH, V = WHOLE<T>;
  // Pixels that are multiplied in one go: those of a slice, by 16, whole rows of the tile or parts of one.
  constexpr int PIXELS = H * W / SLICES, CHUNK = PIXELS < 16 ? PIXELS : 16;
  typedef Outer<Math, C, KERNEL_ROWS * 3 * WC, PITCH, PITCH> Tile;
  typedef Taps<PITCH, WC, W> InX;
  extern __shared__ __align__(128) unsigned char memory[];
  T* const stages = reinterpret_cast<T*>(memory);

  constexpr int ACROSS = 3 / KERNEL_ROWS;  // blocks
  const int r = blockIdx.x % ACROSS, m0 = blockIdx.x / ACROSS * C, w_out = g.w_out;
  const int begin = blockIdx.y * g.share, end = min(begin + g.share, g.tiles);
  Part<T, C, H, W, THREADS> of_gy;
  Part<T, C, X_ROWS, W + 2, THREADS> of_x;
  of_gy.start(w_out, g.c_out);
  of_x.start(g.w_in, C);
  const bool channels_there = m0 + of_gy.channel < g.c_out;

  Prologue<T, G, V> of_left;
  Prologue<T, X, V> of_right;
  of_left.start(g.gy_kind);
  of_right.start(g.x_kind);
  if (channels_there) of_left.load(gy_k, g.c_out, m0 + of_gy.channel);
  of_right.load(x_k, C, of_x.channel);

  Bring<T, V, of_gy.PASSES, G> left;
  Bring<T, V, of_x.PASSES, X> right;
  auto bring = [&](int tile, int stage) {
    int image, rest, p, q;
    divide(tile, g.tiles_of_image, image, rest);
    divide(rest, g.tiles_of_row, p, q);
    p *= H, q *= W;
    const T* const from_gy = gy + (((image * g.h_out + p) * w_out + q) * g.c_out + m0);
    const T* const from_gy_y = gy_y + (((image * g.h_out + p) * w_out + q) * g.c_out + m0);
    const int rows = channels_there ? g.h_out - p : 0;
    UNROLL for (int j = 0; j < of_gy.PASSES; ++j) {
      const bool valid = unsigned(of_gy.row[j]) < unsigned(rows) && of_gy.column[j] < w_out - q;
      if (of_gy.has(j)) left.begin(j, stages + (of_gy.to + stage + j * of_gy.APART), from_gy + of_gy.entry[j], from_gy_y + of_gy.entry[j], valid);
    }
    const int h = p + r - g.p_h, w = q - g.p_w;
    const T* const from_x = x + ((image * g.h_in + h) * g.w_in + w) * C;
    UNROLL for (int j = 0; j < of_x.PASSES; ++j) {
      const bool valid = unsigned(h + of_x.row[j]) < unsigned(g.h_in) && unsigned(w + of_x.column[j]) < unsigned(g.w_in);
      if (of_x.has(j)) right.begin(j, stages + (of_x.to + stage + A + j * of_x.APART), from_x + of_x.entry[j], from_x, valid);
    }
  };
  auto finish = [&](int stage) {
    UNROLL for (int j = 0; j < of_gy.PASSES; ++j)
      if (of_gy.has(j)) left.finish(j, stages + (of_gy.to + stage + j * of_gy.APART), of_left);
    UNROLL for (int j = 0; j < of_x.PASSES; ++j)
      if (of_x.has(j)) right.finish(j, stages + (of_x.to + stage + A + j * of_x.APART), of_right);
  };

  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % TILE_WARPS, slice = threadIdx.x / 32 / TILE_WARPS;
  const int from_a = kept(slice * PIXELS * PITCH + Tile::first_a(lane));
  const int from_b = kept(A + InX::row(slice * PIXELS) + warp * WC + Tile::first_b(lane));
  Tile tile;
  tile.clear();

  bring(begin, 0);
  finish(0);
  copy_commit();
  int now = 0;
  for (int t = begin; t < end; ++t) {
    copy_wait<0>();
    __syncthreads();  // this stage is there for all, and all are done with the other one
    const bool more = t + 1 < end;
    if (more) bring(t + 1, STAGE - now);
    copy_commit();
    const T *a = stages + (from_a + now), *b = stages + (from_b + now);
    _Pragma("unroll 1") for (int k = 0; k < PIXELS; k += CHUNK, a += CHUNK * PITCH, b += InX::row(CHUNK))
      tile.template add<CHUNK, InX>(a, b);
    if (more) finish(STAGE - now);
    now = STAGE - now;
  }
  // entries of a filter: taps, and C channels of each
  auto entry = [&](int n) { return (r * 3 + n / WC) * C + warp * WC + n % WC; };
  write_share<SLICES, TILE_WARPS, V>(tile, stages, parts + blockIdx.y * g.c_out * 9 * C, m0, g.c_out, 9 * C, entry);
}
