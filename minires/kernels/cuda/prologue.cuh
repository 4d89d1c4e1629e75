// Prologues: how a kernel reads an operand that was never written (minires/kernels/operand.py).
//
// The six kinds fall into three families, which a kernel is compiled for. Within a family the kind
// is known when the kernel runs, and costs nothing: NORMALISED is RECTIFIED with a floor of minus
// infinity, and GRADIENT is GATED with a threshold that nothing lies below.
#pragma once
#include "common.cuh"

enum { PLAIN, NORMALISED, RECTIFIED, GRADIENT, GATED, PASSED };  // kinds
enum { AS_IS, AFFINE, BACKWARD };                               // families
enum { MEAN, SCALE, SHIFT, SHARE, SLOPE };                      // rows of the coefficients k (5, c)

// max(v, floor); NaN stays NaN
INLINE float floored(float v, float floor) {
#if ON_GPU
  float r;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(v), "f"(floor));
  return r;
#else
  return v <= floor ? floor : v;
#endif
}
INLINE double floored(double v, double floor) { return v <= floor ? floor : v; }

// The prologue of V neighbouring channels:
//
//   Prologue<float, AFFINE, 4> prologue;
//   prologue.start(kind);                      // once
//   prologue.load(k, c, channel);              // whenever the channels change
//   value = prologue.apply(x[...], y[...], i)  // of channel + i; y for the family BACKWARD alone
template <class T, int FAMILY, int V> struct Prologue {
  static constexpr bool USES_Y = FAMILY == BACKWARD;
  static constexpr int ROWS = FAMILY == AS_IS ? 0 : FAMILY == AFFINE ? 3 : 5;
  Pack<T, V> row[ROWS ? ROWS : 1];
  T floor;      // AFFINE: what values are raised to. BACKWARD: x counts where z is not below or at it
  bool passed;  // BACKWARD: whether the gradient does not depend on y but by the ReLU

  INLINE void start(int kind) {
    const T infinity = __int_as_float(0x7f800000), not_a_number = __int_as_float(0x7fffffff);
    if (FAMILY == AFFINE) floor = kind == RECTIFIED ? T(0) : -infinity;
    if (FAMILY == BACKWARD) floor = kind == GRADIENT ? not_a_number : T(0), passed = kind == PASSED;
  }
  INLINE void load(const T* k, int c, int channel) {
    UNROLL for (int r = 0; r < ROWS; ++r) row[r] = load_pack<V>(k + r * c + channel);
  }
  INLINE T apply(T x, T y, int i) const {
    if (FAMILY == AS_IS) return x;
    // rows that a family lacks are not read: their index is brought back into range for C++ alone
    constexpr int HAS = ROWS ? ROWS : 1;
    const T scale = row[SCALE % HAS].v[i], away = (USES_Y ? y : x) - row[MEAN].v[i];
    const T z = multiply_add(away, scale, row[SHIFT % HAS].v[i]);
    if (FAMILY == AFFINE) return floored(z, floor);
    const T g = z <= floor ? T(0) : x;  // where z is NaN, x counts
    const T rest = multiply_add(-away, row[SLOPE % HAS].v[i], g - row[SHARE % HAS].v[i]);
    return scale * (passed ? g : rest);
  }
};
