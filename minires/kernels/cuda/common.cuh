// What every kernel uses: packs of entries that are read and written together, division by numbers
// that the host knows in advance, copies that run beside the arithmetic, and ReLU as the references
// define it.
//
// The same text is compiled by NVRTC for a GPU and by a C++ compiler for the simulator of the tests,
// which has twins of the few instructions that C++ has no words for (ON_GPU tells which).
#pragma once

#if defined(__CUDACC_RTC__) || defined(__CUDACC__)
#define ON_GPU 1
#define TOUCH(kind, p, bytes)
#else
#define ON_GPU 0
#define TOUCH(kind, p, bytes) cusim::touch(cusim::kind, p, bytes)
#endif
#define INLINE __device__ __forceinline__
#define UNROLL _Pragma("unroll")

// ---- packs: V entries that lie side by side, at an address that is a multiple of their size ----

// The hardware reads and writes up to 16 bytes a thread in one instruction: a pack of 16 bytes is a
// quarter of the instructions of four floats one by one.
template <class T, int V> struct alignas(sizeof(T) * V) Pack {
  T v[V];
};
template <class T> constexpr int WHOLE = 16 / int(sizeof(T));  // entries of the largest pack

template <int V, class T> INLINE Pack<T, V> load_pack(const T* p) {
  TOUCH(GLOBAL_LOAD, p, int(sizeof(T)) * V);
  return *reinterpret_cast<const Pack<T, V>*>(p);
}
template <int V, class T> INLINE void store_pack(T* p, const Pack<T, V>& r) {
  TOUCH(GLOBAL_STORE, p, int(sizeof(T)) * V);
  *reinterpret_cast<Pack<T, V>*>(p) = r;
}

// ---- numbers ----

// n / value for 0 <= n < 2^31 by one multiplication, where a division takes some twenty
// instructions. The host computes the other two fields (minires/kernels/cuda/struct.py): with
// l = ceil(log2(value)), multiplier = ceil(2^(31 + l) / value) and shift = l - 1.
struct Divisor {
  int value;
  unsigned multiplier;
  int shift;
};
INLINE void divide(int n, const Divisor& d, int& quotient, int& rest) {
  quotient = d.value == 1 ? n : int(__umulhi(unsigned(n), d.multiplier) >> d.shift);
  rest = n - quotient * d.value;
}

// max(v, 0); NaN stays NaN
INLINE float relu(float v) {
#if ON_GPU
  float r;
  asm("max.NaN.f32 %0, %1, 0f00000000;" : "=f"(r) : "f"(v));
  return r;
#else
  return v <= 0 ? 0.f : v;
#endif
}
INLINE double relu(double v) { return v <= 0 ? 0. : v; }

INLINE float multiply_add(float a, float b, float c) { return __fmaf_rn(a, b, c); }
INLINE double multiply_add(double a, double b, double c) { return __fma_rn(a, b, c); }

// Keeps what was computed before a loop in a register: the compiler would rather compute cheap
// integers again on every turn. What comes from a shuffle, be it a lane's own number, it cannot
// compute again. To be called by whole warps.
template <class T> INLINE T kept(T v) {
#if ON_GPU
  v = __shfl_sync(0xffffffffu, v, threadIdx.x % 32);
#endif
  return v;
}

// ---- shared memory, by address ----

#if ON_GPU
typedef unsigned Shared;
INLINE Shared shared_address(const void* p) { return unsigned(__cvta_generic_to_shared(p)); }
#else
typedef uintptr_t Shared;  // the simulator's shared memory is memory like any other
INLINE Shared shared_address(const void* p) { return reinterpret_cast<uintptr_t>(p); }
#endif

// ---- copies from global to shared memory that run beside the threads (sm_80 and newer) ----

// Start to copy BYTES (4, 8 or 16), or zeros where `valid` is 0. The copy is there for this thread
// after copy_wait; for others after a barrier behind that. `valid` may be any bit of a mask: no
// instruction is spent on bringing it to the lowest place.
template <int BYTES> INLINE void copy_async(Shared to, const void* from, unsigned valid) {
#if ON_GPU
  asm volatile(
      "{ .reg .pred outside; setp.eq.u32 outside, %3, 0;"
      " cp.async.ca.shared.global [%0], [%1], %2, outside; }" ::"r"(to),
      "l"(from), "n"(BYTES), "r"(valid)
      : "memory");
#else
  cusim::copy_async(reinterpret_cast<unsigned char*>(to), from, BYTES, valid != 0);
#endif
}
INLINE void copy_commit() {  // what was started since the last one is a group
#if ON_GPU
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  cusim::copy_commit();
#endif
}
template <int GROUPS> INLINE void copy_wait() {  // until at most so many groups are under way
#if ON_GPU
  asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS) : "memory");
#else
  cusim::copy_wait(GROUPS);
#endif
}
