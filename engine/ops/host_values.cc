#include "lockstep/engine/ops/host_values.h"

#include <cstddef>
#include <deque>
#include <mutex>
#include <utility>

#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/capture.h"

namespace lockstep {
namespace {

constexpr size_t kMostTensors = 64;
constexpr size_t kMostBytes = size_t{4} << 20;  // of one

size_t bytes_of(const Tensor& t) { return static_cast<size_t>(t.numel()) * size_of(t.dtype()); }

bool is_kept(const Tensor& t) {
  const bool integers = t.dtype() == DType::kInt64 || t.dtype() == DType::kInt32;
  return integers && t.numel() > 0 && bytes_of(t) <= kMostBytes;
}

// A tensor in here keeps its memory, so that an address says whose it is.
class Kept {
 public:
  void add(const Tensor& there, const Tensor& here) {
    Entry entry{there, there.version(), here};
    const std::lock_guard lock(mutex_);
    entries_.push_front(std::move(entry));
    if (entries_.size() > kMostTensors) entries_.pop_back();
  }

  Tensor find(const Tensor& wanted) {
    const auto* const begin = static_cast<const std::byte*>(wanted.data_ptr());
    const std::lock_guard lock(mutex_);
    for (const Entry& entry : entries_) {
      const Tensor& there = entry.there;
      const auto* const base = static_cast<const std::byte*>(there.data_ptr());
      if (there.device() != wanted.device() || there.dtype() != wanted.dtype() || begin < base ||
          begin + bytes_of(wanted) > base + bytes_of(there)) {
        continue;
      }
      if (there.version() != entry.version) return {};
      const auto offset = static_cast<size_t>(begin - base) / size_of(wanted.dtype());
      return entry.here.view({-1})
          .narrow(0, static_cast<int64_t>(offset), wanted.numel())
          .view(wanted.sizes());
    }
    return {};
  }

 private:
  struct Entry {
    Tensor there;
    uint32_t version;
    Tensor here;
  };
  std::mutex mutex_;
  std::deque<Entry> entries_;  // the latest first
};

Kept& kept() {
  static auto* const only = new Kept;  // outlives the devices
  return *only;
}

}  // namespace

void remember_host_values(const Tensor& there, const Tensor& here) {
  if (!is_kept(there)) return;
  const autograd::NoGrad no_grad;
  kept().add(there.detach(), here.detach().clone());
}

Tensor known_host_values(const Tensor& tensor) {
  const autograd::NoGrad no_grad;
  if (tensor.device().is_cpu()) return tensor.detach().contiguous();
  if (graph_in_capture()) return {};  // a replay has other values
  return tensor.is_contiguous() && is_kept(tensor) ? kept().find(tensor) : Tensor();
}

}  // namespace lockstep
