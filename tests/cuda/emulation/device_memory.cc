#include "device_memory.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <memory>
#include <vector>

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime_state.h"
#include "sanitizer.h"

namespace lockstep::emulation {
namespace {

constexpr size_t kPage = 4096, kAlignment = 256;
constexpr size_t kReturned = size_t{4} << 20;  // releases from this size on give pages back
#ifdef LOCKSTEP_EMULATION_ASAN
constexpr size_t kQuarantine = size_t{8} << 20;  // bytes not reused yet, to catch use after release
#else
constexpr size_t kQuarantine = 0;
#endif

size_t round_up(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }

// Nobody may touch it in a build with AddressSanitizer. Elsewhere no operation.
void poison([[maybe_unused]] uintptr_t start, [[maybe_unused]] size_t bytes) {
#ifdef LOCKSTEP_EMULATION_ASAN
  __asan_poison_memory_region(reinterpret_cast<void*>(start), bytes);
#endif
}
void unpoison([[maybe_unused]] uintptr_t start, [[maybe_unused]] size_t bytes) {
#ifdef LOCKSTEP_EMULATION_ASAN
  __asan_unpoison_memory_region(reinterpret_cast<void*>(start), bytes);
#endif
}

// -- the address range of all devices, and what happens to whoever touches it while it is closed

uintptr_t range_begin = 0, range_end = 0;
thread_local int opened_here = 0;  // how many devices the calling thread has open
struct sigaction previous_action;

void on_fault(int, siginfo_t* info, void*) {
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  if (address >= range_begin && address < range_end) {
    char text[128];
    const int length = std::snprintf(
        text, sizeof(text), "lockstep emulation: %s at %p\n",
        opened_here > 0 ? "a kernel touched memory outside of its device's allocations"
                        : "host code touched device memory",
        info->si_addr);
    [[maybe_unused]] const auto written = write(STDERR_FILENO, text, static_cast<size_t>(length));
  }
  // The instruction faults again and meets whoever handled faults before: a sanitizer's report, a
  // stack trace, or the default.
  sigaction(SIGSEGV, &previous_action, nullptr);
}

struct Devices {
  size_t capacity = 0;  // addresses of each; more than its bytes, because blocks leave gaps
  std::vector<std::unique_ptr<DeviceMemory>> memory;

  Devices() {
    const auto n = static_cast<size_t>(device_count());
    if (n == 0) {
      return;
    }
    capacity = round_up(2 * device_bytes() + (size_t{64} << 20), kPage);
    void* const range =
        mmap(nullptr, n * capacity, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (range == MAP_FAILED) {
      stop("no %zu bytes of address space for %zu devices", n * capacity, n);
    }
    madvise(range, n * capacity, MADV_NOHUGEPAGE);  // tests touch little of it
    for (size_t i = 0; i < n; ++i) {
      memory.push_back(std::make_unique<DeviceMemory>(static_cast<char*>(range) + i * capacity,
                                                      capacity, device_bytes()));
    }
    range_begin = reinterpret_cast<uintptr_t>(range);
    range_end = range_begin + n * capacity;
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &action, &previous_action);
  }
};

Devices& devices() {
  static Devices* const all = new Devices;  // outlives every static object that holds memory
  return *all;
}

}  // namespace

DeviceMemory::DeviceMemory(char* base, size_t capacity, size_t limit)
    : base_(base),
      capacity_(capacity),
      limit_(limit),
      frontier_(reinterpret_cast<uintptr_t>(base) + kAlignment),
      keyed_(reinterpret_cast<uintptr_t>(base)),
      key_(pkey_alloc(0, PKEY_DISABLE_ACCESS)) {
  poison(reinterpret_cast<uintptr_t>(base), kAlignment);
}

void* DeviceMemory::allocate(size_t bytes, cudaMemPool_t pool) {
  const size_t rounded = bytes > limit_ ? bytes : round_up(bytes, kAlignment);
  if (bytes > limit_ || rounded > limit_ - std::min(used_, limit_)) {
    return nullptr;
  }
  if (pool != nullptr && pool->max_bytes > 0 && pool->used + rounded > pool->max_bytes) {
    return nullptr;
  }
  const size_t span = rounded + kAlignment;
  uintptr_t start = take(span);
  if (start == 0) {
    for (const auto& [hole, hole_span] : quarantine_) {
      give(hole, hole_span);
    }
    quarantine_.clear();
    quarantined_ = 0;
    start = take(span);
  }
  if (start == 0) {
    return nullptr;
  }
  blocks_[start] = {.bytes = bytes, .span = span, .pool = pool};
  used_ += rounded;
  (pool != nullptr ? pool->used : plain_) += rounded;
  if (pool != nullptr) {
    pool->used_high = std::max(pool->used_high, pool->used);
    pool->reserved = std::max(pool->reserved, pool->used);
    pool->reserved_high = std::max(pool->reserved_high, pool->reserved);
  }
  unpoison(start, bytes);
  poison(start + bytes, span - bytes);
  open();
  std::memset(reinterpret_cast<void*>(start), 0xff, bytes);
  close();
  return reinterpret_cast<void*>(start);
}

bool DeviceMemory::release(void* pointer) {
  const auto found = blocks_.find(reinterpret_cast<uintptr_t>(pointer));
  if (found == blocks_.end()) {
    return false;
  }
  const auto [start, block] = *found;
  blocks_.erase(found);
  const size_t rounded = block.span - kAlignment;
  used_ -= rounded;
  (block.pool != nullptr ? block.pool->used : plain_) -= rounded;
  if (block.pool != nullptr) {
    CUmemPoolHandle_st& pool = *block.pool;
    const size_t kept = std::min<uint64_t>(pool.reserved, pool.threshold);
    pool.reserved = std::max(pool.used, kept);
    if (pool.destroyed && pool.used == 0) {
      delete block.pool;
    }
  }
  poison(start, block.span);
  if (block.bytes >= kReturned) {
    const uintptr_t first = round_up(start, kPage), last = (start + block.bytes) / kPage * kPage;
    madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
  }
  quarantine_.emplace_back(start, block.span);
  quarantined_ += block.span;
  while (quarantined_ > kQuarantine) {
    const auto [hole, span] = quarantine_.front();
    quarantine_.pop_front();
    quarantined_ -= span;
    give(hole, span);
  }
  return true;
}

bool DeviceMemory::contains(const void* pointer, size_t bytes) const {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  const auto after = blocks_.upper_bound(address);
  if (after == blocks_.begin()) {
    return false;
  }
  const auto& [start, block] = *std::prev(after);
  const size_t offset = address - start;
  return offset <= block.bytes && bytes <= block.bytes - offset;
}

size_t DeviceMemory::free_bytes(size_t reserved_by_pools) const {
  return limit_ - std::min(limit_, plain_ + reserved_by_pools);
}

// First fit, so that little memory is ever touched; 0 if there is none.
uintptr_t DeviceMemory::take(size_t span) {
  for (auto hole = holes_.begin(); hole != holes_.end(); ++hole) {
    const auto [start, bytes] = *hole;
    if (bytes >= span) {
      holes_.erase(hole);
      if (bytes > span) {
        holes_.emplace(start + span, bytes - span);
      }
      return start;
    }
  }
  const uintptr_t start = frontier_;
  if (span > reinterpret_cast<uintptr_t>(base_) + capacity_ - start) {
    return 0;
  }
  frontier_ += span;
  poison(frontier_, round_up(frontier_, kPage) - frontier_);
  return start;
}

void DeviceMemory::give(uintptr_t start, size_t span) {
  auto next = holes_.lower_bound(start);
  if (next != holes_.end() && start + span == next->first) {
    span += next->second;
    next = holes_.erase(next);
  }
  if (next != holes_.begin()) {
    const auto before = std::prev(next);
    if (before->first + before->second == start) {
      start = before->first;
      span += before->second;
      holes_.erase(before);
    }
  }
  if (start + span == frontier_) {
    frontier_ = start;
  } else {
    holes_.emplace(start, span);
  }
}

void DeviceMemory::open() {
  ++opened_here;
  if (opened_++ > 0) {
    return;
  }
  const uintptr_t end = round_up(frontier_, kPage);
  int failed = 0;
  if (key_ < 0) {
    failed = mprotect(base_, end - reinterpret_cast<uintptr_t>(base_), PROT_READ | PROT_WRITE);
  } else {
    if (keyed_ < end) {
      failed = pkey_mprotect(reinterpret_cast<void*>(keyed_), end - keyed_, PROT_READ | PROT_WRITE,
                             key_);
      keyed_ = end;
    }
    failed |= pkey_set(key_, 0);
  }
  if (failed != 0) {
    stop("device memory cannot be made accessible");
  }
}

void DeviceMemory::close() {
  --opened_here;
  if (--opened_ > 0) {
    return;
  }
  if (key_ < 0) {
    mprotect(base_, round_up(frontier_, kPage) - reinterpret_cast<uintptr_t>(base_), PROT_NONE);
  } else {
    pkey_set(key_, PKEY_DISABLE_ACCESS);
  }
}

DeviceMemory& device_memory(int device) { return *devices().memory[static_cast<size_t>(device)]; }

int device_of(const void* pointer) {
  const size_t capacity = devices().capacity;
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  return address >= range_begin && address < range_end
             ? static_cast<int>((address - range_begin) / capacity)
             : -1;
}

OpenMemory::OpenMemory(int device) : device_(device) {
  if (device_ >= 0) {
    device_memory(device_).open();
  }
}

OpenMemory::~OpenMemory() {
  if (device_ >= 0) {
    device_memory(device_).close();
  }
}

}  // namespace lockstep::emulation
