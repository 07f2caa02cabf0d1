#pragma once

#include <cstddef>
#include <deque>
#include <initializer_list>
#include <map>
#include <mutex>
#include <vector>

#include <cuda_runtime.h>

namespace lockstep::cuda {

// Pinned host memory. What is given back is given out again once the work that the streams had then
// is done; asking CUDA for it costs a good part of a millisecond. The calling thread's device is
// the streams'. Any thread may call.
class PinnedPool {
 public:
  PinnedPool() = default;
  ~PinnedPool();
  PinnedPool(const PinnedPool&) = delete;
  PinnedPool& operator=(const PinnedPool&) = delete;

  // Aligned to 256 bytes. Throws Error when the host has none.
  void* allocate(size_t bytes);
  // Copies to the device, and comes back when `from` may be used again, which is before the copy
  // is done.
  void copy_to_device(void* to, const void* from, size_t bytes, cudaStream_t stream);
  // Work that was issued to these streams before may still use it.
  void deallocate(void* data, std::initializer_list<cudaStream_t> users) noexcept;

 private:
  struct Block {
    size_t bytes = 0;
    std::vector<cudaEvent_t> events;  // made once, recorded for each use
    size_t recorded = 0;
  };
  static bool is_unused(const Block& block);

  std::mutex mutex_;
  std::map<void*, Block> blocks_;
  std::map<size_t, std::deque<void*>> free_;  // by size, the first given back first
};

}  // namespace lockstep::cuda
