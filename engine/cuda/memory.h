#pragma once

#include <cstddef>
#include <mutex>

#include <cuda_runtime.h>

namespace lockstep::cuda {

// A device's memory: a pool of its own, ordered by the stream that allocates and frees. Freed
// blocks stay in the pool, so that a training step asks the driver for nothing once it is warm.
class MemoryPool {
 public:
  MemoryPool(int device, cudaStream_t stream);
  ~MemoryPool();
  MemoryPool(const MemoryPool&) = delete;
  MemoryPool& operator=(const MemoryPool&) = delete;

  // 256-byte aligned; null for 0 bytes. Throws Error, saying who holds what, when there is none
  // left, after giving what lies unused in the pool back to the device once.
  void* allocate(size_t bytes);
  // The block may be used by work that was issued to the stream before.
  void deallocate(void* data, size_t bytes) noexcept;

  // Memory that graphs have besides the pool: counts as in use. allocate_for_graph() may be called
  // during a capture, the other one may not.
  void* allocate_for_graph(size_t bytes);
  void free_of_graph(void* data, size_t bytes) noexcept;

  size_t bytes_in_use() const;
  size_t peak_bytes() const;
  void reset_peak_bytes();

 private:
  void count(size_t bytes);
  [[noreturn]] void out_of_memory(size_t bytes) const;

  const int device_;
  const cudaStream_t stream_;
  cudaMemPool_t pool_ = nullptr;
  mutable std::mutex mutex_;
  size_t in_use_ = 0, peak_ = 0, of_graphs_ = 0;
};

}  // namespace lockstep::cuda
