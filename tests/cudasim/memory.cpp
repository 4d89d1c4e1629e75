// Shared memory, and copies to it that run beside the threads.
#include <string.h>

#include "runtime.hpp"

namespace cusim {

unsigned char* dynamic_begin;
size_t dynamic_size, static_size;

static std::vector<unsigned char> dynamic_memory;
static std::vector<void*> declared;  // arrays that a thread of this block has reached
static size_t declared_size;
static bool late;

struct Copy {
  unsigned char* to;
  const unsigned char* from;
  int bytes;
  bool valid;
  int group;
  const char* file;
  int line;
};
static std::vector<std::vector<Copy>> copies;  // of each thread, under way
static std::vector<int> open_group;            // of each thread: the group that copies join

void begin_memory(const Launch& launch) {
  constexpr size_t ALIGNED = 1024;
  late = launch.late;
  static_size = 0;
  dynamic_size = launch.dynamic;
  dynamic_memory.resize(dynamic_size + ALIGNED);
  const uintptr_t begin = reinterpret_cast<uintptr_t>(dynamic_memory.data());
  dynamic_begin = dynamic_memory.data() + (ALIGNED - begin % ALIGNED) % ALIGNED;
}

// Shared memory holds anything when a block begins: here NaN, and -1 in whole numbers.
void begin_block_memory() {
  copies.assign(size_t(block_threads), {});
  open_group.assign(size_t(block_threads), 0);
  declared.clear();
  declared_size = 0;
  forget_shared();
  if (dynamic_size) {
    memset(dynamic_begin, 0xFF, dynamic_size);
    add_shared(reinterpret_cast<uintptr_t>(dynamic_begin), dynamic_size, 2);
  }
}
void declare_shared(void* array, size_t bytes, size_t entry) {
  for (void* old : declared)
    if (old == array) return;
  declared.push_back(array);
  declared_size += bytes;
  if (declared_size > static_size) static_size = declared_size;
  memset(array, 0xFF, bytes);
  add_shared(reinterpret_cast<uintptr_t>(array), bytes, entry);
}
void end_memory() { copies.clear(); }
void* dynamic_shared() { return dynamic_begin; }

static void perform(const Copy& copy) {
  if (copy.valid)
    memcpy(copy.to, copy.from, size_t(copy.bytes));
  else
    memset(copy.to, 0, size_t(copy.bytes));
}

// Until it is waited for, a copy may happen at any time.
void copy_async(unsigned char* to, const void* from, int bytes, bool valid, const char* file,
                int line) {
  touch(ASYNC_SHARED, to, bytes);
  touch(ASYNC_GLOBAL, valid ? from : nullptr, bytes);
  const size_t me = size_t(current->id);
  if (bytes != 4 && bytes != 8 && bytes != 16)
    fail("cp.async of " + std::to_string(bytes) + " bytes at " + place(file, line));
  if (reinterpret_cast<uintptr_t>(to) % unsigned(bytes) ||
      reinterpret_cast<uintptr_t>(from) % unsigned(bytes))
    fail("cp.async: misaligned address at " + place(file, line));
  const auto* source = static_cast<const unsigned char*>(from);
  const Copy copy = {to, source, bytes, valid, open_group[me], file, line};
  if (valid) check_access(from, size_t(bytes), READ, file, line);
  check_access(to, size_t(bytes), COPY_BEGINS, file, line);
  if (!late) perform(copy);
  copies[me].push_back(copy);
}
void copy_commit() { ++open_group[size_t(current->id)]; }
void copy_wait(int groups) {
  const size_t me = size_t(current->id);
  std::vector<Copy>& mine = copies[me];
  size_t done = 0;
  while (done < mine.size() && mine[done].group < open_group[me] - groups) {
    const Copy& copy = mine[done++];
    check_access(copy.to, size_t(copy.bytes), COPY_ENDS, copy.file, copy.line);
    if (late) perform(copy);
  }
  mine.erase(mine.begin(), mine.begin() + long(done));
}

}  // namespace cusim
