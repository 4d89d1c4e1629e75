// What accesses to memory cost: wavefronts of shared memory, sectors of global memory.
//
// The lanes of a warp run one after another here, so the n-th access of a kind by each lane is
// taken for one instruction. Only what is marked with TOUCH in the kernels is seen.
#include <string.h>

#include <algorithm>

#include "runtime.hpp"

namespace cusim {

struct Seen {
  uintptr_t at;
  int bytes;
};
static int64_t counted_block = -1;
static std::vector<std::vector<Seen>> seen[TOUCHES];  // by kind and thread
// Of each kind: instructions, their cost, and the least that their bytes can cost.
static double counted[TOUCHES][3];
extern "C" const double* cusim_counted() { return &counted[0][0]; }

void begin_counting(int64_t block) {
  counted_block = block;
  builtins.counting = false;
  if (block >= 0) memset(counted, 0, sizeof counted);
}
void begin_block_counting() {
  builtins.counting = counted_block == block_number;
  if (builtins.counting)
    for (auto& kind : seen) kind.assign(size_t(block_threads), {});
}
void count_touch(Touch kind, const void* at, int bytes) {
  seen[kind][size_t(current->id)].push_back({reinterpret_cast<uintptr_t>(at), bytes});
}

static void add_new(std::vector<uintptr_t>& to, uintptr_t value) {
  if (std::find(to.begin(), to.end(), value) == to.end()) to.push_back(value);
}

// A bank of shared memory serves one word of 4 bytes at a time, to all lanes that want it.
static size_t wavefronts(const Seen* lanes, int first, int last) {
  std::vector<uintptr_t> words[32];
  for (int l = first; l < last; ++l)
    for (int byte = 0; lanes[l].at && byte < lanes[l].bytes; byte += 4) {
      const uintptr_t word = (lanes[l].at + uintptr_t(byte)) / 4;
      add_new(words[word % 32], word);
    }
  size_t most = 0;
  for (const auto& bank : words) most = std::max(most, bank.size());
  return most;
}

// Accesses of 16 bytes are served a quarter of the warp at a time; half of it where all lanes pair
// up, with the next or the next but one, to read the same bytes.
static int lanes_at_a_time(int kind, const Seen* lanes, int bytes) {
  if (kind == SHARED_LOAD && bytes == 16) {
    bool next = true, next_but_one = true;
    for (int l = 0; l < 32; ++l) {
      next &= lanes[l].at == lanes[l ^ 1].at;
      next_but_one &= lanes[l].at == lanes[l ^ 2].at;
    }
    if (next || next_but_one) return 16;
  }
  return std::min(32, 128 / bytes);
}

static void count_instruction(int kind, const Seen* lanes, int bytes) {
  double* count = counted[kind];
  count[0] += 1;
  if (kind < GLOBAL_LOAD) {
    const int step = lanes_at_a_time(kind, lanes, bytes);
    for (int l = 0; l < 32; l += step) {
      count[1] += double(wavefronts(lanes, l, std::min(l + step, 32)));
      count[2] += 1;
    }
    return;
  }
  std::vector<uintptr_t> sectors;  // of 32 bytes
  size_t total = 0;
  for (int l = 0; l < 32; ++l) {
    if (!lanes[l].at) continue;
    total += size_t(lanes[l].bytes);
    const uintptr_t last = lanes[l].at + uintptr_t(lanes[l].bytes) - 1;
    for (uintptr_t s = lanes[l].at / 32; s <= last / 32; ++s) add_new(sectors, s);
  }
  count[1] += double(sectors.size());
  count[2] += double((total + 31) / 32);
}

void end_block_counting() {
  if (!builtins.counting) return;
  builtins.counting = false;
  for (int kind = 0; kind < TOUCHES; ++kind)
    for (size_t warp = 0; warp < size_t(block_threads + 31) / 32; ++warp) {
      const size_t first = warp * 32, last = std::min(first + 32, size_t(block_threads));
      size_t most = 0;
      for (size_t t = first; t < last; ++t) most = std::max(most, seen[kind][t].size());
      for (size_t n = 0; n < most; ++n) {
        Seen lanes[32] = {};
        int bytes = 4;
        for (size_t t = first; t < last; ++t)
          if (n < seen[kind][t].size()) {
            lanes[t - first] = seen[kind][t][n];
            bytes = lanes[t - first].bytes;
          }
        count_instruction(kind, lanes, bytes);
      }
    }
}

}  // namespace cusim
