#include "lockstep/engine/cuda/graph_memory.h"

namespace lockstep::cuda {
namespace {

constexpr size_t kGrain = 512;

}  // namespace

// An unused block serves what is not much smaller.
void* GraphMemory::allocate(size_t bytes) {
  if (bytes == 0) return nullptr;
  const size_t size = (bytes + kGrain - 1) / kGrain * kGrain;
  const std::lock_guard lock(mutex_);
  auto found = unused_.lower_bound(size);
  if (found != unused_.end() && found->first <= size + size / 4) {
    auto node = unused_.extract(found);
    used_.emplace(node.mapped(), node.key());
    return node.mapped();
  }
  void* const data = pool_.allocate_for_graph(size);
  used_.emplace(data, size);
  bytes_ += size;
  return data;
}

bool GraphMemory::give_back(void* data) noexcept {
  const std::lock_guard lock(mutex_);
  const auto found = used_.find(data);
  if (found == used_.end()) return false;
  const size_t size = found->second;
  used_.erase(found);
  if (retired_) {
    pool_.free_of_graph(data, size);
    bytes_ -= size;
  } else {
    unused_.emplace(size, data);
  }
  return true;
}

void GraphMemory::retire() noexcept {
  const std::lock_guard lock(mutex_);
  retired_ = true;
  for (const auto& [size, data] : unused_) {
    pool_.free_of_graph(data, size);
    bytes_ -= size;
  }
  unused_.clear();
}

bool GraphMemory::is_empty() const {
  const std::lock_guard lock(mutex_);
  return bytes_ == 0;
}

size_t GraphMemory::bytes() const {
  const std::lock_guard lock(mutex_);
  return bytes_;
}

}  // namespace lockstep::cuda
