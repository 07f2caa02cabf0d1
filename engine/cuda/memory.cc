#include "lockstep/engine/cuda/memory.h"

#include <cstdint>

#include "lockstep/engine/cuda/graph_memory.h"
#include "lockstep/engine/cuda/status.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::cuda {
namespace {

std::string readable(size_t bytes) {
  constexpr double kMiB = 1 << 20, kGiB = 1 << 30;
  const auto size = static_cast<double>(bytes);
  if (size >= kGiB) return fmt::format("{:.2f} GiB", size / kGiB);
  if (size >= kMiB) return fmt::format("{:.2f} MiB", size / kMiB);
  return fmt::format("{} bytes", bytes);
}

}  // namespace

MemoryPool::MemoryPool(int device, cudaStream_t stream) : device_(device), stream_(stream) {
  cudaMemPoolProps properties{};
  properties.allocType = cudaMemAllocationTypePinned;
  properties.location.type = cudaMemLocationTypeDevice;
  properties.location.id = device;
  check_cuda(cudaMemPoolCreate(&pool_, &properties), "cudaMemPoolCreate");
  uint64_t keep_all = UINT64_MAX;
  check_cuda(cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &keep_all),
             "cudaMemPoolSetAttribute");
}

MemoryPool::~MemoryPool() { cudaMemPoolDestroy(pool_); }

void* MemoryPool::allocate(size_t bytes) {
  if (bytes == 0) return nullptr;
  void* data = nullptr;
  cudaError_t status = cudaMallocFromPoolAsync(&data, bytes, pool_, stream_);
  if (status == cudaErrorMemoryAllocation) {
    // Blocks that were freed a moment ago count as unused once their work is done.
    cudaGetLastError();
    check_cuda(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
    check_cuda(cudaMemPoolTrimTo(pool_, 0), "cudaMemPoolTrimTo");
    status = cudaMallocFromPoolAsync(&data, bytes, pool_, stream_);
  }
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    out_of_memory(bytes);
  }
  check_cuda(status, "cudaMallocFromPoolAsync");
  count(bytes);
  return data;
}

void MemoryPool::count(size_t bytes) {
  const std::lock_guard lock(mutex_);
  in_use_ += bytes;
  peak_ = std::max(peak_, in_use_);
}

void* MemoryPool::allocate_for_graph(size_t bytes) {
  const RelaxedCapture relaxed;
  void* data = nullptr;
  cudaError_t status = cudaMalloc(&data, bytes);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    check_cuda(cudaMemPoolTrimTo(pool_, 0), "cudaMemPoolTrimTo");
    status = cudaMalloc(&data, bytes);
  }
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    out_of_memory(bytes);
  }
  check_cuda(status, "cudaMalloc");
  count(bytes);
  const std::lock_guard lock(mutex_);
  of_graphs_ += bytes;
  return data;
}

void MemoryPool::free_of_graph(void* data, size_t bytes) noexcept {
  if (cudaFree(data) != cudaSuccess) cudaGetLastError();
  const std::lock_guard lock(mutex_);
  in_use_ -= bytes;
  of_graphs_ -= bytes;
}

void MemoryPool::deallocate(void* data, size_t bytes) noexcept {
  if (!data) return;
  cudaFreeAsync(data, stream_);
  const std::lock_guard lock(mutex_);
  in_use_ -= bytes;
}

void MemoryPool::out_of_memory(size_t bytes) const {
  size_t free = 0, total = 0;
  cudaMemGetInfo(&free, &total);
  uint64_t reserved = 0;
  cudaMemPoolGetAttribute(pool_, cudaMemPoolAttrReservedMemCurrent, &reserved);
  std::string graphs;
  {
    const std::lock_guard lock(mutex_);
    if (of_graphs_ > 0) graphs = fmt::format(", CUDA graphs {} of that", readable(of_graphs_));
  }
  fail<Error>(
      "[cuda] out of memory on cuda:{}: {} asked for; tensors of this process hold {}{} (at most "
      "{} "
      "so far), its pool {}; {} of {} are free, the rest is held by other processes and CUDA "
      "itself. "
      "Use a smaller batch, --accumulate, or activation checkpointing",
      device_, readable(bytes), readable(bytes_in_use()), graphs, readable(peak_bytes()),
      readable(reserved), readable(free), readable(total));
}

size_t MemoryPool::bytes_in_use() const {
  const std::lock_guard lock(mutex_);
  return in_use_;
}

size_t MemoryPool::peak_bytes() const {
  const std::lock_guard lock(mutex_);
  return peak_;
}

void MemoryPool::reset_peak_bytes() {
  const std::lock_guard lock(mutex_);
  peak_ = in_use_;
}

}  // namespace lockstep::cuda
