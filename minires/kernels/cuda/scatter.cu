// Entries that are put or added at positions, of which any may come several times.
//
// A GPU's own way is to add atomically: in whatever order its threads come by, so that a sum of
// floats is another one in each run. Here the positions are sorted first, and whoever comes to the
// first of several equal ones adds all of them, in their order.
//
// A key is a position (upper 32 bits) and the number of the entry (lower 32): so all keys differ,
// and sorted ones are in the order of the entries where positions are equal. Keys are sorted by
// Batcher's bitonic network ("Sorting networks and their applications", 1968): which keys are
// compared depends on their number alone, so that the same launches sort any positions.
#include "common.cuh"

constexpr int THREADS = 256;
constexpr int CHUNK = 1024;  // keys of a block, in shared memory
constexpr long long NONE = 0x7fffffffffffffffll;  // behind all keys: fills up to a power of two

__global__ void __launch_bounds__(THREADS)
    scatter_keys(const long long* __restrict__ positions, long long* __restrict__ keys, int count) {
  const int i = int(blockIdx.x) * THREADS + int(threadIdx.x);
  keys[i] = i < count ? positions[i] << 32 | i : NONE;
}

INLINE void sort_two(long long& first, long long& second, bool ascending) {
  if ((first > second) == ascending) {
    const long long kept = first;
    first = second;
    second = kept;
  }
}

// The network merges runs of keys, `run` of them from two halves that are sorted in opposite
// directions; whether a run ascends is the bit `run` of its place. In every step of a merge, keys
// that stand `apart` are compared, from half a run down to neighbours.
//
// All steps of the merges to runs of first, 2 first ... last keys, but those in which keys stand
// further apart than a chunk is long.
__global__ void __launch_bounds__(THREADS)
    scatter_sort_chunks(long long* __restrict__ keys, int first, int last) {
  __shared__ long long chunk[CHUNK];
  const int begin = int(blockIdx.x) * CHUNK;
  for (int i = int(threadIdx.x); i < CHUNK; i += THREADS) chunk[i] = keys[begin + i];
  for (int run = first;; run *= 2) {
    for (int apart = min(run, CHUNK) / 2; apart > 0; apart /= 2) {
      __syncthreads();
      for (int pair = int(threadIdx.x); pair < CHUNK / 2; pair += THREADS) {
        const int i = 2 * apart * (pair / apart) + pair % apart;
        sort_two(chunk[i], chunk[i + apart], ((begin + i) & run) == 0);
      }
    }
    if (run == last) break;
  }
  __syncthreads();
  for (int i = int(threadIdx.x); i < CHUNK; i += THREADS) keys[begin + i] = chunk[i];
}

// One step, for keys that stand further apart.
__global__ void __launch_bounds__(THREADS)
    scatter_sort_pairs(long long* __restrict__ keys, int run, int apart) {
  const int pair = int(blockIdx.x) * THREADS + int(threadIdx.x);
  const int i = 2 * apart * (pair / apart) + pair % apart;
  sort_two(keys[i], keys[i + apart], (i & run) == 0);
}

INLINE int position_of(long long key) { return int(key >> 32); }
INLINE int entry_of(long long key) { return int(key & 0xffffffffll); }

// y[position] = the sum of x[entry] over its entries, in their order and in double precision, for
// rows of `width` numbers; rows without an entry are left alone.
template <class T>
__global__ void __launch_bounds__(THREADS)
    scatter_add(const long long* __restrict__ keys, const T* __restrict__ x, T* __restrict__ y,
                int count, int width) {
  const long long at = (long long)(blockIdx.x) * THREADS + threadIdx.x;
  const int i = int(at / width), column = int(at % width);
  if (i >= count) return;
  const int position = position_of(keys[i]);
  if (i > 0 && position_of(keys[i - 1]) == position) return;  // not the first of them
  double sum = 0;
  for (int k = i; k < count && position_of(keys[k]) == position; k++)
    sum += x[(long long)(entry_of(keys[k])) * width + column];
  y[(long long)(position) * width + column] = T(sum);
}

// last[position] = the number of its last entry; without one it is left alone
__global__ void __launch_bounds__(THREADS)
    scatter_last(const long long* __restrict__ keys, long long* __restrict__ last, int count) {
  const int i = int(blockIdx.x) * THREADS + int(threadIdx.x);
  if (i >= count) return;
  const int position = position_of(keys[i]);
  if (i + 1 < count && position_of(keys[i + 1]) == position) return;
  last[position] = entry_of(keys[i]);
}
