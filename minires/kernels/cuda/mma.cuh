// Arithmetics, and tensor cores: the one place that knows which lane of a warp holds which number.
//
// An arithmetic says what arrays hold (T, which sums have too), what tiles in shared memory hold
// (Entry), and how one becomes the other. Kernels are templates over it:
//
//   name   T        Entry                 a product of tiles
//   Fp32   float    float                 by each thread for itself, exact but for rounding sums
//   Fp64   double   double                the same
//   Tf32   float    float, 10 bits of     by tensor cores: products are exact, sums are float
//                   fraction
//   Bf16   float    bfloat16, 7 bits of   the same, twice as many products per instruction
//                   fraction, in 16 bits
#pragma once
#include "common.cuh"

// ---- rounding ----

// The nearest number of 10 bits of fraction, which is all of it that tensor cores read in tf32.
INLINE float to_tf32(float v) {
#if ON_GPU
  unsigned bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(v));
  return __uint_as_float(bits);
#else
  unsigned bits = __float_as_uint(v);
  if ((bits & 0x7f800000u) != 0x7f800000u) bits += 0x1000u;  // inf and NaN stay what they are
  return __uint_as_float(bits & 0xffffe000u);
#endif
}

// Two numbers as bfloat16, the nearest ones (of two as near the even one): `low` in the lower half.
INLINE unsigned to_bf16(float low, float high) {
#if ON_GPU
  unsigned bits;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
#else
  auto rounded = [](float v) {
    const unsigned bits = __float_as_uint(v);
    if (v != v) return 0x7fffu;  // NaN
    return (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
  };
  return rounded(low) | rounded(high) << 16;
#endif
}

// ---- arithmetics ----

struct Fp32 {
  typedef float T;
  typedef float Entry;
  static constexpr bool TENSOR = false;
  static INLINE Entry entry(float v) { return v; }
  static INLINE float value(Entry v) { return v; }
  template <int V> static INLINE Pack<float, V> entries(const Pack<float, V>& p) { return p; }
};

struct Fp64 {
  typedef double T;
  typedef double Entry;
  static constexpr bool TENSOR = false;
  static INLINE Entry entry(double v) { return v; }
  static INLINE double value(Entry v) { return v; }
  template <int V> static INLINE Pack<double, V> entries(const Pack<double, V>& p) { return p; }
};

struct Tf32 {
  typedef float T;
  typedef float Entry;
  static constexpr bool TENSOR = true;
  static INLINE Entry entry(float v) { return to_tf32(v); }
  static INLINE float value(Entry v) { return v; }
  template <int V> static INLINE Pack<float, V> entries(const Pack<float, V>& p) {
    Pack<float, V> r;
    UNROLL for (int i = 0; i < V; ++i) r.v[i] = to_tf32(p.v[i]);
    return r;
  }
};

struct Bf16 {
  typedef float T;
  typedef unsigned short Entry;
  static constexpr bool TENSOR = true;
  static INLINE Entry entry(float v) { return Entry(to_bf16(v, 0.f)); }
  static INLINE float value(Entry v) { return __uint_as_float(unsigned(v) << 16); }
  template <int V> static INLINE Pack<unsigned, V / 2> entries(const Pack<float, V>& p) {  // pairs
    Pack<unsigned, V / 2> r;
    UNROLL for (int i = 0; i < V; i += 2) r.v[i / 2] = to_bf16(p.v[i], p.v[i + 1]);
    return r;
  }
};

// ---- shared memory, by address ----

template <class P> INLINE P shared_load(Shared at);
template <> INLINE Pack<float, 4> shared_load<Pack<float, 4>>(Shared at) {
  Pack<float, 4> p;
#if ON_GPU
  asm volatile("ld.shared.v4.f32 {%0,%1,%2,%3}, [%4];"
               : "=f"(p.v[0]), "=f"(p.v[1]), "=f"(p.v[2]), "=f"(p.v[3])
               : "r"(at)
               : "memory");
#else
  TOUCH(SHARED_LOAD, reinterpret_cast<void*>(at), 16);
  p = *reinterpret_cast<const Pack<float, 4>*>(at);
#endif
  return p;
}
template <> INLINE Pack<double, 2> shared_load<Pack<double, 2>>(Shared at) {
  Pack<double, 2> p;
#if ON_GPU
  asm volatile("ld.shared.v2.f64 {%0,%1}, [%2];" : "=d"(p.v[0]), "=d"(p.v[1]) : "r"(at) : "memory");
#else
  TOUCH(SHARED_LOAD, reinterpret_cast<void*>(at), 16);
  p = *reinterpret_cast<const Pack<double, 2>*>(at);
#endif
  return p;
}

// Words of 32 bits, of any type that has as many.
INLINE unsigned word_of(float v) { return __float_as_uint(v); }
INLINE unsigned word_of(unsigned v) { return v; }

template <class E, int V> INLINE void shared_store(Shared at, const Pack<E, V>& p) {
#if ON_GPU
  if constexpr (V == 4)
    asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(at), "r"(word_of(p.v[0])),
                 "r"(word_of(p.v[1])), "r"(word_of(p.v[2])), "r"(word_of(p.v[3]))
                 : "memory");
  else if constexpr (V == 2)
    asm volatile("st.shared.v2.u32 [%0], {%1,%2};" ::"r"(at), "r"(word_of(p.v[0])), "r"(word_of(p.v[1])) : "memory");
  else
    asm volatile("st.shared.u32 [%0], %1;" ::"r"(at), "r"(word_of(p.v[0])) : "memory");
#else
  TOUCH(SHARED_STORE, reinterpret_cast<void*>(at), int(sizeof(E)) * V);
  *reinterpret_cast<Pack<E, V>*>(at) = p;
#endif
}
template <int V> INLINE void shared_store(Shared at, const Pack<double, V>& p) {
#if ON_GPU
  if constexpr (V == 2)
    asm volatile("st.shared.v2.f64 [%0], {%1,%2};" ::"r"(at), "d"(p.v[0]), "d"(p.v[1]) : "memory");
  else
    asm volatile("st.shared.f64 [%0], %1;" ::"r"(at), "d"(p.v[0]) : "memory");
#else
  TOUCH(SHARED_STORE, reinterpret_cast<void*>(at), 8 * V);
  *reinterpret_cast<Pack<double, V>*>(at) = p;
#endif
}

// ---- tensor cores ----
//
// D (16 x 8) += A (16 x K) B (K x 8), where a row of A, and a column of B, is 32 bytes long: K is 8
// in tf32 and 16 in bfloat16. With g = lane / 4 and t = lane % 4, in words of 32 bits, a lane gives
//
//   a[0] row g, word t          a[1] row g + 8, word t
//   a[2] row g, word t + 4      a[3] row g + 8, word t + 4
//   b0   column g, word t       b1   column g, word t + 4
//
// and holds d[0], d[1] of row g, columns 2 t and 2 t + 1; d[2], d[3] of row g + 8, the same columns
// (PTX ISA, "Matrix fragments for mma.m16n8k8" and "... mma.m16n8k16").
//
// load_matrices brings such words from shared memory: lane l names a row of 16 bytes (row l % 8 of
// matrix l / 8), and r[m] becomes word t of row g of matrix m.

#if !ON_GPU
struct MmaLane {
  float* d;
  const unsigned *a, *b;
};
template <class Math> void mma_of_warp(void** lanes) {
  constexpr int PER_WORD = 4 / int(sizeof(typename Math::Entry));
  auto lane = [&](int l) { return static_cast<const MmaLane*>(lanes[l]); };
  auto value = [](unsigned word, int half) {  // tensor cores read no more bits than these
    if (PER_WORD == 1) return __uint_as_float(word & 0xffffe000u);
    return __uint_as_float(half ? word & 0xffff0000u : word << 16);
  };
  for (int row = 0; row < 16; ++row)
    for (int column = 0; column < 8; ++column) {
      float* d = lane(4 * (row % 8) + column / 2)->d + 2 * (row / 8) + column % 2;
      float sum = *d;
      for (int word = 0; word < 8; ++word)
        for (int half = 0; half < PER_WORD; ++half) {
          const float a = value(lane(4 * (row % 8) + word % 4)->a[row / 8 + 2 * (word / 4)], half);
          const float b = value(lane(4 * column + word % 4)->b[word / 4], half);
          sum += a * b;
        }
      *d = sum;
    }
}
struct MatrixLane {
  Shared mine, rows[4];
};
inline void rows_of_warp(void** lanes) {
  for (int l = 0; l < 32; ++l)
    for (int m = 0; m < 4; ++m)
      static_cast<MatrixLane*>(lanes[l])->rows[m] = static_cast<MatrixLane*>(lanes[8 * m + l / 4])->mine;
}
#endif

template <class Math>
INLINE void mma(float& d0, float& d1, float& d2, float& d3, const unsigned (&a)[4], unsigned b0, unsigned b1) {
#if ON_GPU
  if constexpr (sizeof(typename Math::Entry) == 4)
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d0), "+f"(d1), "+f"(d2), "+f"(d3)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d0), "+f"(d1), "+f"(d2), "+f"(d3)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  float d[4] = {d0, d1, d2, d3};
  const unsigned b[2] = {b0, b1};
  MmaLane mine = {d, a, b};
  cusim::collective("mma", &mine, mma_of_warp<Math>);
  d0 = d[0], d1 = d[1], d2 = d[2], d3 = d[3];
#endif
}

INLINE void load_matrices(unsigned (&r)[4], Shared row) {
#if ON_GPU
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row)
               : "memory");
#else
  TOUCH(MATRIX, reinterpret_cast<void*>(row), 16);
  MatrixLane mine = {row, {}};
  cusim::collective("ldmatrix", &mine, rows_of_warp);
  for (int m = 0; m < 4; ++m) r[m] = reinterpret_cast<const unsigned*>(mine.rows[m])[threadIdx.x % 4];
#endif
}
