#include "lockstep/engine/cpu/caching_allocator.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstdint>
#include <cstdlib>
#include <mutex>

#include <sys/mman.h>

#include "lockstep/engine/tensor/check.h"

#if defined(__SANITIZE_ADDRESS__)
#define LOCKSTEP_CACHES_MEMORY 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define LOCKSTEP_CACHES_MEMORY 0
#endif
#endif
#ifndef LOCKSTEP_CACHES_MEMORY
#define LOCKSTEP_CACHES_MEMORY 1
#endif

namespace lockstep::cpu {
namespace {

// Two kinds of size classes. Small ones are the multiples of 64 up to 512 bytes; blocks are carved
// from slabs, move between threads and a central list in batches, and are otherwise taken from a
// list of the thread's own. Above, eight classes per power of two (at most 12.5 % is wasted, and a
// request is likely to meet a freed block of its class) in central lists under one lock.
constexpr size_t kSmallLimit = 512;
constexpr int kSmallClasses = kSmallLimit / kAlignment;
constexpr int kBatch = 64;
constexpr size_t kLargestRequest = size_t{1} << 47;  // no address space holds more
constexpr int kLargeClasses = 8 * 48;

// From here on blocks lie on huge-page boundaries, where fewer faults and TLB misses pay off.
constexpr size_t kHugePage = size_t{1} << 21;
constexpr size_t kHugeLimit = 2 * kHugePage;

struct FreeBlock {
  FreeBlock* next;
};

struct FreeList {
  FreeBlock* head = nullptr;
  int count = 0;

  void push(void* address) {
    head = new (address) FreeBlock{head};
    ++count;
  }
  void* pop() {
    FreeBlock* block = head;
    head = block->next;
    --count;
    return block;
  }
};

int small_class(size_t bytes) {
  return bytes == 0 ? 0 : static_cast<int>((bytes - 1) / kAlignment);
}
size_t small_size(int index) { return (index + 1) * kAlignment; }

// The class of a large request: its power of two and the three bits below the leading one.
struct LargeClass {
  int index;
  size_t size;
};
LargeClass large_class(size_t bytes) {
  const int shift = std::bit_width(bytes - 1) - 4;  // the class's last 3 bits lie above this
  const size_t steps = ((bytes - 1) >> shift) + 1;  // 9..16 of 2^shift
  return {shift * 8 + static_cast<int>(steps - 9), steps << shift};
}

std::atomic<size_t> in_use{0};
std::atomic<size_t> peak{0};
std::atomic<size_t> reserved{0};  // from the system: in use or cached

void count_use(size_t bytes) {
  const size_t now = in_use.fetch_add(bytes, std::memory_order_relaxed) + bytes;
  size_t before = peak.load(std::memory_order_relaxed);
  while (now > before && !peak.compare_exchange_weak(before, now, std::memory_order_relaxed)) {
  }
}

void* from_system(size_t bytes) noexcept {
  const size_t alignment = bytes >= kHugeLimit ? kHugePage : kAlignment;
  void* address = nullptr;
  if (posix_memalign(&address, alignment, bytes) != 0) {
    return nullptr;
  }
  if (alignment == kHugePage) {
    madvise(address, bytes, MADV_HUGEPAGE);  // advice only: failing is fine
  }
  reserved.fetch_add(bytes, std::memory_order_relaxed);
  return address;
}

void to_system(void* address, size_t bytes) noexcept {
  reserved.fetch_sub(bytes, std::memory_order_relaxed);
  std::free(address);
}

[[noreturn]] void fail_to_allocate(size_t bytes) {
  const AllocatorStats stats = allocator_stats();
  fail<Error>(
      "[allocate] out of memory: {} bytes asked for, {} in use, {} cached. Reduce the batch, or "
      "keep fewer tensors alive",
      bytes, stats.bytes_in_use, stats.bytes_cached);
}

void* from_system_or_throw(size_t bytes, size_t asked) {
  void* address = from_system(bytes);
  if (address == nullptr) {
    empty_cache();
    address = from_system(bytes);
  }
  if (address == nullptr) {
    fail_to_allocate(asked);
  }
  return address;
}

// What the threads share. Never destroyed: blocks are freed until the very end of the process.
struct Central {
  std::mutex mutex;
  std::array<FreeList, kLargeClasses> large;
  std::array<FreeList, kSmallClasses> small;
};

Central& central() {
  alignas(Central) static std::byte storage[sizeof(Central)];
  static Central* const instance = new (storage) Central;
  return *instance;
}

// The thread's own small blocks. Trivially destructible, so it may be used at any point of the
// thread's end; the flusher below empties it and closes it when the thread's destructors run.
struct ThreadLists {
  std::array<FreeList, kSmallClasses> lists;
  enum : uint8_t { kUnused, kOpen, kClosed } state = kUnused;
};
constinit thread_local ThreadLists mine;

void move_blocks(FreeList& from, FreeList& to, int count) {
  while (count-- > 0 && from.head != nullptr) {
    to.push(from.pop());
  }
}

struct Flusher {
  ~Flusher() {
    Central& shared = central();
    const std::lock_guard lock(shared.mutex);
    for (int i = 0; i < kSmallClasses; ++i) {
      move_blocks(mine.lists[i], shared.small[i], mine.lists[i].count);
    }
    mine.state = ThreadLists::kClosed;
  }
};

void open_thread_lists() {
  if (mine.state == ThreadLists::kUnused) {
    static thread_local Flusher flusher;
    (void)&flusher;
    mine.state = ThreadLists::kOpen;
  }
}

// At least one block of the class, on the thread's list or, when that is closed, on its own.
void* refill(int index, size_t asked) {
  open_thread_lists();
  Central& shared = central();
  const bool open = mine.state == ThreadLists::kOpen;
  {
    const std::lock_guard lock(shared.mutex);
    FreeList& list = shared.small[index];
    if (list.head != nullptr) {
      void* block = list.pop();
      if (open) {
        move_blocks(list, mine.lists[index], kBatch - 1);
      }
      return block;
    }
  }
  const size_t size = small_size(index);
  auto* slab = static_cast<std::byte*>(from_system_or_throw(kBatch * size, asked));
  FreeList rest;
  for (int i = kBatch - 1; i > 0; --i) {
    rest.push(slab + i * size);
  }
  if (open) {
    move_blocks(rest, mine.lists[index], kBatch);
  } else {
    const std::lock_guard lock(shared.mutex);
    move_blocks(rest, shared.small[index], kBatch);
  }
  return slab;
}

void* allocate_small(size_t bytes) {
  const int index = small_class(bytes);
  FreeList& list = mine.lists[index];
  void* block = list.head != nullptr ? list.pop() : refill(index, bytes);
  count_use(small_size(index));
  return block;
}

void deallocate_small(void* address, size_t bytes) noexcept {
  const int index = small_class(bytes);
  in_use.fetch_sub(small_size(index), std::memory_order_relaxed);
  FreeList& list = mine.lists[index];
  if (mine.state != ThreadLists::kOpen) [[unlikely]] {
    open_thread_lists();
    if (mine.state == ThreadLists::kClosed) {
      Central& shared = central();
      const std::lock_guard lock(shared.mutex);
      shared.small[index].push(address);
      return;
    }
  }
  list.push(address);
  if (list.count > 4 * kBatch) [[unlikely]] {
    Central& shared = central();
    const std::lock_guard lock(shared.mutex);
    move_blocks(list, shared.small[index], 2 * kBatch);
  }
}

void* allocate_large(size_t bytes) {
  const auto [index, size] = large_class(bytes);
  void* block = nullptr;
  {
    Central& shared = central();
    const std::lock_guard lock(shared.mutex);
    if (shared.large[index].head != nullptr) {
      block = shared.large[index].pop();
    }
  }
  if (block == nullptr) {
    block = from_system_or_throw(size, bytes);
  }
  count_use(size);
  return block;
}

void deallocate_large(void* address, size_t bytes) noexcept {
  const auto [index, size] = large_class(bytes);
  in_use.fetch_sub(size, std::memory_order_relaxed);
  Central& shared = central();
  const std::lock_guard lock(shared.mutex);
  shared.large[index].push(address);
}

}  // namespace

void* allocate(size_t bytes) {
  if (bytes > kLargestRequest) {
    fail_to_allocate(bytes);
  }
  if constexpr (!LOCKSTEP_CACHES_MEMORY) {
    void* address = from_system_or_throw(std::max<size_t>(bytes, 1), bytes);
    count_use(std::max<size_t>(bytes, 1));
    return address;
  }
  return bytes <= kSmallLimit ? allocate_small(bytes) : allocate_large(bytes);
}

void deallocate(void* address, size_t bytes) noexcept {
  if (address == nullptr) {
    return;
  }
  if constexpr (!LOCKSTEP_CACHES_MEMORY) {
    in_use.fetch_sub(std::max<size_t>(bytes, 1), std::memory_order_relaxed);
    to_system(address, std::max<size_t>(bytes, 1));
    return;
  }
  bytes <= kSmallLimit ? deallocate_small(address, bytes) : deallocate_large(address, bytes);
}

AllocatorStats allocator_stats() {
  const size_t used = in_use.load(std::memory_order_relaxed);
  const size_t held = reserved.load(std::memory_order_relaxed);
  return {.bytes_in_use = used,
          .peak_bytes = peak.load(std::memory_order_relaxed),
          .bytes_cached = held > used ? held - used : 0};
}

void reset_peak_bytes() { peak.store(in_use.load(std::memory_order_relaxed)); }

void empty_cache() noexcept {
  Central& shared = central();
  for (int index = 0; index < kLargeClasses; ++index) {
    const size_t size = static_cast<size_t>(index % 8 + 9) << (index / 8);
    FreeList list;
    {
      const std::lock_guard lock(shared.mutex);
      std::swap(list, shared.large[index]);
    }
    while (list.head != nullptr) {
      to_system(list.pop(), size);
    }
  }
}

}  // namespace lockstep::cpu
