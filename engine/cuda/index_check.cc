#include "lockstep/engine/cuda/index_check.h"

#include <atomic>
#include <new>

#include "lockstep/engine/cuda/status.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::cuda {

IndexCheck::IndexCheck() {
  void* memory = nullptr;
  check_cuda(cudaHostAlloc(&memory, sizeof(WrongIndex), cudaHostAllocPortable), "cudaHostAlloc");
  found_ = new (memory) WrongIndex;
}

IndexCheck::~IndexCheck() { cudaFreeHost(found_); }

// A device that finds something more meanwhile leaves it: what is claimed is not written to.
std::string IndexCheck::take() {
  const std::atomic_ref complete(found_->complete);
  if (complete.load(std::memory_order_acquire) == 0) return {};
  const std::lock_guard lock(mutex_);
  if (complete.load(std::memory_order_acquire) == 0) return {};
  const IndexRule rule = found_->rule;
  std::string text = fmt::format(
      "[{}] {} (number {} of the indices, which were computed on the GPU and checked there, after "
      "the call; its results are NaN)",
      rule.op, fmt::format(fmt::runtime(rule.text), found_->index, rule.dim, rule.size),
      found_->position);
  complete.store(0, std::memory_order_release);
  std::atomic_ref(found_->claimed).store(0, std::memory_order_release);
  return text;
}

}  // namespace lockstep::cuda
