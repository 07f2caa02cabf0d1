#pragma once

#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "lockstep/distributed/collective.h"
#include "lockstep/distributed/heap_memory.h"
#include "lockstep/engine/backend.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"

namespace lockstep::distributed::testing {

// Lets tests that are written for host memory run on a group of devices: buffers are copied to the
// device ahead of each collective, and its result back by Work::wait().
class HostFace final : public ProcessGroup {
 public:
  HostFace(std::shared_ptr<ProcessGroup> inner, Device device)
      : ProcessGroup(inner->rank(), inner->size()), inner_(std::move(inner)), device_(device) {}

  std::string_view name() const override { return inner_->name(); }

  // Zeroed only if the device's is.
  std::shared_ptr<Memory> allocate(size_t bytes, Device) override {
    auto there = inner_->allocate(bytes, device_);
    auto here = std::make_shared<Pair>(bytes, there);
    if (bytes > 0) backend_of(device_).copy_to_host(here->data(), there->data(), bytes);
    pairs_.push_back(here);
    return here;
  }
  void abort(const std::string& reason) noexcept override { inner_->abort(reason); }
  void set_activity(Phase phase, int64_t step) override {
    ProcessGroup::set_activity(phase, step);
    inner_->set_activity(phase, step);
  }
  void set_timeout(std::chrono::milliseconds timeout) override { inner_->set_timeout(timeout); }
  void on_failure(const FailureHandler& handler) override { inner_->on_failure(handler); }
  bool wait_for_peers_to_fail(std::chrono::milliseconds timeout) noexcept override {
    return inner_->wait_for_peers_to_fail(timeout);
  }

 private:
  class Pair final : public Memory {
   public:
    Pair(size_t bytes, std::shared_ptr<Memory> there) : here_(bytes), there_(std::move(there)) {}
    void* data() const override { return here_.data(); }
    size_t bytes() const override { return here_.bytes(); }
    // Where `buffer` is on the device; null if it is not all in this memory.
    std::byte* find(const Buffer& buffer) const {
      const auto* const at = static_cast<const std::byte*>(buffer.data);
      const auto* const begin = static_cast<const std::byte*>(data());
      if (at < begin || at + buffer.bytes() > begin + bytes()) return nullptr;
      return static_cast<std::byte*>(there_->data()) + (at - begin);
    }

   private:
    HeapMemory here_;
    std::shared_ptr<Memory> there_;
  };

  class CopyBack final : public Work::State {
   public:
    CopyBack(Work inner, Buffer target, Buffer source, Tensor keep)
        : inner_(std::move(inner)), target_(target), source_(source), keep_(std::move(keep)) {}
    bool is_completed() const override { return inner_.is_completed(); }
    void wait() override {
      inner_.wait();
      if (target_.count == 0) return;
      backend_of(source_.device).copy_to_host(target_.data, source_.data, target_.bytes());
    }
    Work::Times times() const override { return inner_.times(); }

   private:
    Work inner_;
    const Buffer target_, source_;
    const Tensor keep_;
  };

  Work issue(const Collective& c, Launch launch) override {
    if (c.kind == CollectiveKind::kBarrier) return inner_->start(c, launch);
    check(c.in.device.is_cpu(), "[host face] a buffer is on {}", c.in.device.str());
    Collective there = c;
    Tensor keep;  // memory of the call's own for what has none
    there.in.data = find(c.in);
    there.out.data = find(c.out);
    if (c.in.count + c.out.count > 0 && (!there.in.data || !there.out.data)) {
      const bool in_is_larger = c.in.count > c.out.count;
      const Buffer& larger = in_is_larger ? c.in : c.out;
      const Buffer& smaller = in_is_larger ? c.out : c.in;
      const auto offset =
          static_cast<std::byte*>(smaller.data) - static_cast<std::byte*>(larger.data);
      const bool inside = offset >= 0 && offset < static_cast<int64_t>(larger.bytes());
      const size_t behind = (larger.bytes() + 63) / 64 * 64;
      keep = empty({static_cast<int64_t>(behind + smaller.bytes())}, {DType::kUInt8, device_});
      auto* const begin = static_cast<std::byte*>(keep.data_ptr());
      std::byte* const second = begin + (inside ? static_cast<size_t>(offset) : behind);
      there.in.data = in_is_larger ? begin : second;
      there.out.data = in_is_larger ? second : begin;
    }
    there.in.device = there.out.device = device_;
    if (c.in.count > 0 && (c.kind != CollectiveKind::kBroadcast || c.root == rank())) {
      backend_of(device_).copy_from_host(there.in.data, c.in.data, c.in.bytes());
    }
    Work work(std::make_shared<CopyBack>(inner_->start(there, launch), c.out, there.out, keep));
    if (launch == Launch::kBlocking) work.wait();
    return work;
  }

  std::byte* find(const Buffer& buffer) const {
    for (const auto& weak : pairs_) {
      const auto pair = weak.lock();
      if (std::byte* const found = pair ? pair->find(buffer) : nullptr) return found;
    }
    return nullptr;
  }

  const std::shared_ptr<ProcessGroup> inner_;
  const Device device_;
  std::vector<std::weak_ptr<Pair>> pairs_;
};

}  // namespace lockstep::distributed::testing
