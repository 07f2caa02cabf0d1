#include "lockstep/engine/cuda/pinned.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "lockstep/engine/cuda/event.h"
#include "lockstep/engine/cuda/status.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::cuda {
namespace {

constexpr size_t kSmallest = 512;

}  // namespace

PinnedPool::~PinnedPool() {
  for (const auto& [data, block] : blocks_) {
    for (const cudaEvent_t event : block.events) cudaEventDestroy(event);
    cudaFreeHost(data);
  }
}

bool PinnedPool::is_unused(const Block& block) {
  return std::all_of(block.events.begin(), block.events.begin() + std::ptrdiff_t(block.recorded),
                     is_over);
}

void* PinnedPool::allocate(size_t bytes) {
  const size_t size = std::bit_ceil(std::max(bytes, kSmallest));
  const std::lock_guard lock(mutex_);
  auto& unused = free_[size];
  if (!unused.empty() && is_unused(blocks_.at(unused.front()))) {
    void* const data = unused.front();
    unused.pop_front();
    return data;
  }
  void* data = nullptr;
  const cudaError_t status = cudaHostAlloc(&data, size, cudaHostAllocPortable);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    fail<Error>(
        "[cuda] the host has no {} bytes of pinned memory left; free some, or raise the limit of "
        "locked memory (ulimit -l)",
        size);
  }
  check_cuda(status, "cudaHostAlloc");
  blocks_[data].bytes = size;
  return data;
}

void PinnedPool::copy_to_device(void* to, const void* from, size_t bytes, cudaStream_t stream) {
  void* const staging = allocate(bytes);
  std::memcpy(staging, from, bytes);
  const cudaError_t status = cudaMemcpyAsync(to, staging, bytes, cudaMemcpyHostToDevice, stream);
  deallocate(staging, {stream});
  check_cuda(status, "copy to device");
}

void PinnedPool::deallocate(void* data, std::initializer_list<cudaStream_t> users) noexcept {
  const std::lock_guard lock(mutex_);
  Block& block = blocks_.find(data)->second;
  block.recorded = 0;
  try {
    for (const cudaStream_t stream : users) {
      if (block.recorded == block.events.size()) {
        cudaEvent_t event = nullptr;
        check_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
        block.events.push_back(event);
      }
      check_cuda(cudaEventRecord(block.events[block.recorded], stream), "cudaEventRecord");
      ++block.recorded;
    }
    free_[block.bytes].push_back(data);
  } catch (...) {  // the device is lost, or memory for the list: nobody gets this block again
  }
}

}  // namespace lockstep::cuda
