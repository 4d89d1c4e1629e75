// What a kernel, compiled as plain C++, and the runtime that runs it know of one another.
//
// Kernels are compiled again and again, the runtime once. So this file includes nothing that is
// slow to read, and all that can be is a function of the runtime.
#pragma once
#include <stddef.h>
#include <stdint.h>

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

#pragma GCC visibility push(default)  // kernels are compiled with all else hidden
namespace cusim {

// The variables that CUDA gives each thread. The scheduler sets them before a thread goes on.
struct Builtins {
  uint3 thread, block;
  dim3 block_size, grid_size;
  bool counting;  // whether touch() counts
};
extern Builtins builtins;

// Where in the kernel's source something is called: default arguments are made by the caller.
#define CUSIM_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

// All threads of a block that still run come here before any goes on. How many brought true.
int barrier(const char* name, bool value, CUSIM_HERE);

// The lanes of a warp that `mask` names come together; each gets what lane `from` brought.
uint64_t exchange(const char* name, unsigned mask, uint64_t value, int from, CUSIM_HERE);
// The same, and each gets a bit for every lane that brought true.
unsigned ballot(const char* name, unsigned mask, bool value, CUSIM_HERE);
// The same, and what lanes wrote to memory before is seen by the others afterwards.
void synchronize_warp(unsigned mask, CUSIM_HERE);
// An instruction of a whole warp (mma, ldmatrix): `all` gets what each of the 32 lanes brought.
void collective(const char* name, void* mine, void (*all)(void** lanes), CUSIM_HERE);
int lane();

// Copies to shared memory that run besides the threads (cp.async), of 4, 8 or 16 bytes, or zeros.
void copy_async(unsigned char* to, const void* from, int bytes, bool valid, CUSIM_HERE);
void copy_commit();
void copy_wait(int groups);

// A thread has reached the declaration of an array in shared memory.
void declare_shared(void* array, size_t bytes, size_t entry);
void* dynamic_shared();
[[noreturn]] void trap(CUSIM_HERE);

// Kinds of access to memory whose cost is counted, when a test asks for it.
enum Touch {
  SHARED_LOAD,
  SHARED_STORE,
  MATRIX,  // ldmatrix
  ASYNC_SHARED,
  GLOBAL_LOAD,
  ASYNC_GLOBAL,
  GLOBAL_STORE,
  TOUCHES
};
void count_touch(Touch kind, const void* at, int bytes);
inline void touch(Touch kind, const void* at, int bytes) {
  if (builtins.counting) count_touch(kind, at, bytes);
}

}  // namespace cusim
#pragma GCC visibility pop
