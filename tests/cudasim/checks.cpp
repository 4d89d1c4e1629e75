// Accesses to memory that are looked at: races, and what lies outside of every array.
//
// A checked kernel is compiled with -fsanitize=thread, which puts a call before every load and
// store, and with parts of -fsanitize=undefined; the functions that are called are these, not the
// sanitizers' own. So a finding is an ordinary error of the launch, with its line of the source.
#include <stdlib.h>
#include <string.h>

#include "runtime.hpp"

namespace cusim {

struct Access {
  uint64_t block = 0;  // serial of the block, 0: none so far
  int thread = 0;
  unsigned block_epoch = 0, warp_epoch = 0;
};
struct Cell {  // the last write, and the last reads by two different threads
  Access write, read, older_read;
  int copies = 0;  // to it that are under way
};
struct Watched {
  uintptr_t begin, end;
  size_t grain;  // bytes of a cell
  bool shared;
  int argument;
  bool writable;
  std::vector<Cell>* cells;
};
static std::vector<Watched> watched;
static bool checked;
static uintptr_t found_at;       // the address of code after the access in question, or
static const char* access_file;  // where the runtime was called for it
static int access_line;

[[noreturn]] static void wrong(const std::string& what) {
  fail(access_file ? what + " at " + place(access_file, access_line) : what);
}

static std::vector<Cell>* cells_for(size_t bytes, size_t grain) {
  return new std::vector<Cell>(bytes / grain + 2);
}

void begin_checks(const Launch& launch) {
  checked = launch.checked;
  found_at = 0;
  access_file = nullptr;
  if (!checked) return;
  for (int i = 0; i < launch.arrays_count; ++i) {
    const Array& a = launch.arrays[i];
    const size_t grain = a.entry >= 4 ? 4 : a.entry;
    watched.push_back({a.begin, a.begin + a.bytes, grain, false, a.argument, a.writable != 0,
                       cells_for(a.bytes, grain)});
  }
}
void end_checks() {
  for (Watched& w : watched) delete w.cells;
  watched.clear();
  checked = false;
}
void add_shared(uintptr_t begin, size_t bytes, size_t entry) {
  if (!checked) return;
  const size_t grain = entry >= 4 ? 4 : entry;
  watched.push_back({begin, begin + bytes, grain, true, -1, true, cells_for(bytes, grain)});
}
void forget_shared() {
  for (size_t i = 0; i < watched.size();)
    if (watched[i].shared) {
      delete watched[i].cells;
      watched[i] = watched.back();
      watched.pop_back();
    } else {
      ++i;
    }
}

// Does an earlier access happen before what the running thread does now, in every order?
static bool ordered(const Access& a, bool shared) {
  if (!a.block) return true;
  if (a.block != block_serial) return shared;  // blocks share global memory only
  if (a.thread == current->id || a.block_epoch != block_epoch) return true;
  return a.thread / 32 == current->id / 32 && a.warp_epoch < current->warp_epoch;
}

static void check_race(const Watched& w, Cell& cell, size_t byte, Kind kind) {
  const bool write = kind != READ;
  const Access now = {block_serial, current->id, block_epoch, current->warp_epoch};
  if (kind == COPY_ENDS) --cell.copies;
  const Access* other = nullptr;
  if (!ordered(cell.write, w.shared)) other = &cell.write;
  if (write && !ordered(cell.read, w.shared)) other = &cell.read;
  if (write && !ordered(cell.older_read, w.shared)) other = &cell.older_read;
  if (other || cell.copies) {
    const std::string memory = w.shared         ? "shared memory"
                               : w.argument < 0 ? "global memory"
                                                : "argument " + std::to_string(w.argument);
    const std::string what =
        "race on " + memory + ", byte " + std::to_string(byte) + ": " + (write ? "write" : "read");
    if (!other) wrong(what + " while a copy to it is under way");
    const bool same = other->block == block_serial;
    wrong(what + " after " + (other == &cell.write ? "write" : "read") + " by thread " +
          std::to_string(other->thread) + (same ? " of this block" : " of another block") +
          " with no barrier between");
  }
  if (kind == COPY_BEGINS) ++cell.copies;
  if (write) {
    cell.write = now;
  } else {
    if (cell.read.thread != now.thread || cell.read.block != now.block) cell.older_read = cell.read;
    cell.read = now;
  }
}

static void report_outside(uintptr_t at, size_t bytes, Kind kind) {
  std::string what = std::string(kind == READ ? "read" : "write") + " outside of every array: " +
                     std::to_string(bytes) + " bytes at " + (at ? "an address" : "address 0");
  const Watched* nearest = nullptr;
  uintptr_t least = ~uintptr_t(0);
  for (const Watched& w : watched) {
    const uintptr_t away = at < w.begin ? w.begin - at : at - w.end;
    if (away < least) least = away, nearest = &w;
  }
  if (nearest && at) {
    const bool before = at < nearest->begin;
    what += " " + std::to_string(before ? nearest->begin - at : at - nearest->end) + " bytes " +
            (before ? "before" : "behind") + " the " +
            (nearest->shared ? "array in shared memory"
                             : "array of argument " + std::to_string(nearest->argument));
  }
  wrong(what);
}

static void look_at(const void* address, size_t bytes, Kind kind) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(address);
  if (on_stack(at) || at - reinterpret_cast<uintptr_t>(&builtins) < sizeof builtins) return;
  for (const Watched& w : watched) {
    if (at < w.begin || at >= w.end) continue;
    if (at + bytes > w.end) report_outside(w.end, at + bytes - w.end, kind);
    if (kind != READ && !w.writable)
      wrong("write to argument " + std::to_string(w.argument) + ", which is read-only");
    const size_t first = (at - w.begin) / w.grain * w.grain;
    for (size_t byte = first; byte < at - w.begin + bytes; byte += w.grain)
      check_race(w, (*w.cells)[byte / w.grain], byte, kind);
    return;
  }
  report_outside(at, bytes, kind);
}

void check_access(const void* at, size_t bytes, Kind kind, const char* file, int line) {
  if (!checked || !current) return;
  access_file = file;
  access_line = line;
  look_at(at, bytes, kind);
  access_file = nullptr;
}

static void instrumented(const void* at, size_t bytes, Kind kind, void* code) {
  if (!checked || !current) return;
  found_at = reinterpret_cast<uintptr_t>(code);
  look_at(at, bytes, kind);
  found_at = 0;
}
extern "C" uintptr_t cusim_found_at() { return found_at; }

}  // namespace cusim

#define CUSIM_ACCESS(bytes)                                                            \
  extern "C" void __tsan_read##bytes(void* at) {                                       \
    cusim::instrumented(at, bytes, cusim::READ, __builtin_return_address(0));                \
  }                                                                                    \
  extern "C" void __tsan_write##bytes(void* at) {                                      \
    cusim::instrumented(at, bytes, cusim::WRITE, __builtin_return_address(0));                 \
  }                                                                                    \
  extern "C" void __tsan_unaligned_read##bytes(void* at) {                             \
    cusim::instrumented(at, bytes, cusim::READ, __builtin_return_address(0));                \
  }                                                                                    \
  extern "C" void __tsan_unaligned_write##bytes(void* at) {                            \
    cusim::instrumented(at, bytes, cusim::WRITE, __builtin_return_address(0));                 \
  }
CUSIM_ACCESS(1)
CUSIM_ACCESS(2)
CUSIM_ACCESS(4)
CUSIM_ACCESS(8)
CUSIM_ACCESS(16)
extern "C" void __tsan_read_range(void* at, size_t bytes) {
  cusim::instrumented(at, bytes, cusim::READ, __builtin_return_address(0));
}
extern "C" void __tsan_write_range(void* at, size_t bytes) {
  cusim::instrumented(at, bytes, cusim::WRITE, __builtin_return_address(0));
}
extern "C" void __tsan_init() {}
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit() {}

// What -fsanitize=undefined calls: the first argument says where.
struct SourceLocation {
  const char* file;
  unsigned line, column;
};
#define CUSIM_UNDEFINED(name, what)                                                    \
  extern "C" void __ubsan_handle_##name(const SourceLocation* at, ...) {               \
    cusim::fail(std::string(what " at ") + cusim::place(at->file, int(at->line)));     \
  }
CUSIM_UNDEFINED(out_of_bounds, "index out of bounds")
CUSIM_UNDEFINED(type_mismatch_v1, "misaligned or null address")
CUSIM_UNDEFINED(shift_out_of_bounds, "shift by too many bits")
CUSIM_UNDEFINED(divrem_overflow, "division by zero")
CUSIM_UNDEFINED(add_overflow, "overflow of an addition")
CUSIM_UNDEFINED(sub_overflow, "overflow of a subtraction")
CUSIM_UNDEFINED(mul_overflow, "overflow of a multiplication")
CUSIM_UNDEFINED(negate_overflow, "overflow of a negation")
