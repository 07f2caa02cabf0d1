#include "block.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <cxxabi.h>
#include <dlfcn.h>

#include "device_code.h"
#include "fiber.h"
#include "random_order.h"
#include "runtime_state.h"

// The scheduler. All of its state is global and guarded by device_mutex(), which launch() holds
// from begin to end: whatever runs on a fiber is one kernel's.
//
// A thread of a block is unstarted, ready, waiting at a barrier or a warp operation, running, or
// has returned. Who waits or returns picks the next thread at random among the unstarted and ready
// ones. A fiber whose thread has returned goes on with an unstarted thread without any switch, so
// a kernel without barriers uses a single fiber; only a thread that waits keeps its fiber. Whoever
// completes a barrier or a warp operation makes all its threads ready, itself included.
namespace lockstep::emulation {

uint3 thread_index, block_index;
dim3 block_size, grid_size;

namespace {

constexpr unsigned kLanes = 32;
constexpr uint64_t kUndefined = ~uint64_t{0};

enum class State : uint8_t { kReady, kAtBarrier, kInWarp, kReturned };

struct Thread {
  Fiber* fiber = nullptr;  // null while unstarted and after return
  State state = State::kReady;
  BarrierKind barrier_kind = BarrierKind::kSync;
  WarpKind warp_kind = WarpKind::kSync;
  bool predicate = false;
  unsigned mask = 0;
  int source = 0;
  uint64_t value = 0, result = 0;
  Place place;  // where it waits
};

struct Warp {
  unsigned live = 0;     // lanes that exist and have not returned
  unsigned waiting = 0;  // lanes in a warp operation
};

Kernel kernel;
Random random_order;
bool in_kernel = false;
unsigned count;    // threads of a block
unsigned current;  // the running thread
Thread threads[kMaxThreads];
Warp warps[kMaxThreads / kLanes];
uint3 indices[kMaxThreads];  // threadIdx of each thread
unsigned ready[kMaxThreads];
unsigned ready_count, at_barrier, returned;
int barrier_result;

Fiber launcher;
std::deque<Fiber>* fibers;  // never destroyed: a fiber may be parked in a frame of its own
std::vector<Fiber*> idle_fibers;
std::unique_ptr<unsigned char[]> shared;
size_t shared_bytes;

// -- messages

std::string kernel_name() {
  Dl_info info;
  if (dladdr(kernel.address, &info) == 0 || info.dli_sname == nullptr ||
      info.dli_saddr != kernel.address) {
    char text[32];
    std::snprintf(text, sizeof(text), "at %p", kernel.address);
    return text;
  }
  int status = 0;
  char* const name = abi::__cxa_demangle(info.dli_sname, nullptr, nullptr, &status);
  std::string text = status == 0 ? name : info.dli_sname;
  std::free(name);
  return text;
}

std::string block_name() {
  char text[128];
  std::snprintf(text, sizeof(text), "block (%u, %u, %u) of kernel ", block_index.x, block_index.y,
                block_index.z);
  return text + kernel_name();
}

const char* name_of(WarpKind kind) {
  switch (kind) {
    case WarpKind::kSync:
      return "__syncwarp";
    case WarpKind::kShuffle:
      return "__shfl_sync";
    case WarpKind::kShuffleUp:
      return "__shfl_up_sync";
    case WarpKind::kShuffleDown:
      return "__shfl_down_sync";
    case WarpKind::kShuffleXor:
      return "__shfl_xor_sync";
    case WarpKind::kVote:
      return "a vote";
  }
  return "?";
}

std::string text_of(const Place& place) {
  return "line " + std::to_string(place.line) + " of " + place.file + " (" + place.function + ")";
}

// "12 wait at __syncthreads, line 3 of ...; 20 have returned"
std::string who_waits() {
  std::map<std::string, unsigned> counts;
  for (unsigned i = 0; i < count; ++i) {
    const Thread& thread = threads[i];
    if (thread.state == State::kAtBarrier) {
      ++counts["wait at __syncthreads, " + text_of(thread.place)];
    } else if (thread.state == State::kInWarp) {
      char mask[32];
      std::snprintf(mask, sizeof(mask), " with mask %#x, ", thread.mask);
      ++counts[std::string("wait at ") + name_of(thread.warp_kind) + mask + text_of(thread.place)];
    } else if (thread.state == State::kReturned) {
      ++counts["have returned"];
    }
  }
  std::string text;
  for (const auto& [what, n] : counts) {
    text += (text.empty() ? "" : "; ") + std::to_string(n) + " " + what;
  }
  return text;
}

[[noreturn]] void deadlock() {
  stop("deadlock in %s: of %u threads %s", block_name().c_str(), count, who_waits().c_str());
}

[[noreturn]] void lane_has_returned(WarpKind kind, unsigned mask, unsigned missing,
                                    const Place& place) {
  stop("%s with mask %#x names lanes %#x that have returned or never were, in %s, %s",
       name_of(kind), mask, missing, block_name().c_str(), text_of(place).c_str());
}

// -- scheduling

void make_ready(unsigned i) {
  threads[i].state = State::kReady;
  ready[ready_count++] = i;
}

unsigned take_ready() {
  const unsigned at = random_order.below(ready_count);
  const unsigned i = ready[at];
  ready[at] = ready[--ready_count];
  return i;
}

void set_running(unsigned i) {
  current = i;
  thread_index = indices[i];
}

void release_barrier() {
  const Place* first = nullptr;
  BarrierKind kind = BarrierKind::kSync;
  int number = 0;
  for (unsigned i = 0; i < count; ++i) {
    const Thread& thread = threads[i];
    if (thread.state != State::kAtBarrier) {
      continue;
    }
    if (first == nullptr) {
      first = &thread.place;
      kind = thread.barrier_kind;
    } else if (thread.barrier_kind != kind || thread.place.line != first->line ||
               std::strcmp(thread.place.file, first->file) != 0) {
      stop("threads meet at different barriers in %s: of %u threads %s", block_name().c_str(),
           count, who_waits().c_str());
    }
    number += thread.predicate ? 1 : 0;
  }
  barrier_result = number;
  at_barrier = 0;
  for (unsigned i = 0; i < count; ++i) {
    if (threads[i].state == State::kAtBarrier) {
      make_ready(i);
    }
  }
}

// Completes the operation that thread `i` waits in, once every live lane of its mask waits in the
// same one.
void try_complete(unsigned i) {
  const WarpKind kind = threads[i].warp_kind;
  const unsigned mask = threads[i].mask, base = i & ~(kLanes - 1);
  Warp& warp = warps[i / kLanes];
  const unsigned lanes = mask & warp.live;
  if ((warp.waiting & lanes) != lanes) {
    return;
  }
  uint64_t votes = 0;
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    if ((lanes >> lane & 1) == 0) {
      continue;
    }
    const Thread& thread = threads[base + lane];
    if (thread.warp_kind != kind || thread.mask != mask) {
      return;
    }
    votes |= static_cast<uint64_t>(thread.value != 0) << lane;
  }
  // All results before the first lane goes on: its next operation overwrites its value.
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    if ((lanes >> lane & 1) == 0) {
      continue;
    }
    Thread& thread = threads[base + lane];
    if (kind == WarpKind::kSync || kind == WarpKind::kVote) {
      thread.result = votes;
    } else {
      thread.result = (lanes >> thread.source & 1) != 0
                          ? threads[base + static_cast<unsigned>(thread.source)].value
                          : kUndefined;
    }
    make_ready(base + lane);
  }
  warp.waiting &= ~lanes;
}

Fiber& fiber_for_new_thread();

// Leaves the running thread, which waits or has become ready, until somebody picks it again.
void yield() {
  if (ready_count == 0) {
    deadlock();
  }
  Thread& self = threads[current];
  const unsigned next = take_ready();
  Thread& thread = threads[next];
  if (&thread == &self) {
    return;
  }
  if (thread.fiber == nullptr) {
    thread.fiber = &fiber_for_new_thread();
  }
  set_running(next);
  switch_fiber(*self.fiber, *thread.fiber);
}

void current_returned() {
  Thread& thread = threads[current];
  thread.state = State::kReturned;
  thread.fiber = nullptr;
  ++returned;
  Warp& warp = warps[current / kLanes];
  const unsigned bit = 1u << (current % kLanes);
  warp.live &= ~bit;
  for (unsigned waiting = warp.waiting; waiting != 0; waiting &= waiting - 1) {
    const unsigned i = (current & ~(kLanes - 1)) + static_cast<unsigned>(std::countr_zero(waiting));
    const Thread& other = threads[i];
    if (other.state != State::kInWarp || (other.mask & bit) == 0) {
      continue;  // completed by an earlier turn of this loop, or not concerned
    }
    if (other.warp_kind != WarpKind::kSync && other.warp_kind != WarpKind::kVote) {
      lane_has_returned(other.warp_kind, other.mask, bit, other.place);
    }
    try_complete(i);
  }
  if (at_barrier > 0 && at_barrier + returned == count) {
    release_barrier();
  }
}

// What every fiber runs, forever: the current thread, then unstarted ones as long as they are
// picked. Otherwise it becomes idle until it is wanted for an unstarted thread again.
void run_threads() {
  for (;;) {
    Fiber* const self = threads[current].fiber;
    kernel.run(kernel.arguments);
    current_returned();
    Fiber* next_fiber = &launcher;
    if (ready_count > 0) {
      const unsigned next = take_ready();
      set_running(next);
      if (threads[next].fiber == nullptr) {
        threads[next].fiber = self;
        continue;
      }
      next_fiber = threads[next].fiber;
    } else if (returned < count) {
      deadlock();
    }
    idle_fibers.push_back(self);
    switch_fiber(*self, *next_fiber);
  }
}

Fiber& fiber_for_new_thread() {
  if (idle_fibers.empty()) {
    if (fibers == nullptr) {
      fibers = new std::deque<Fiber>;
    }
    start_fiber(fibers->emplace_back(), run_threads);
    return fibers->back();
  }
  Fiber* const fiber = idle_fibers.back();
  idle_fibers.pop_back();
  return *fiber;
}

}  // namespace

void begin_kernel(const Kernel& started, dim3 grid, dim3 block, size_t dynamic_bytes,
                  uint64_t seed) {
  kernel = started;
  grid_size = grid;
  block_size = block;
  count = block_size.x * block_size.y * block_size.z;
  for (unsigned i = 0; i < count; ++i) {
    indices[i] = {i % block_size.x, i / block_size.x % block_size.y,
                  i / block_size.x / block_size.y};
  }
  random_order.seed(seed);
  shared_bytes = dynamic_bytes;
  shared.reset(shared_bytes > 0 ? new unsigned char[shared_bytes] : nullptr);
  in_kernel = true;
}

void end_kernel() { in_kernel = false; }

void run_block(uint64_t number) {
  block_index = {static_cast<unsigned>(number % grid_size.x),
                 static_cast<unsigned>(number / grid_size.x % grid_size.y),
                 static_cast<unsigned>(number / grid_size.x / grid_size.y)};
  for (unsigned i = 0; i < count; ++i) {
    threads[i].fiber = nullptr;
    threads[i].state = State::kReady;
    ready[i] = i;
  }
  for (unsigned first = 0; first < count; first += kLanes) {
    const unsigned lanes = std::min(kLanes, count - first);
    warps[first / kLanes] = {.live = ~0u >> (kLanes - lanes), .waiting = 0};
  }
  ready_count = count;
  at_barrier = returned = 0;
  if (shared_bytes > 0) {
    std::memset(shared.get(), 0xff, shared_bytes);
  }
  set_running(take_ready());
  Fiber& fiber = fiber_for_new_thread();
  threads[current].fiber = &fiber;
  switch_fiber(launcher, fiber);
}

void* dynamic_shared() { return shared.get(); }

int block_barrier(BarrierKind kind, bool predicate, const Place& place) {
  if (!in_kernel) {
    stop("__syncthreads outside of a kernel, %s", text_of(place).c_str());
  }
  Thread& self = threads[current];
  self.barrier_kind = kind;
  self.predicate = predicate;
  self.place = place;
  self.state = State::kAtBarrier;
  if (++at_barrier + returned == count) {
    release_barrier();
  }
  yield();
  // Threads of the next barrier cannot complete it before this one has taken its result.
  return barrier_result;
}

int shuffle_source(WarpKind kind, int operand, int width, const Place& place) {
  if (width < 1 || width > 32 || !std::has_single_bit(static_cast<unsigned>(width))) {
    stop("%s of width %d, not a power of two up to 32, %s", name_of(kind), width,
         text_of(place).c_str());
  }
  const int lane = static_cast<int>(current % kLanes);
  const int first = lane & -width, last = first + width - 1;
  const int number = operand & 31;
  switch (kind) {
    case WarpKind::kShuffleUp:
      return lane - number >= first ? lane - number : lane;
    case WarpKind::kShuffleDown:
      return lane + number <= last ? lane + number : lane;
    case WarpKind::kShuffleXor:
      return (lane ^ number) <= last ? lane ^ number : lane;
    default:
      return first | (number & (width - 1));
  }
}

uint64_t warp_exchange(WarpKind kind, unsigned mask, uint64_t value, int source,
                       const Place& place) {
  if (!in_kernel) {
    stop("%s outside of a kernel, %s", name_of(kind), text_of(place).c_str());
  }
  Thread& self = threads[current];
  Warp& warp = warps[current / kLanes];
  const unsigned bit = 1u << (current % kLanes);
  if ((mask & bit) == 0) {
    stop("%s with mask %#x called by lane %u outside of it, in %s, %s", name_of(kind), mask,
         current % kLanes, block_name().c_str(), text_of(place).c_str());
  }
  const bool shuffles = kind != WarpKind::kSync && kind != WarpKind::kVote;
  if (shuffles && (mask & ~warp.live) != 0) {
    lane_has_returned(kind, mask, mask & ~warp.live, place);
  }
  self.warp_kind = kind;
  self.mask = mask;
  self.value = value;
  self.source = source;
  self.place = place;
  self.state = State::kInWarp;
  warp.waiting |= bit;
  try_complete(current);
  yield();
  return self.result;
}

}  // namespace lockstep::emulation
