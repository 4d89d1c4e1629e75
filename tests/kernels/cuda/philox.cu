// The four draws of a counter under a key, for the published examples.
#include "philox.cuh"

__global__ void philox_of(const unsigned* counter, unsigned long long key, unsigned* draws) {
  const Philox found = philox({{counter[0], counter[1], counter[2], counter[3]}}, key);
  for (int k = 0; k < 4; k++) draws[k] = found.v[k];
}
