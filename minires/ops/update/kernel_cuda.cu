// The update rules on the GPU, for many parameters in one launch.
//
// A network has hundreds of parameters, most of them small: a launch for each would take longer
// than its work. So a launch gets a table of up to MOST parameters, by value: where their arrays
// begin, how many entries they have, and which blocks are theirs. A block updates PIECE entries of
// one parameter, and finds it by the number of its first block.
//
// The coefficients of a step (learning rate and so on) are read from memory. A launch that was
// recorded as part of a CUDA graph is run again with the very same arguments; its numbers can be
// others only if it looks them up. update_coefficients puts them there, before the graph runs.
#include "common.cuh"

constexpr int THREADS = 256;
constexpr int MOST = 64;                                // parameters of a launch (kernel_cuda.py)
constexpr int TURNS = 4;                                // packs of a thread
template <class T> constexpr int PIECE = THREADS* TURNS* WHOLE<T>;  // entries of a block

template <int ARRAYS> struct Table {
  unsigned long long address[ARRAYS][MOST];  // of the parameter first; 0 where it has no such array
  int size[MOST];                            // entries
  int row[MOST];                             // which row of coefficients is the parameter's
  int first[MOST + 1];                       // its first block; behind the last, how many there are
  int count;                                 // parameters
};

// The parameter that a block works on: the last one whose first block is not behind it. The table is
// in constant memory and all threads ask the same, so six turns cost next to nothing.
template <int ARRAYS> INLINE int parameter_of(const Table<ARRAYS>& table, int block) {
  int low = 0, high = table.count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (table.first[middle] <= block)
      low = middle;
    else
      high = middle;
  }
  return low;
}

// Applies a rule to the piece of parameter k that begins at entry `begin`, V entries at a time. All
// packs of a thread are read before the first is written: the reads are then under way together,
// while it waits for memory once.
template <class T, int V, int ARRAYS, class Rule>
INLINE void update_piece(const Table<ARRAYS>& table, int k, int begin, const Rule& rule) {
  constexpr int PACKS = PIECE<T> / (THREADS * V);
  T* array[ARRAYS];
  bool used[ARRAYS];
  UNROLL for (int a = 0; a < ARRAYS; a++) {
    array[a] = reinterpret_cast<T*>(table.address[a][k]);
    used[a] = rule.uses(a);
  }
  const int size = table.size[k];
  Pack<T, V> held[PACKS][ARRAYS];
  UNROLL for (int n = 0; n < PACKS; n++) {
    const int i = begin + (n * THREADS + int(threadIdx.x)) * V;
    UNROLL for (int a = 0; a < ARRAYS; a++)
      if (i < size && used[a]) held[n][a] = load_pack<V>(array[a] + i);
  }
  UNROLL for (int n = 0; n < PACKS; n++) {
    const int i = begin + (n * THREADS + int(threadIdx.x)) * V;
    if (i >= size) continue;
    UNROLL for (int e = 0; e < V; e++) {
      T entry[ARRAYS];
      UNROLL for (int a = 0; a < ARRAYS; a++) entry[a] = used[a] ? held[n][a].v[e] : T(0);
      rule(entry);
      UNROLL for (int a = 0; a < ARRAYS; a++) held[n][a].v[e] = entry[a];
    }
    UNROLL for (int a = 0; a < ARRAYS; a++)
      if (a != Rule::GRADIENT && used[a]) store_pack(array[a] + i, held[n][a]);
  }
}

// The work of a block: packs of 16 bytes where all arrays of the parameter begin at a multiple of 16
// bytes and have no odd entries at their end, else entry by entry.
template <class T, int ARRAYS, class Rule>
INLINE void update_block(const Table<ARRAYS>& table, int k, const Rule& rule) {
  unsigned long long bits = 0;
  UNROLL for (int a = 0; a < ARRAYS; a++) bits |= table.address[a][k];
  const int begin = (int(blockIdx.x) - table.first[k]) * PIECE<T>;
  if (bits % 16 == 0 && table.size[k] % WHOLE<T> == 0)
    update_piece<T, WHOLE<T>>(table, k, begin, rule);
  else
    update_piece<T, 1>(table, k, begin, rule);
}

INLINE float root_of(float v) { return __fsqrt_rn(v); }
INLINE double root_of(double v) { return __dsqrt_rn(v); }

// SGD, of (parameter, gradient, velocity). The order of the coefficients is that of op.py.
template <class T> struct Sgd {
  static constexpr int GRADIENT = 1;
  T lr, decay, momentum, keep;
  bool nesterov;

  INLINE explicit Sgd(const T* row)
      : lr(row[0]), decay(row[1]), momentum(row[2]), keep(row[3]), nesterov(row[4] != 0) {}
  INLINE bool uses(int array) const { return array < 2 || momentum != 0; }
  INLINE void operator()(T (&entry)[3]) const {
    T g = entry[1];
    if (decay != 0) g = multiply_add(decay, entry[0], g);  // an infinite parameter, and no decay:
    if (momentum != 0) {                                   // 0 * inf would be NaN
      entry[2] = multiply_add(momentum, entry[2], keep * g);
      g = nesterov ? multiply_add(momentum, entry[2], g) : entry[2];
    }
    entry[0] -= lr * g;
  }
};

// Adam, of (parameter, gradient, first moment, second moment, largest second moment so far).
template <class T> struct Adam {
  static constexpr int GRADIENT = 1;
  T step, shrink, penalty, rate_1, beta_2, rate_2, root, eps;
  bool amsgrad;

  INLINE explicit Adam(const T* row)
      : step(row[0]), shrink(row[1]), penalty(row[2]), rate_1(row[3]), beta_2(row[4]),
        rate_2(row[5]), root(row[6]), eps(row[7]), amsgrad(row[8] != 0) {}
  INLINE bool uses(int array) const { return array < 4 || amsgrad; }
  INLINE void operator()(T (&entry)[5]) const {
    const T p = entry[0] * shrink;
    T g = entry[1];
    if (penalty != 0) g = multiply_add(penalty, p, g);
    entry[2] = multiply_add(rate_1, g - entry[2], entry[2]);
    entry[3] = multiply_add(rate_2 * g, g, beta_2 * entry[3]);
    T top = entry[3];
    if (amsgrad) {
      if (!(top > entry[4] || top != top)) top = entry[4];  // the larger one; NaN is larger
      entry[4] = top;
    }
    entry[0] = p - step * entry[2] / (root_of(top) / root + eps);
  }
};

// RMSprop, of (parameter, gradient, mean of its square, its mean, momentum).
template <class T> struct RmsProp {
  static constexpr int GRADIENT = 1;
  T lr, decay, alpha, rate, eps, momentum, sign;
  bool centered;

  INLINE explicit RmsProp(const T* row)
      : lr(row[0]), decay(row[1]), alpha(row[2]), rate(row[3]), eps(row[4]), momentum(row[5]),
        sign(row[7]), centered(row[6] != 0) {}
  INLINE bool uses(int array) const {
    return array < 3 || (array == 3 ? centered : momentum != 0);
  }
  INLINE void operator()(T (&entry)[5]) const {
    T g = sign * entry[1];
    if (decay != 0) g = multiply_add(decay, entry[0], g);
    entry[2] = multiply_add(rate * g, g, alpha * entry[2]);
    T variance = entry[2];
    if (centered) {
      entry[3] = multiply_add(rate, g - entry[3], entry[3]);
      variance = multiply_add(-entry[3], entry[3], variance);
      if (variance < 0) variance = 0;  // by rounding; NaN stays
    }
    T u = g / (root_of(variance) + eps);
    if (momentum != 0) u = entry[4] = multiply_add(momentum, entry[4], u);
    entry[0] -= lr * u;
  }
};

struct Zero {  // of (array)
  static constexpr int GRADIENT = -1;
  INLINE bool uses(int) const { return true; }
  template <class T> INLINE void operator()(T (&entry)[1]) const { entry[0] = 0; }
};

template <class T>
__global__ void __launch_bounds__(THREADS)
    update_sgd(const Table<3> table, const T* __restrict__ coefficients) {
  const int k = parameter_of(table, int(blockIdx.x));
  update_block<T>(table, k, Sgd<T>(coefficients + table.row[k] * 6));
}

// At least one block at a time: so a thread may have more than 128 registers, which doubles need.
template <class T>
__global__ void __launch_bounds__(THREADS, 1)
    update_adam(const Table<5> table, const T* __restrict__ coefficients) {
  const int k = parameter_of(table, int(blockIdx.x));
  update_block<T>(table, k, Adam<T>(coefficients + table.row[k] * 9));
}

template <class T>
__global__ void __launch_bounds__(THREADS, 1)
    update_rmsprop(const Table<5> table, const T* __restrict__ coefficients) {
  const int k = parameter_of(table, int(blockIdx.x));
  update_block<T>(table, k, RmsProp<T>(coefficients + table.row[k] * 8));
}

template <class T> __global__ void __launch_bounds__(THREADS) update_zero(const Table<1> table) {
  update_block<T>(table, parameter_of(table, int(blockIdx.x)), Zero());
}

// Numbers that the host passes by value, and that a launch writes to memory. A copy from the host's
// memory would have to wait until nobody writes there any more; arguments are copied by the launch.
template <class T> constexpr int NUMBERS = 3584 / int(sizeof(T));  // as kernel_cuda.py has it
template <class T> struct Numbers {
  T value[NUMBERS<T>];
};
template <class T>
__global__ void __launch_bounds__(THREADS)
    update_coefficients(const Numbers<T> numbers, T* __restrict__ to, int first, int count) {
  for (int i = int(threadIdx.x); i < count; i += THREADS) to[first + i] = numbers.value[i];
}
