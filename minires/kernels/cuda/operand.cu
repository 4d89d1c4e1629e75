// Write out what an operand stands for: its array, with the prologue applied (prologue.cuh).
#include "prologue.cuh"
#include "rows.cuh"

// out (m, c) = the values of the operand x with its second array y, coefficients k (5, c) and kind
template <class T, int FAMILY, int V>
__global__ void __launch_bounds__(THREADS)
    write_operand(const T* __restrict__ x, const T* __restrict__ y, const T* __restrict__ k, int kind, Rows rows,
                  T* __restrict__ out) {
  const Place at = place_in<V>(rows);
  Prologue<T, FAMILY, V> prologue;
  prologue.start(kind);
  prologue.load(k, rows.c, at.channel);
  for (int row = at.row; row < at.end; row += IN_FLIGHT * at.step) {
    Pack<T, V> v[IN_FLIGHT] = {}, second[IN_FLIGHT] = {};
    UNROLL for (int i = 0; i < IN_FLIGHT; ++i) {
      if (row + i * at.step >= at.end) continue;
      v[i] = load_pack<V>(x + ((row + i * at.step) * rows.c + at.channel));
      if (prologue.USES_Y) second[i] = load_pack<V>(y + ((row + i * at.step) * rows.c + at.channel));
    }
    UNROLL for (int i = 0; i < IN_FLIGHT; ++i) {
      if (row + i * at.step >= at.end) continue;
      UNROLL for (int j = 0; j < V; ++j) v[i].v[j] = prologue.apply(v[i].v[j], second[i].v[j], j);
      store_pack<V>(out + ((row + i * at.step) * rows.c + at.channel), v[i]);
    }
  }
}
