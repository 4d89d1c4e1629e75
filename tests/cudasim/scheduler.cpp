// Fibers: how the threads of a block take turns, and where they wait for one another.
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>

#include <utility>

#include "runtime.hpp"

#if !defined(__x86_64__) || defined(CUSIM_UCONTEXT)
#define CUSIM_UCONTEXT_USED 1
#include <ucontext.h>
#endif

namespace cusim {

Builtins builtins;
Thread* current;
int block_number, block_threads;
uint64_t block_serial;
unsigned block_epoch;

// **** stacks ****

struct Fiber {
#ifdef CUSIM_UCONTEXT_USED
  ucontext_t context;
#else
  void* stack_pointer;
#endif
};

static constexpr size_t STACK = 128 * 1024, GUARD = 4096;
static constexpr int MOST_THREADS = 1024;
static unsigned char* stacks;  // all in one piece, so that a glance tells whether an address is in it
static Fiber fibers[MOST_THREADS], scheduler;
static void fiber_main();

bool on_stack(uintptr_t at) { return at - uintptr_t(stacks) < MOST_THREADS * STACK; }

#ifdef CUSIM_UCONTEXT_USED
static void switch_fiber(Fiber* from, Fiber* to) { swapcontext(&from->context, &to->context); }
static void start_fiber(Fiber* fiber, unsigned char* stack) {
  getcontext(&fiber->context);
  fiber->context.uc_stack.ss_sp = stack;
  fiber->context.uc_stack.ss_size = STACK;
  fiber->context.uc_link = nullptr;
  makecontext(&fiber->context, fiber_main, 0);
}
#else
// A switch keeps what a called function has to keep, and swaps stacks: eight times as fast as
// swapcontext, which asks the operating system for its signal mask.
asm(R"(
.text
cusim_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");
extern "C" void cusim_switch(void** save, void* load) __asm__("cusim_switch");
static void switch_fiber(Fiber* from, Fiber* to) {
  cusim_switch(&from->stack_pointer, to->stack_pointer);
}
static void start_fiber(Fiber* fiber, unsigned char* stack) {
  void** top = reinterpret_cast<void**>(stack + STACK);
  *--top = nullptr;  // a function starts with its stack 8 bytes off a multiple of 16
  *--top = reinterpret_cast<void*>(&fiber_main);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  fiber->stack_pointer = top;
}
#endif

static void make_stacks() {
  if (stacks) return;
  void* memory = mmap(nullptr, MOST_THREADS * STACK, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) abort();
  stacks = static_cast<unsigned char*>(memory);
  for (int i = 0; i < MOST_THREADS; ++i) mprotect(stacks + i * STACK, GUARD, PROT_NONE);
}

// **** errors ****

static std::string error;

std::string place(const char* file, int line) {
  const char* name = strrchr(file, '/');
  return std::string(name ? name + 1 : file) + ":" + std::to_string(line);
}
static std::string who(const Thread& thread) {
  auto three = [](const uint3& v) {
    return "(" + std::to_string(v.x) + "," + std::to_string(v.y) + "," + std::to_string(v.z) + ")";
  };
  return " [block " + three(builtins.block) + " thread " + three(thread.index) + "]";
}
static void to_scheduler() { switch_fiber(current->fiber, &scheduler); }
void fail(const std::string& what) {
  if (error.empty()) error = what + who(*current);
  to_scheduler();
  __builtin_unreachable();
}
void trap(const char* file, int line) { fail("__trap() at " + place(file, line)); }

// **** barriers ****

struct Group {  // lanes of a warp on their way to one instruction
  unsigned mask, arrived;
  const char* name;
  const char* file;
  int line;
  bool votes, orders_memory;
  void (*all)(void**);
};
struct Warp {
  unsigned alive, epoch;
  int groups_count;
  Group groups[32];
};
static std::vector<Thread> threads;
static std::vector<Warp> warps;
static std::vector<int> order;  // in which the threads take turns
static int alive, waiting, next_start, true_count;

static void wait_for(State state, const char* name, const char* file, int line) {
  current->state = state;
  current->waits_for = name;
  current->file = file;
  current->line = line;
}

int barrier(const char* name, bool value, const char* file, int line) {
  wait_for(AT_BARRIER, name, file, line);
  current->brought = value;
  ++waiting;
  to_scheduler();
  return true_count;
}

// All have arrived that will: give each what it came for.
static void release(int warp_number, int group_number) {
  Warp& warp = warps[size_t(warp_number)];
  const Group group = warp.groups[group_number];
  warp.groups[group_number] = warp.groups[--warp.groups_count];
  Thread* lanes = &threads[size_t(warp_number) * 32];
  if (group.orders_memory) ++warp.epoch;
  if (group.all) {
    void* brought[32] = {};
    for (int l = 0; l < 32; ++l)
      if (group.arrived >> l & 1) brought[l] = lanes[l].data;
    group.all(brought);
  }
  unsigned votes = 0;
  for (int l = 0; l < 32; ++l)
    if (group.arrived >> l & 1 && lanes[l].brought) votes |= 1u << l;
  for (int l = 0; l < 32; ++l) {
    if (!(group.arrived >> l & 1)) continue;
    Thread& lane = lanes[l];
    if (group.orders_memory) lane.warp_epoch = warp.epoch;
    // what a lane gets from one that did not come is undefined in CUDA: all bits set, a NaN
    const bool came = lane.from >= 0 && group.arrived >> lane.from & 1;
    lane.got = group.votes ? votes : came ? lanes[lane.from].brought : ~uint64_t(0);
    lane.state = READY;
  }
}

static uint64_t meet(const Group& what, uint64_t value, int from, void* data) {
  const int lane = current->id % 32, number = current->id / 32;
  const std::string name = what.name;
  if (!(what.mask >> lane & 1))
    fail(name + ": calling lane is not in its own mask at " + place(what.file, what.line));
  wait_for(AT_WARP, what.name, what.file, what.line);
  current->brought = value;
  current->from = from;
  current->data = data;
  Warp& warp = warps[size_t(number)];
  int i = 0;
  for (; i < warp.groups_count && warp.groups[i].mask != what.mask; ++i)
    if (warp.groups[i].mask & what.mask)
      fail(name + ": overlapping masks in one warp at " +
           place(warp.groups[i].file, warp.groups[i].line) + " and " + place(what.file, what.line));
  if (i == warp.groups_count) {
    warp.groups[i] = what;
    warp.groups[i].arrived = 0;
    ++warp.groups_count;
  }
  Group& group = warp.groups[i];
  if (strcmp(group.name, what.name))
    fail("warp diverges between " + std::string(group.name) + " and " + name + " at " +
         place(group.file, group.line) + " and " + place(what.file, what.line));
  group.arrived |= 1u << lane;
  if (group.arrived == (group.mask & warp.alive))
    release(number, i);
  else
    to_scheduler();
  return current->got;
}

int lane() { return current->id % 32; }
uint64_t exchange(const char* name, unsigned mask, uint64_t value, int from, const char* file,
                  int line) {
  return meet({mask, 0, name, file, line, false, false, nullptr}, value, from, nullptr);
}
unsigned ballot(const char* name, unsigned mask, bool value, const char* file, int line) {
  return unsigned(meet({mask, 0, name, file, line, true, false, nullptr}, value, 0, nullptr));
}
void synchronize_warp(unsigned mask, const char* file, int line) {
  meet({mask, 0, "__syncwarp", file, line, true, true, nullptr}, 0, 0, nullptr);
}
void collective(const char* name, void* mine, void (*all)(void**), const char* file, int line) {
  if (warps[size_t(current->id / 32)].alive != ~0u)
    fail(std::string(name) + ": a lane of the warp is missing at " + place(file, line));
  meet({~0u, 0, name, file, line, true, false, all}, 0, 0, mine);
}

// **** running a block ****

static void (*body)(void**);
static void** body_arguments;

static void enter(Thread& thread) {
  current = &thread;
  builtins.thread = thread.index;
}
static void leave_block() {
  current->state = DONE;
  --alive;
  const int number = current->id / 32;
  Warp& warp = warps[size_t(number)];
  warp.alive &= ~(1u << (current->id % 32));
  for (int i = warp.groups_count; i-- > 0;)  // nobody waits for a thread that has ended
    if (warp.groups[i].arrived == (warp.groups[i].mask & warp.alive)) release(number, i);
}
static void fiber_main() {
  for (;;) {
    body(body_arguments);
    leave_block();
    if (next_start == block_threads) {
      to_scheduler();
      __builtin_unreachable();
    }
    // a thread that did not wait leaves its stack to the next one: no switch at all
    Thread& next = threads[size_t(order[size_t(next_start++)])];
    next.fiber = current->fiber;
    next.state = READY;
    enter(next);
  }
}

static void open_barrier() {
  const Thread* first = nullptr;
  true_count = 0;
  for (Thread& thread : threads) {
    if (thread.state != AT_BARRIER) continue;
    if (first && (thread.line != first->line || strcmp(thread.file, first->file))) {
      error = "divergent __syncthreads(): threads of one block wait at " +
              place(first->file, first->line) + " and " + place(thread.file, thread.line);
      return;
    }
    first = &thread;
    true_count += int(thread.brought);
    thread.state = READY;
  }
  waiting = 0;
  ++block_epoch;
}

static void report_deadlock() {
  error = "deadlock: not all threads come to the same place; waiting:";
  std::string last;
  for (const Thread& thread : threads) {
    if (thread.state != AT_BARRIER && thread.state != AT_WARP) continue;
    const std::string at =
        " " + std::string(thread.waits_for) + " at " + place(thread.file, thread.line);
    if (at != last && error.size() < 300) error += at;
    last = at;
  }
}

static void run_block() {
  const size_t size = size_t(block_threads);
  ++block_serial;
  block_epoch = 0;
  begin_block_memory();
  alive = block_threads;
  waiting = next_start = 0;
  for (Thread& thread : threads) {
    thread.state = FRESH;
    thread.fiber = nullptr;
    thread.warp_epoch = 0;
  }
  for (size_t i = 0; i < warps.size(); ++i) {
    const size_t lanes = size - i * 32;
    warps[i].alive = lanes >= 32 ? ~0u : (1u << lanes) - 1;
    warps[i].groups_count = 0;
    warps[i].epoch = 0;
  }
  for (int used = 0; next_start < block_threads; ++used) {
    start_fiber(&fibers[used], stacks + size_t(used) * STACK);
    Thread& thread = threads[size_t(order[size_t(next_start++)])];
    thread.fiber = &fibers[used];
    thread.state = READY;
    enter(thread);
    switch_fiber(&scheduler, thread.fiber);
    if (!error.empty()) return;
  }
  while (alive) {
    bool progress = false;
    for (int i : order) {
      Thread& thread = threads[size_t(i)];
      if (thread.state != READY) continue;
      progress = true;
      enter(thread);
      switch_fiber(&scheduler, thread.fiber);
      if (!error.empty()) return;
    }
    if (alive && waiting == alive)
      open_barrier();
    else if (alive && !progress)
      report_deadlock();
    if (!error.empty()) return;
  }
}

// **** a crash of a kernel is an error of its launch ****

static sigjmp_buf crash;
static void crashed(int, siginfo_t* info, void*) {
  char text[80];
  snprintf(text, sizeof text, "segmentation fault: access to address %p", info->si_addr);
  error = text + who(*current);
  siglongjmp(crash, 1);
}
struct CatchCrashes {
  struct sigaction before_segv, before_bus;
  stack_t before_stack;
  CatchCrashes() {
    static unsigned char handler_stack[64 * 1024];
    stack_t stack = {};
    stack.ss_sp = handler_stack;
    stack.ss_size = sizeof handler_stack;
    sigaltstack(&stack, &before_stack);
    struct sigaction action = {};
    action.sa_sigaction = crashed;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &action, &before_segv);
    sigaction(SIGBUS, &action, &before_bus);
  }
  ~CatchCrashes() {
    sigaction(SIGSEGV, &before_segv, nullptr);
    sigaction(SIGBUS, &before_bus, nullptr);
    sigaltstack(&before_stack, nullptr);
  }
};

static void run_blocks(const Launch& launch) {
  const unsigned *g = launch.grid, *b = launch.block;
  uint64_t state = launch.seed * 2654435761u + 88172645463325252ull;
  auto random = [&](size_t below) {  // xorshift64
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return size_t(state % below);
  };
  auto shuffle = [&](std::vector<int>& numbers) {
    for (size_t i = numbers.size(); i > 1; --i) std::swap(numbers[i - 1], numbers[random(i)]);
  };
  threads.assign(size_t(block_threads), Thread{});
  warps.assign(size_t(block_threads + 31) / 32, Warp{});
  order.resize(size_t(block_threads));
  for (int i = 0; i < block_threads; ++i) {
    const unsigned n = unsigned(i);
    threads[n].id = i;
    threads[n].index = {n % b[0], n / b[0] % b[1], n / (b[0] * b[1])};
    order[n] = launch.order == REVERSE ? block_threads - 1 - i : i;
  }
  const int blocks = int(g[0] * g[1] * g[2]);
  std::vector<int> turns(static_cast<size_t>(blocks));
  for (int i = 0; i < blocks; ++i) turns[size_t(i)] = launch.order == REVERSE ? blocks - 1 - i : i;
  if (launch.order == SHUFFLED) shuffle(turns);
  for (int turn : turns) {
    block_number = turn;
    const unsigned n = unsigned(turn);
    builtins.block = {n % g[0], n / g[0] % g[1], n / (g[0] * g[1])};
    if (launch.order == SHUFFLED) shuffle(order);
    begin_block_counting();
    run_block();
    if (!error.empty()) return;
    end_block_counting();
  }
}

// What went wrong, or null. `static_shared` gets the bytes that one block declared.
extern "C" const char* cusim_launch(void (*kernel)(void**), const Launch* launch,
                                    size_t* static_shared) {
  const unsigned *g = launch->grid, *b = launch->block;
  make_stacks();
  body = kernel;
  body_arguments = launch->arguments;
  builtins.grid_size = {g[0], g[1], g[2]};
  builtins.block_size = {b[0], b[1], b[2]};
  block_threads = int(b[0] * b[1] * b[2]);
  error.clear();
  begin_memory(*launch);
  begin_checks(*launch);
  begin_counting(launch->counted);
  {
    CatchCrashes catch_crashes;
    if (!sigsetjmp(crash, 1)) run_blocks(*launch);
  }
  current = nullptr;
  *static_shared = static_size;
  end_checks();
  end_memory();
  return error.empty() ? nullptr : error.c_str();
}

}  // namespace cusim
