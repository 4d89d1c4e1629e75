// What the files of the runtime know of one another.
//
// Every CUDA thread is a fiber: a stack of its own, run until it has to wait for others. One thread
// runs at a time and blocks run one after another, so that the order is known and can be chosen.
#pragma once
#include <string>
#include <vector>

#include "interface.hpp"

namespace cusim {

// **** a launch: what Python asks for (module.py has the same fields) ****

struct Array {  // memory that a kernel may touch
  uintptr_t begin;
  size_t bytes;
  size_t entry;  // bytes of one entry: threads may write to neighbouring entries without a race
  int32_t argument;  // its position, or -1
  int32_t writable;
};
enum Order { FORWARD, REVERSE, SHUFFLED };
struct Launch {
  unsigned grid[3], block[3];
  size_t dynamic;  // bytes of dynamic shared memory
  void** arguments;
  const Array* arrays;
  int32_t arrays_count;
  int32_t order;
  uint32_t seed;
  int32_t late;     // whether asynchronous copies happen as late as allowed, or at once
  int32_t checked;  // whether accesses to memory are looked at (kernels compiled for it only)
  int64_t counted;  // the block whose accesses are counted, or -1
};

// **** threads (scheduler.cpp) ****

enum State { FRESH, READY, AT_BARRIER, AT_WARP, DONE };
struct Fiber;
struct Thread {
  int id;
  uint3 index;
  State state;
  Fiber* fiber;
  const char* waits_for;  // name, file and line of what it waits for
  const char* file;
  int line;
  unsigned warp_epoch;  // how often its warp has synchronised memory
  uint64_t brought, got;
  int from;
  void* data;
};
extern Thread* current;  // the one that runs, or null
extern int block_number;
extern uint64_t block_serial;  // blocks run so far, in all launches: no two are alike
extern unsigned block_epoch;   // barriers of this block so far
extern int block_threads;

// End the launch with an error that names the running thread. Never comes back.
[[noreturn]] void fail(const std::string& what);
std::string place(const char* file, int line);

// **** memory (memory.cpp, counting.cpp, checks.cpp) ****

extern unsigned char* dynamic_begin;
extern size_t dynamic_size, static_size;  // static_size: of the largest block so far
void begin_memory(const Launch& launch);
void begin_block_memory();
void end_memory();

void begin_counting(int64_t block);
void begin_block_counting();
void end_block_counting();

bool on_stack(uintptr_t at);
void begin_checks(const Launch& launch);
void end_checks();
void add_shared(uintptr_t begin, size_t bytes, size_t entry);  // once per block
void forget_shared();
// An access by the runtime for the running thread; nothing happens in unchecked launches. Memory to
// which a copy is under way may not be touched by anyone.
enum Kind { READ, WRITE, COPY_BEGINS, COPY_ENDS };
void check_access(const void* at, size_t bytes, Kind kind, const char* file, int line);

}  // namespace cusim
