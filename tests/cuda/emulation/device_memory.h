#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>

#include "runtime_types.h"

struct CUmemPoolHandle_st {
  int device = 0;
  size_t max_bytes = 0;  // 0: no limit but the device's
  size_t used = 0, used_high = 0;
  size_t reserved = 0, reserved_high = 0;  // used and what the pool keeps for later
  uint64_t threshold = 0;                  // of bytes kept
  bool destroyed = false;                  // and waits for its last block
};

namespace lockstep::emulation {

// The memory of one device: a range of addresses that is inaccessible but for OpenMemory. It has a
// protection key where the processor has any left: opening costs nothing and concerns one thread
// only, while mprotect() visits every page in use.
// Blocks are 256-byte aligned and have at least 256 bytes behind them that belong to nobody. Not
// synchronised: callers hold device_mutex().
class DeviceMemory {
 public:
  struct Block {
    size_t bytes = 0;  // asked for
    size_t span = 0;   // with padding and the gap behind it
    cudaMemPool_t pool = nullptr;
  };

  DeviceMemory(char* base, size_t capacity, size_t limit);

  // Filled with 0xFF; null beyond the limit. `pool` may be null. bytes > 0.
  void* allocate(size_t bytes, cudaMemPool_t pool);
  bool release(void* pointer);  // false if no block begins there
  // Whether one block holds all of [pointer, pointer + bytes).
  bool contains(const void* pointer, size_t bytes) const;
  size_t free_bytes(size_t reserved_by_pools) const;
  size_t limit() const { return limit_; }

  void open();
  void close();

 private:
  uintptr_t take(size_t span);
  void give(uintptr_t start, size_t span);

  char* base_;
  size_t capacity_, limit_;
  size_t used_ = 0;      // by all blocks
  size_t plain_ = 0;     // by those without a pool
  uintptr_t frontier_;   // blocks and holes lie below it
  uintptr_t keyed_ = 0;  // pages below it have the key
  int key_;              // -1: none
  int opened_ = 0;
  std::map<uintptr_t, Block> blocks_;
  std::map<uintptr_t, size_t> holes_;  // below the frontier, never adjacent
  std::deque<std::pair<uintptr_t, size_t>> quarantine_;
  size_t quarantined_ = 0;
};

DeviceMemory& device_memory(int device);
// The device whose range of addresses `pointer` lies in; -1 for the host's.
int device_of(const void* pointer);

// Device memory is accessible while one of these exists.
class OpenMemory {
 public:
  explicit OpenMemory(int device);  // -1: none
  ~OpenMemory();
  OpenMemory(const OpenMemory&) = delete;
  OpenMemory& operator=(const OpenMemory&) = delete;

 private:
  int device_;
};

}  // namespace lockstep::emulation
