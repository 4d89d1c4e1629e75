// Convolution with 3 x 3 taps, stride 1, and few channels: from a patch of the image.
//
// The tile of windows (cuda_windows.cu) copies every pixel nine times, once for each tap, and with 16
// channels that takes longer than the products. Here a block of threads copies the part of x that its
// pixels need once, with its border; the nine windows are nine places to begin to read:
//
//      W + 2 pixels across
//    +-----------------+
//    | * * * ......... |     patch (IMAGES, H + 2, W + 2, C), in shared memory
//    | * * * ......... |     tap (r, s) of output pixel (p, q) is pixel (p + r, q + s) of the patch
//    | * * * ......... |
//    +-----------------+
//
// All weights lie beside it, (9, BN, C). A prologue is applied to each number once, not nine times,
// and between the copies and the sums stands a single barrier.
//
// Where there are few pixels, blocks are small, and the sum of each is split among SPLIT groups of warps:
// each does one row of taps, and the first group adds what the others found.
//
// Pixels and weights are padded (tile.cuh): PITCH bytes apart, 16 more than their C entries.
#include "cuda_conv.cuh"

// Parameters as those of conv2d_windows; the convolution has C input channels, one group, stride and
// dilation 1. A block does IMAGES x H x W output pixels, those of them that there are, and BN channels.
template <class Math, int C, int BN, int IMAGES, int H, int W, int WM, int WN, int SPLIT, int FAMILY>
__global__ void __launch_bounds__((IMAGES * H * W / WM) * (BN / WN) * 32 * SPLIT, 1)
    conv2d_patch(const typename Math::T* __restrict__ x, const typename Math::T* __restrict__ x_y,
                 const typename Math::T* __restrict__ k, const typename Math::Entry* __restrict__ w,
                 const typename Math::T* __restrict__ bias, const typename Math::T* __restrict__ residual,
                 typename Math::T* __restrict__ y, typename Math::T* __restrict__ moments, Conv g, int kind,
                 int relu) {
  typedef typename Math::T T;
  typedef typename Math::Entry Entry;
  constexpr int BM = IMAGES * H * W, GROUP = (BM / WM) * (BN / WN) * 32, THREADS = GROUP * SPLIT;
  constexpr int BYTES = C * int(sizeof(Entry)), PITCH = BYTES + 16;
  constexpr int ACROSS = W + 2, DOWN = H + 2, PIXELS = IMAGES * DOWN * ACROSS;
  static_assert(SPLIT == 1 || SPLIT == 3, "rows of taps");
  static_assert(BYTES % 32 == 0 && W % 8 == 0 && BM % WM == 0 && BN % WN == 0, "whole fragments");
  typedef WarpTile<Math, WM, WN, 64> Tile;
  extern __shared__ __align__(128) unsigned char memory[];

  const int split = threadIdx.x / GROUP;  // which of the groups of warps this is
  const int warp = threadIdx.x % GROUP / 32, warp_m = warp % (BM / WM), warp_n = warp / (BM / WM);
  const int blocks_n = (g.c_out + BN - 1) / BN, block_n = blockIdx.x % blocks_n, block_m = blockIdx.x / blocks_n;
  const int tiles_w = (g.w_out + W - 1) / W, tiles_h = (g.h_out + H - 1) / H, n0 = block_n * BN;
  const int q0 = block_m % tiles_w * W, p0 = block_m / tiles_w % tiles_h * H;
  const int image0 = block_m / tiles_w / tiles_h * IMAGES;
  const Shared a = shared_address(memory), b = a + PIXELS * PITCH;

  {  // weights, by copies that run beside the threads
    constexpr int CHUNK = WHOLE<Entry>, PACKS = C / CHUNK, TOGETHER = PACKS < 8 ? 8 : 1;
    // Eight lanes store together, so they have 8 rows, or 8 packs of one row: all in other banks.
    static_assert(BN % TOGETHER == 0, "whole rounds");
    for (int i = threadIdx.x; i < 9 * BN * PACKS; i += THREADS) {
      const int row = i / (TOGETHER * PACKS) * TOGETHER + i % TOGETHER, pack = i / TOGETHER % PACKS;
      const int n = n0 + Tile::order(row % BN);
      copy_async<16>(b + (row * PITCH + 16 * pack), w + (n * g.pitch + row / BN * C + CHUNK * pack), n < g.c_out);
    }
  }
  {  // the patch; a thread stays with four channels, and so with the coefficients of these
    constexpr int VEC = 4, PACKS = C / VEC, SIZE = VEC * int(sizeof(Entry)), TOGETHER = BYTES < 128 ? 8 : 1;
    constexpr int ROUNDS = (PIXELS + TOGETHER - 1) / TOGETHER * TOGETHER * PACKS;
    constexpr bool HELD = FAMILY != AS_IS || sizeof(Entry) != sizeof(T);
    static_assert(THREADS % (TOGETHER * PACKS) == 0, "a thread stays with its channels");
    const int pack = threadIdx.x / TOGETHER % PACKS;
    Prologue<T, FAMILY, VEC> prologue;
    prologue.start(kind);
    prologue.load(k, C, pack * VEC);
    UNROLL for (int i0 = 0; i0 < ROUNDS; i0 += THREADS) {
      const int i = i0 + int(threadIdx.x), pixel = i / (TOGETHER * PACKS) * TOGETHER + i % TOGETHER;
      if (pixel >= PIXELS) continue;
      const int image = image0 + pixel / ACROSS / DOWN;
      const int row = p0 - g.p_h + pixel / ACROSS % DOWN, column = q0 - g.p_w + pixel % ACROSS;
      const bool ok = unsigned(row) < unsigned(g.h_in) && unsigned(column) < unsigned(g.w_in) && image < g.images;
      const int from = ok ? ((image * g.h_in + row) * g.w_in + column) * C + VEC * pack : 0;
      const Shared to = a + (pixel * PITCH + SIZE * pack);
      if (!HELD) {
        copy_async<SIZE>(to, x + from, ok);
        continue;
      }
      Pack<T, VEC> v = {}, u = {};
      if (ok) {
        v = load_pack<VEC>(x + from);
        if (FAMILY == BACKWARD) u = load_pack<VEC>(x_y + from);
        UNROLL for (int e = 0; e < VEC; ++e) v.v[e] = prologue.apply(v.v[e], u.v[e], e);
      }
      shared_store(to, Math::entries(v));
    }
    copy_commit();
  }
  copy_wait<0>();
  __syncthreads();

  // the pixel of the patch where the window of output pixel m of this block begins
  auto window = [](int m) { return (m / W / H * DOWN + m / W % H) * ACROSS + m % W; };
  Tile tile;
  tile.template start_padded<PITCH>(a, b, threadIdx.x % 32, window, warp_m * WM, warp_n * WN);
  constexpr int TAP_ROWS = 3 / SPLIT;
  int by_a = split * TAP_ROWS * ACROSS * PITCH, by_b = split * TAP_ROWS * 3 * BN * PITCH;
  _Pragma("unroll 1") for (int r = 0; r < TAP_ROWS; ++r, by_a += (ACROSS - 3) * PITCH)
    _Pragma("unroll 1") for (int s = 0; s < 3; ++s, by_a += PITCH, by_b += BN * PITCH)
      tile.template add_padded<PITCH, BYTES>(by_a, by_b, window);

  if (SPLIT > 1) {  // the sums of the other groups, by way of shared memory, in their order
    constexpr int SUMS = Tile::ROWS * Tile::COLS;
    static_assert((SPLIT - 1) * SUMS * GROUP * int(sizeof(T)) <= PIXELS * PITCH + 9 * BN * PITCH, "there is room");
    T* sums = reinterpret_cast<T*>(memory) + threadIdx.x % GROUP;
    __syncthreads();  // nobody reads the patch any more
    if (split > 0)
      UNROLL for (int e = 0; e < SUMS; ++e)
        sums[((split - 1) * SUMS + e) * GROUP] = tile.sum[e / Tile::COLS][e % Tile::COLS];
    __syncthreads();
    if (split > 0) return;  // barriers below are for those that are left
    UNROLL for (int other = 0; other < SPLIT - 1; ++other)
      UNROLL for (int e = 0; e < SUMS; ++e)
        tile.sum[e / Tile::COLS][e % Tile::COLS] += sums[(other * SUMS + e) * GROUP];
  }

  const int row0 = warp_m * WM + Tile::lane_row(threadIdx.x % 32), column0 = n0 + warp_n * WN;
  auto place = [&](int i, int& image, int& p, int& q) {
    const int m = row0 + Tile::row(i);
    image = image0 + m / W / H, p = p0 + m / W % H, q = q0 + m % W;
    return image < g.images && p < g.h_out && q < g.w_out;
  };
  leave_out_padding<Math, Tile, WN, FAMILY>(tile, x, x_y, k, kind, w, g, 0, column0,
                                            column0 + Tile::GROUP * Tile::lane_column(threadIdx.x % 32), place);
  int at[Tile::ROWS];
  UNROLL for (int i = 0; i < Tile::ROWS; ++i) {
    int image, p, q;
    const bool there = place(i, image, p, q);
    at[i] = there ? g.y_begin + image * g.y_image + p * g.y_row + q * g.y_pixel : -1;
  }
  const int pixels = min(IMAGES, g.images - image0) * min(H, g.h_out - p0) * min(W, g.w_out - q0);
  const Ends<T> ends = {bias, residual, y, moments, relu, g.c_out};
  finish_block<Tile, BM, BN, WM>(tile, at, pixels, block_m, block_n == 0, warp_m, warp_n * WN, n0,
                                 min(BN, g.c_out - n0), g.c_out % Tile::GROUP == 0, reinterpret_cast<T*>(memory), ends);
}
