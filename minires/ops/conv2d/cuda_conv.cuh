// What the convolution kernels share: the sizes of a convolution, and what to do about weights that
// are infinite or NaN.
#pragma once
#include "common.cuh"
#include "epilogue.cuh"
#include "prologue.cuh"
#include "tile.cuh"

// One convolution, as an argument by value (cuda_plan.py). Channels are those of one group. Output
// (image, p, q) is the sum over taps (r, s) and channels of x at row p s_h - p_h + r d_h, column
// q s_w - p_w + s d_w. It is written to y_begin + image y_image + p y_row + q y_pixel: all of y for
// the forward pass, one pixel of every stride x stride for the input gradient of a stride.
struct Conv {
  int images, h_in, w_in, c_in, h_out, w_out, c_out;
  int groups, k_h, k_w, s_h, s_w, p_h, p_w, d_h, d_w;
  int pixels;  // images * h_out * w_out
  int pitch;   // entries of a row of packed weights: k_h k_w c_in, and zeros behind
  int padded;  // whether windows reach outside of x
  int y_begin, y_image, y_row, y_pixel;
  Divisor per_image, per_row;  // h_out * w_out, and w_out
};

// Where windows reach outside of x, tiles hold zeros. A zero times a weight adds nothing, unless the
// weight is infinite or NaN: then the product is NaN, and by its definition a convolution has no
// such product. To ask each product costs too much; but such a weight meets every pixel, inside or
// not, so that the first row of sums tells. Then the sums are taken again, slowly, from the taps
// inside x. Where sums are not finite because x is not, the weights are looked at and nothing else.
//
// `place(i, image, p, q)` is the output pixel of row i of this lane, and says whether there is one.
template <class Math, class Tile, int WN, int FAMILY, class Place>
INLINE void leave_out_padding(Tile& tile, const typename Math::T* x, const typename Math::T* x_y,
                              const typename Math::T* k, int kind, const typename Math::Entry* w, const Conv& g,
                              int group, int n0, int column0, const Place& place) {
  typedef typename Math::T T;
  if (!g.padded) return;
  T zero = T(0);
  UNROLL for (int j = 0; j < Tile::COLS; ++j) zero = multiply_add(tile.sum[0][j], T(0), zero);
  if (!__any_sync(0xffffffffu, zero != T(0))) return;  // NaN is not 0; all sums are finite

  const int lane = threadIdx.x % 32, size = g.k_h * g.k_w * g.c_in;
  bool odd = false;
  for (int n = n0; n < min(n0 + WN, g.c_out); ++n)
    for (int e = lane; e < size; e += 32) {
      const T v = Math::value(w[n * g.pitch + e]);
      odd |= v * T(0) != T(0);
    }
  if (!__any_sync(0xffffffffu, odd)) return;

  // Row by row in a loop that is not unrolled: what is unrolled takes registers, which all blocks
  // would have to have for a loop that hardly any enters.
  Prologue<T, FAMILY, 1> prologue;
  prologue.start(kind);
  _Pragma("unroll 1") for (int i = 0; i < Tile::ROWS; ++i) {
    int image, p, q, r = 0, s = 0, channel = 0;
    const bool there = place(i, image, p, q);
    T sum[Tile::COLS] = {};
    _Pragma("unroll 1") for (int e = 0; e < size; ++e) {
      const int row = p * g.s_h - g.p_h + r * g.d_h, column = q * g.s_w - g.p_w + s * g.d_w;
      if (there && unsigned(row) < unsigned(g.h_in) && unsigned(column) < unsigned(g.w_in)) {
        const int at = ((image * g.h_in + row) * g.w_in + column) * g.c_in * g.groups + group * g.c_in + channel;
        prologue.load(k, g.c_in * g.groups, group * g.c_in + channel);
        const T v = Math::value(Math::entry(prologue.apply(x[at], FAMILY == BACKWARD ? x_y[at] : T(0), 0)));
        UNROLL for (int j = 0; j < Tile::COLS; ++j) {
          const int n = column0 + Tile::column(j);
          if (n < g.c_out) sum[j] = multiply_add(v, T(Math::value(w[n * g.pitch + e])), sum[j]);
        }
      }
      if (++channel == g.c_in) {
        channel = 0;
        if (++s == g.k_w) s = 0, ++r;
      }
    }
    UNROLL for (int to = 0; to < Tile::ROWS; ++to)
      UNROLL for (int j = 0; j < Tile::COLS; ++j)
        if (to == i) tile.sum[to][j] = sum[j];
  }
}
