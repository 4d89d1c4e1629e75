// CUDA C++ as far as kernels of this project use it, for a compiler of plain C++17.
//
// Every name here is CUDA's. What a name means is in the CUDA C++ Programming Guide; what is said
// here is where the simulation differs.
#pragma once
#include <type_traits>
#include <utility>

#include "interface.hpp"

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __restrict__
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
// One block runs after another, so that one array serves them all. A line that Python adds after
// each declaration tells the runtime (build.py).
#define __shared__ static
#define CUSIM_SHARED(array) cusim::declare_shared(&array, sizeof(array), cusim::entry(array))

#define threadIdx (cusim::builtins.thread)
#define blockIdx (cusim::builtins.block)
#define blockDim (cusim::builtins.block_size)
#define gridDim (cusim::builtins.grid_size)
static constexpr int warpSize = 32;

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline double2 make_double2(double x, double y) { return {x, y}; }

namespace cusim {
template <class T> constexpr size_t entry(const T&) { return sizeof(std::remove_all_extents_t<T>); }
template <class To, class From> inline To cast_bits(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To result;
  __builtin_memcpy(&result, &value, sizeof value);
  return result;
}
template <class T> inline uint64_t to_bits(T value) {
  static_assert(sizeof(T) <= 8, "warps exchange numbers of at most 8 bytes");
  uint64_t bits = 0;
  __builtin_memcpy(&bits, &value, sizeof value);
  return bits;
}
template <class T> inline T from_bits(uint64_t bits) {
  T value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}
}  // namespace cusim

// **** barriers and warps ****

inline void __syncthreads(CUSIM_HERE) { cusim::barrier("__syncthreads", false, file, line); }
inline int __syncthreads_count(int value, CUSIM_HERE) {
  return cusim::barrier("__syncthreads_count", value != 0, file, line);
}
inline int __syncthreads_or(int value, CUSIM_HERE) {
  return cusim::barrier("__syncthreads_or", value != 0, file, line) != 0;
}
inline int __syncthreads_and(int value, CUSIM_HERE) {
  return cusim::barrier("__syncthreads_and", value == 0, file, line) == 0;
}
inline void __syncwarp(unsigned mask = 0xffffffffu, CUSIM_HERE) {
  cusim::synchronize_warp(mask, file, line);
}
// Threads of the simulation run in turn, and all see memory alike: fences have nothing to do.
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __trap(CUSIM_HERE) { cusim::trap(file, line); }

// A lane beyond its segment of `width` lanes keeps its own value.
#define CUSIM_SHUFFLE(name, source, inside)                                                     \
  template <class T>                                                                            \
  inline T name(unsigned mask, T value, int by, int width = 32, CUSIM_HERE) {                   \
    const int lane = cusim::lane(), first = lane / width * width, from = (source);              \
    const int where = (inside) ? from : lane;                                                   \
    return cusim::from_bits<T>(                                                                 \
        cusim::exchange(#name, mask, cusim::to_bits(value), where, file, line));                \
  }
CUSIM_SHUFFLE(__shfl_sync, first + (by & (width - 1)), true)
CUSIM_SHUFFLE(__shfl_up_sync, lane - by, from >= first)
CUSIM_SHUFFLE(__shfl_down_sync, lane + by, from < first + width)
CUSIM_SHUFFLE(__shfl_xor_sync, lane ^ by, from < first + width)

inline unsigned __ballot_sync(unsigned mask, int value, CUSIM_HERE) {
  return cusim::ballot("__ballot_sync", mask, value != 0, file, line);
}
inline int __any_sync(unsigned mask, int value, CUSIM_HERE) {
  return cusim::ballot("__any_sync", mask, value != 0, file, line) != 0;
}
inline int __all_sync(unsigned mask, int value, CUSIM_HERE) {
  return cusim::ballot("__all_sync", mask, value == 0, file, line) == 0;
}

// **** memory ****

// Atomics of whole numbers only: sums of floats in the order of arrival differ from run to run.
// Threads run in turn, so that a read and a write beside one another are atomic; the checks for
// races do not look into them.
#define CUSIM_ATOMIC(name, result)                                                              \
  template <class T, class U>                                                                   \
  __attribute__((noinline, no_sanitize("thread"))) T name(T* at, U other) {                     \
    static_assert(std::is_integral_v<T>, #name " of floats: sums in no fixed order");           \
    const T old = *at, value = T(other);                                                        \
    *at = T(result);                                                                            \
    return old;                                                                                 \
  }
CUSIM_ATOMIC(atomicAdd, old + value)
CUSIM_ATOMIC(atomicSub, old - value)
CUSIM_ATOMIC(atomicMax, old < value ? value : old)
CUSIM_ATOMIC(atomicMin, value < old ? value : old)
CUSIM_ATOMIC(atomicExch, value)
CUSIM_ATOMIC(atomicAnd, old & value)
CUSIM_ATOMIC(atomicOr, old | value)

// Loads and stores that say how the cache should treat them.
template <class T> inline T __ldg(const T* at) { return *at; }
template <class T> inline T __ldcs(const T* at) { return *at; }
template <class T> inline T __ldcg(const T* at) { return *at; }
template <class T> inline void __stcs(T* at, T value) { *at = value; }
template <class T> inline void __stcg(T* at, T value) { *at = value; }

// **** arithmetic ****

template <class A, class B> inline std::common_type_t<A, B> min(A a, B b) {
  using T = std::common_type_t<A, B>;
  return T(b) < T(a) ? T(b) : T(a);
}
template <class A, class B> inline std::common_type_t<A, B> max(A a, B b) {
  using T = std::common_type_t<A, B>;
  return T(a) < T(b) ? T(b) : T(a);
}

// The functions of math.h for double, for float by its own name and, as in CUDA, by the same one.
#define CUSIM_MATH_1(name)                                       \
  extern "C" double name(double) noexcept;                       \
  extern "C" float name##f(float) noexcept;                      \
  inline float name(float x) { return __builtin_##name##f(x); }
#define CUSIM_MATH_2(name)                                                    \
  extern "C" double name(double, double) noexcept;                            \
  extern "C" float name##f(float, float) noexcept;                            \
  inline float name(float x, float y) { return __builtin_##name##f(x, y); }
CUSIM_MATH_1(ceil)
CUSIM_MATH_1(cos)
CUSIM_MATH_1(erf)
CUSIM_MATH_1(exp)
CUSIM_MATH_1(expm1)
CUSIM_MATH_1(fabs)
CUSIM_MATH_1(floor)
CUSIM_MATH_1(log)
CUSIM_MATH_1(log1p)
CUSIM_MATH_1(log2)
CUSIM_MATH_1(rint)
CUSIM_MATH_1(round)
CUSIM_MATH_1(sin)
CUSIM_MATH_1(sqrt)
CUSIM_MATH_1(tanh)
CUSIM_MATH_1(trunc)
CUSIM_MATH_2(copysign)
CUSIM_MATH_2(fmax)
CUSIM_MATH_2(fmin)
CUSIM_MATH_2(fmod)
CUSIM_MATH_2(pow)
inline double fma(double x, double y, double z) { return __builtin_fma(x, y, z); }
inline float fma(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
inline float fmaf(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
extern "C" int abs(int) noexcept;
inline float abs(float x) { return __builtin_fabsf(x); }
inline double abs(double x) { return __builtin_fabs(x); }
template <class T> inline bool isnan(T x) { return x != x; }
template <class T> inline bool isinf(T x) { return __builtin_isinf(x); }
template <class T> inline bool isfinite(T x) { return __builtin_isfinite(x); }
inline float rsqrtf(float x) { return 1.0f / __builtin_sqrtf(x); }
inline float rsqrt(float x) { return rsqrtf(x); }
inline double rsqrt(double x) { return 1.0 / __builtin_sqrt(x); }

// Macros, for the C library has functions of its own with some of these names.
#define __expf(x) expf(x)
#define __logf(x) logf(x)
#define __powf(x, y) powf(x, y)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
inline float __fdividef(float x, float y) { return x / y; }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return __builtin_sqrtf(x); }
inline float __fmaf_rn(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
inline double __dadd_rn(double x, double y) { return x + y; }
inline double __dsub_rn(double x, double y) { return x - y; }
inline double __dmul_rn(double x, double y) { return x * y; }
inline double __ddiv_rn(double x, double y) { return x / y; }
inline double __dsqrt_rn(double x) { return __builtin_sqrt(x); }
inline double __fma_rn(double x, double y, double z) { return __builtin_fma(x, y, z); }

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline unsigned __umulhi(unsigned x, unsigned y) { return unsigned(uint64_t(x) * y >> 32); }
inline int __mulhi(int x, int y) { return int(int64_t(x) * y >> 32); }
inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y) {
  return (unsigned long long)((unsigned __int128)x * y >> 64);
}
inline unsigned __float_as_uint(float x) { return cusim::cast_bits<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return cusim::cast_bits<float>(x); }
inline int __float_as_int(float x) { return cusim::cast_bits<int>(x); }
inline float __int_as_float(int x) { return cusim::cast_bits<float>(x); }
inline long long __double_as_longlong(double x) { return cusim::cast_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return cusim::cast_bits<double>(x); }
template <class T> inline size_t __cvta_generic_to_shared(const T* at) { return size_t(at); }

// **** how Python calls a kernel ****

namespace cusim {
// A parameter in letters: its kind as in NumPy (f i u b, s a struct) and bytes; before them, for a
// pointer, p and whether the kernel may write through it (w) or only read (r).
template <class T> char* describe(char* to) {
  if constexpr (std::is_pointer_v<T>) {
    using E = std::remove_pointer_t<T>;
    *to++ = 'p';
    *to++ = std::is_const_v<E> ? 'r' : 'w';
    if constexpr (std::is_void_v<E>)
      *to++ = 'v', *to++ = '1', *to++ = ' ';
    else
      to = describe<std::remove_cv_t<E>>(to);
    return to;
  } else {
    *to++ = std::is_same_v<T, bool>        ? 'b'
            : std::is_floating_point_v<T>  ? 'f'
            : !std::is_integral_v<T>       ? 's'
            : std::is_signed_v<T>          ? 'i'
                                           : 'u';
    int scale = 1;
    while (size_t(scale) * 10 <= sizeof(T)) scale *= 10;
    for (; scale; scale /= 10) *to++ = char('0' + sizeof(T) / size_t(scale) % 10);
    *to++ = ' ';
    return to;
  }
}
template <class... A> void describe_all(void (*)(A...), char* to) {
  ((to = describe<std::remove_cv_t<A>>(to)), ...);
  *to = 0;
}
template <class... A, size_t... I>
__attribute__((no_sanitize("thread", "undefined")))  // the arguments are in Python's memory
void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
  kernel(*static_cast<std::remove_cv_t<A>*>(arguments[I])...);
}
template <class... A> void call(void (*kernel)(A...), void** arguments) {
  call(kernel, arguments, std::index_sequence_for<A...>{});
}
}  // namespace cusim

// The kernel's name expression comes last, since it may hold commas.
#define CUSIM_EXPORT(number, ...)                                                                 \
  extern "C" __attribute__((visibility("default"))) void cusim_signature_##number(char* to) {     \
    cusim::describe_all(&__VA_ARGS__, to);                                                        \
  }                                                                                               \
  extern "C" __attribute__((visibility("default"))) void cusim_kernel_##number(void** arguments) { \
    cusim::call(&__VA_ARGS__, arguments);                                                         \
  }
