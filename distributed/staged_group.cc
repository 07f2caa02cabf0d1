#include "lockstep/distributed/staged_group.h"

#include <cstddef>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "lockstep/distributed/collective.h"
#include "lockstep/distributed/device_memory.h"
#include "lockstep/engine/backend.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::distributed {
namespace {

// Which host memory stands for which memory of a device. Outlives the group with the memory.
class Twins {
 public:
  void add(const void* device, size_t bytes, std::byte* host) {
    const std::lock_guard lock(mutex_);
    twins_[static_cast<const std::byte*>(device)] = {bytes, host};
  }
  void remove(const void* device) noexcept {
    const std::lock_guard lock(mutex_);
    twins_.erase(static_cast<const std::byte*>(device));
  }
  // Null where there is none that holds all of the buffer.
  std::byte* find(const Buffer& buffer) const {
    const auto* at = static_cast<const std::byte*>(buffer.data);
    const std::lock_guard lock(mutex_);
    auto next = twins_.upper_bound(at);
    if (next == twins_.begin()) return nullptr;
    const auto& [begin, twin] = *--next;
    const auto offset = static_cast<size_t>(at - begin);
    return offset + buffer.bytes() <= twin.bytes ? twin.host + offset : nullptr;
  }

 private:
  struct Twin {
    size_t bytes;
    std::byte* host;
  };
  mutable std::mutex mutex_;
  std::map<const std::byte*, Twin> twins_;
};

class StagedMemory final : public Memory {
 public:
  StagedMemory(std::shared_ptr<Twins> twins, std::shared_ptr<Memory> host, size_t bytes,
               Device device)
      : twins_(std::move(twins)), host_(std::move(host)), device_(bytes, device) {
    if (bytes > 0) twins_->add(data(), bytes, static_cast<std::byte*>(host_->data()));
  }
  ~StagedMemory() override { twins_->remove(data()); }
  StagedMemory(const StagedMemory&) = delete;
  StagedMemory& operator=(const StagedMemory&) = delete;
  void* data() const override { return device_.data(); }
  size_t bytes() const override { return device_.bytes(); }

 private:
  std::shared_ptr<Twins> twins_;
  std::shared_ptr<Memory> host_;
  DeviceMemory device_;
};

// A collective on the host whose result belongs on the device.
class StagedWork final : public Work::State {
 public:
  StagedWork(Work inner, Buffer target, const std::byte* source, std::vector<std::byte> staging)
      : inner_(std::move(inner)), target_(target), source_(source), staging_(std::move(staging)) {}

  bool is_completed() const override { return inner_.is_completed(); }
  void wait() override {
    inner_.wait();
    const std::lock_guard lock(mutex_);
    if (std::exchange(copied_, true)) return;
    backend_of(target_.device).copy_from_host(target_.data, source_, target_.bytes());
  }
  Work::Times times() const override { return inner_.times(); }

 private:
  Work inner_;
  const Buffer target_;
  const std::byte* const source_;
  const std::vector<std::byte> staging_;
  std::mutex mutex_;
  bool copied_ = false;
};

class StagedGroup final : public ProcessGroup {
 public:
  explicit StagedGroup(std::shared_ptr<ProcessGroup> inner)
      : ProcessGroup(inner->rank(), inner->size()), inner_(std::move(inner)) {}

  std::string_view name() const override { return inner_->name(); }

  std::shared_ptr<Memory> allocate(size_t bytes, Device device) override {
    const LabelScope label(*inner_, current_label());
    auto host = inner_->allocate(bytes, Device{});
    if (device.is_cpu()) return host;
    return std::make_shared<StagedMemory>(twins_, std::move(host), bytes, device);
  }

  void abort(const std::string& reason) noexcept override {
    inner_->abort(reason);
    abort_duplicates(reason);
  }
  bool wait_for_peers_to_fail(std::chrono::milliseconds timeout) noexcept override {
    return inner_->wait_for_peers_to_fail(timeout);
  }
  void set_activity(Phase phase, int64_t step) override {
    ProcessGroup::set_activity(phase, step);
    inner_->set_activity(phase, step);
  }
  void set_timeout(std::chrono::milliseconds timeout) override {
    ProcessGroup::set_timeout(timeout);
    inner_->set_timeout(timeout);
  }
  void on_failure(const FailureHandler& handler) override { inner_->on_failure(handler); }
  void write_flight_record(const std::filesystem::path& file,
                           const std::string& reason) const override {
    inner_->write_flight_record(file, reason);
  }

 private:
  std::shared_ptr<ProcessGroup> make_duplicate() override {
    return make_staged_group(inner_->duplicate());
  }

  Work issue(const Collective& c, Launch launch) override {
    const LabelScope label(*inner_, c.label);
    if (c.in.device.is_cpu()) return forward(c, launch);
    Collective on_host = c;
    std::vector<std::byte> staging;
    on_host.in.data = twins_->find(c.in);
    on_host.out.data = twins_->find(c.out);
    if (!on_host.in.data || !on_host.out.data) stage(c, on_host, staging);
    on_host.in.device = on_host.out.device = Device{};
    if (c.kind != CollectiveKind::kBroadcast || c.root == rank()) {
      backend_of(c.in.device).copy_to_host(on_host.in.data, c.in.data, c.in.bytes());
    }
    const auto* const result = static_cast<const std::byte*>(on_host.out.data);
    Work work(
        std::make_shared<StagedWork>(forward(on_host, launch), c.out, result, std::move(staging)));
    if (launch == Launch::kBlocking) work.wait();
    return work;
  }

  // Memory of the call's own for both buffers, which may be one, or one a part of the other.
  static void stage(const Collective& c, Collective& on_host, std::vector<std::byte>& staging) {
    const auto begin_of = [](const Buffer& b) { return static_cast<const std::byte*>(b.data); };
    const Buffer& larger = c.in.bytes() > c.out.bytes() ? c.in : c.out;
    const Buffer& smaller = c.in.bytes() > c.out.bytes() ? c.out : c.in;
    const std::byte* const begin = begin_of(larger);
    const bool inside =
        begin_of(smaller) >= begin && begin_of(smaller) + smaller.bytes() <= begin + larger.bytes();
    staging.resize(larger.bytes() + (inside ? 0 : smaller.bytes()));
    const size_t offset = inside ? static_cast<size_t>(begin_of(smaller) - begin) : larger.bytes();
    std::byte* const of_larger = staging.data();
    std::byte* const of_smaller = staging.data() + offset;
    on_host.in.data = &larger == &c.in ? of_larger : of_smaller;
    on_host.out.data = &larger == &c.in ? of_smaller : of_larger;
  }

  Work forward(const Collective& c, Launch launch) {
    switch (c.kind) {
      case CollectiveKind::kAllReduce:
        return inner_->all_reduce(c.in, c.op, launch);
      case CollectiveKind::kBroadcast:
        return inner_->broadcast(c.in, c.root, launch);
      case CollectiveKind::kReduceScatter:
        return inner_->reduce_scatter(c.out, c.in, c.op, launch);
      case CollectiveKind::kAllGather:
        return inner_->all_gather(c.out, c.in, launch);
      case CollectiveKind::kAllToAll:
        return inner_->all_to_all(c.out, c.in, launch);
      case CollectiveKind::kCanonicalSum:
        return inner_->canonical_sum(c.in, c.plan, launch);
      case CollectiveKind::kBarrier:
        return inner_->barrier(launch);
      case CollectiveKind::kAllocate:
        break;
    }
    fail("[staged group] no collective of kind {}", distributed::name_of(c.kind));
  }

  const std::shared_ptr<ProcessGroup> inner_;
  const std::shared_ptr<Twins> twins_ = std::make_shared<Twins>();
};

}  // namespace

std::shared_ptr<ProcessGroup> make_staged_group(std::shared_ptr<ProcessGroup> inner) {
  return std::make_shared<StagedGroup>(std::move(inner));
}

}  // namespace lockstep::distributed
