// Random numbers that are computed from a counter: Philox 4x32-10 (Salmon, Moraes, Dror and Shaw,
// "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
//
// A generator of the usual kind carries a state from one draw to the next, so draws come one after
// another. Here the draw with the number n is a function of n: a block cipher that encrypts the
// counter under a key. Every thread computes the draws of its own entries, in any order, and two
// runs with one key and one counter agree to the last bit.
#pragma once
#include "common.cuh"

struct Philox {
  unsigned v[4];  // the counter before, four draws of 32 bits after
};

INLINE Philox philox(Philox c, unsigned long long key) {
  unsigned low = unsigned(key), high = unsigned(key >> 32);
  UNROLL for (int round = 0; round < 10; round++) {
    // two products of 32 x 32 bits; their upper halves are mixed with the key and the other words
    const unsigned a = 0xD2511F53u * c.v[0], a_up = __umulhi(0xD2511F53u, c.v[0]);
    const unsigned b = 0xCD9E8D57u * c.v[2], b_up = __umulhi(0xCD9E8D57u, c.v[2]);
    c = {{b_up ^ c.v[1] ^ low, b, a_up ^ c.v[3] ^ high, a}};
    low += 0x9E3779B9u;  // the golden ratio, and the square root of 3 minus 1, times 2^32
    high += 0xBB67AE85u;
  }
  return c;
}

// The state of a generator in memory: its key, and how many calls it has served. The four draws of
// the group (entry / 4) in a call have the counter (group, 0, call, call's upper half).
INLINE Philox draws_of(const unsigned long long* state, int group) {
  const unsigned long long call = state[1];
  return philox({{unsigned(group), 0u, unsigned(call), unsigned(call >> 32)}}, state[0]);
}

// A float in [0, 1): the upper 24 bits, each value as likely as the others
INLINE float uniform(unsigned bits) { return float(bits >> 8) * (1.f / 16777216.f); }
