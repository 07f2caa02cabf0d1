#include "lockstep/distributed/staged_group.h"

#include <chrono>
#include <cstddef>
#include <exception>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "lockstep/distributed/collective.h"
#include "lockstep/distributed/device_memory.h"
#include "lockstep/distributed/work_queue.h"
#include "lockstep/engine/capture.h"
#include "lockstep/engine/sync_debug.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/transfer.h"

// The way of a collective in the group's own memory, an all-reduce of a bucket above all:
//
//   caller:  issue; goes on computing                           Work::wait(): the compute stream
//            |                                                  |   waits for `received`
//   copies:  [wait for compute so far] [to the host] sent       [to the device] received
//                                                    |          |
//   queue's thread:                      waits for `sent`, the inner group's collective
//
// Other memory of the device may be released by its owner at any time after a Work was dropped. So
// it is touched by the compute stream only, where its release has its place, too: the copy to the
// host, into pinned memory of the call's own, stands where the call was issued, and the copy back
// where it is waited for.
namespace lockstep::distributed {
namespace {

class StagedMemory;

// The group's memory on devices, by address. Outlives the group with the memory.
class Registry {
 public:
  void add(const void* data, const std::weak_ptr<StagedMemory>& memory) {
    const std::lock_guard lock(mutex_);
    memory_[static_cast<const std::byte*>(data)] = memory;
  }
  void remove(const void* data) noexcept {
    const std::lock_guard lock(mutex_);
    memory_.erase(static_cast<const std::byte*>(data));
  }
  // The one that holds all of the buffer, or null.
  std::shared_ptr<StagedMemory> find(const Buffer& buffer) const;

 private:
  mutable std::mutex mutex_;
  std::map<const std::byte*, std::weak_ptr<StagedMemory>> memory_;
};

// Memory on a device, and that of the inner group which stands for it.
class StagedMemory final : public Memory {
 public:
  StagedMemory(std::shared_ptr<Registry> registry, std::shared_ptr<Memory> host, size_t bytes,
               Device device)
      : registry_(std::move(registry)),
        host_(std::move(host)),
        device_(bytes, device),
        transfers_(*transfers_of(device)),
        pinned_(bytes > 0 && transfers_.pin(host_->data(), bytes)) {}
  // Copies of a collective that nobody has waited for may be under way.
  ~StagedMemory() override {
    registry_->remove(data());
    try {
      const SyncAllowed allowed;
      transfers_.record_event(Lane::kCopies)->wait_on_host();
    } catch (const std::exception&) {  // the device is lost, and copies nothing
    }
    if (pinned_) transfers_.unpin(host_->data());
  }
  StagedMemory(const StagedMemory&) = delete;
  StagedMemory& operator=(const StagedMemory&) = delete;
  void* data() const override { return device_.data(); }
  size_t bytes() const override { return device_.bytes(); }

  // What stands for a place in it.
  std::byte* on_host(const void* at) const {
    return static_cast<std::byte*>(host_->data()) +
           (static_cast<const std::byte*>(at) - static_cast<const std::byte*>(data()));
  }

 private:
  const std::shared_ptr<Registry> registry_;
  const std::shared_ptr<Memory> host_;
  const DeviceMemory device_;
  Transfers& transfers_;
  const bool pinned_;
};

std::shared_ptr<StagedMemory> Registry::find(const Buffer& buffer) const {
  const auto* at = static_cast<const std::byte*>(buffer.data);
  const std::lock_guard lock(mutex_);
  const auto next = memory_.upper_bound(at);
  if (next == memory_.begin()) return nullptr;
  const auto& [begin, weak] = *std::prev(next);
  std::shared_ptr<StagedMemory> memory = weak.lock();
  const auto offset = static_cast<size_t>(at - begin);
  return memory && offset + buffer.bytes() <= memory->bytes() ? memory : nullptr;
}

// One collective on its way, with all that it needs until its end, whoever has dropped the Work.
struct Staged {
  Staged(Transfers& device, const Collective& call) : transfers(device), on_host(call) {}

  Transfers& transfers;
  Collective on_host;
  std::shared_ptr<StagedMemory> in, out;  // the group's memory, or none:
  std::unique_ptr<PinnedMemory> staging;  // then memory of the call's own
  std::shared_ptr<Event> sent;            // null: there is nothing to wait for
  std::shared_ptr<Event> received;        // in the group's memory, once the queue is through
  // When the device had come to it.
  std::chrono::steady_clock::time_point ready{};
};

// A collective on the host whose result belongs on the device.
class StagedWork final : public Work::State {
 public:
  StagedWork(Work queued, std::shared_ptr<Staged> staged, const Buffer& target)
      : queued_(std::move(queued)), staged_(std::move(staged)), target_(target) {}

  bool is_completed() const override { return queued_.is_completed(); }
  void wait() override {
    queued_.wait();
    const std::lock_guard lock(mutex_);
    if (std::exchange(ordered_, true)) return;
    if (staged_->received) {
      staged_->transfers.wait_for(staged_->received, Lane::kCompute);
    } else {
      staged_->transfers.copy_from_pinned(target_.data, staged_->on_host.out.data, target_.bytes(),
                                          Lane::kCompute);
    }
  }
  // What the device had to do before is no part of the communication.
  Work::Times times() const override {
    if (!queued_.is_completed()) return {};
    Work::Times times = queued_.times();
    times.launched = times.started = staged_->ready;
    return times;
  }

 private:
  Work queued_;
  const std::shared_ptr<Staged> staged_;
  const Buffer target_;
  std::mutex mutex_;
  bool ordered_ = false;
};

class StagedGroup final : public ProcessGroup {
 public:
  explicit StagedGroup(std::shared_ptr<ProcessGroup> inner)
      : ProcessGroup(inner->rank(), inner->size()),
        inner_(std::move(inner)),
        queue_(fmt::format("ls-staged-{}", rank())) {}

  ~StagedGroup() override {
    if (std::uncaught_exceptions() > 0 && !queue_.is_idle()) {
      inner_->abort("an exception destroyed the process group");
    }
    queue_.drain_and_join();
  }
  StagedGroup(const StagedGroup&) = delete;
  StagedGroup& operator=(const StagedGroup&) = delete;

  std::string_view name() const override { return inner_->name(); }

  std::shared_ptr<Memory> allocate(size_t bytes, Device device) override {
    std::shared_ptr<Memory> host;
    std::exception_ptr failure;
    const auto allocate_on_host = [&, label = current_label()] {
      try {
        const LabelScope scope(*inner_, label);
        host = inner_->allocate(bytes, Device{});
      } catch (...) {
        failure = std::current_exception();
      }
    };
    queue_.launch(allocate_on_host, Launch::kBlocking);
    if (failure) std::rethrow_exception(failure);
    if (device.is_cpu()) return host;
    auto memory = std::make_shared<StagedMemory>(registry_, std::move(host), bytes, device);
    if (bytes > 0) registry_->add(memory->data(), memory);
    return memory;
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
    const std::lock_guard lock(inner_mutex_);
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
    forbid_in_capture("a collective",
                      "it passes through the host. Capture a step of one rank, "
                      "without DataParallel");
    if (c.in.device.is_cpu()) {
      return queue_.launch([this, c] { run_on_host(c); }, launch);
    }
    auto staged = std::make_shared<Staged>(*transfers_of(c.in.device), c);
    staged->on_host.in.device = staged->on_host.out.device = Device{};
    staged->in = registry_->find(c.in);
    staged->out = registry_->find(c.out);
    if (staged->in && staged->out) {
      staged->on_host.in.data = staged->in->on_host(c.in.data);
      staged->on_host.out.data = staged->out->on_host(c.out.data);
    } else {
      staged->in = staged->out = nullptr;
      stage(c, *staged);
    }
    send(c, *staged);
    Work queued = queue_.launch([this, staged, target = c.out] { run(staged, target); }, launch);
    Work work(std::make_shared<StagedWork>(std::move(queued), std::move(staged), c.out));
    if (launch == Launch::kBlocking) work.wait();
    return work;
  }

  // Memory of the call's own for both buffers, which may be one, or one a part of the other.
  static void stage(const Collective& c, Staged& staged) {
    const auto begin_of = [](const Buffer& b) { return static_cast<const std::byte*>(b.data); };
    const Buffer& larger = c.in.bytes() > c.out.bytes() ? c.in : c.out;
    const Buffer& smaller = c.in.bytes() > c.out.bytes() ? c.out : c.in;
    const std::byte* const begin = begin_of(larger);
    const bool inside =
        begin_of(smaller) >= begin && begin_of(smaller) + smaller.bytes() <= begin + larger.bytes();
    const size_t offset = inside ? static_cast<size_t>(begin_of(smaller) - begin) : larger.bytes();
    staged.staging = std::make_unique<PinnedMemory>(
        staged.transfers, larger.bytes() + (inside ? 0 : smaller.bytes()));
    auto* const of_larger = static_cast<std::byte*>(staged.staging->data());
    std::byte* const of_smaller = of_larger + (of_larger == nullptr ? 0 : offset);
    staged.on_host.in.data = &larger == &c.in ? of_larger : of_smaller;
    staged.on_host.out.data = &larger == &c.in ? of_smaller : of_larger;
  }

  void send(const Collective& c, Staged& staged) const {
    Transfers& transfers = staged.transfers;
    const Lane lane = staged.in ? Lane::kCopies : Lane::kCompute;
    const bool sends = c.kind != CollectiveKind::kBroadcast || c.root == rank();
    if (staged.in) transfers.wait_for(transfers.record_event(Lane::kCompute), lane);
    if (sends) {
      transfers.copy_to_pinned(staged.on_host.in.data, c.in.data, c.in.bytes(), lane);
    }
    // What only receives waits, too: the last result may still be on its way from the same place of
    // the host.
    if (sends || staged.in) staged.sent = transfers.record_event(lane);
  }

  // In the queue.
  void run(const std::shared_ptr<Staged>& staged, const Buffer& target) {
    Transfers& transfers = staged->transfers;
    if (staged->sent) {
      const SyncAllowed allowed;
      staged->sent->wait_on_host();
    }
    staged->ready = std::chrono::steady_clock::now();
    try {
      run_on_host(staged->on_host);
    } catch (...) {
      failed_.push_back(staged);
      throw;
    }
    if (!staged->out) return;
    transfers.copy_from_pinned(target.data, staged->on_host.out.data, target.bytes(),
                               Lane::kCopies);
    staged->received = transfers.record_event(Lane::kCopies);
  }

  // A blocking call that found the queue empty is in the caller's thread.
  void run_on_host(const Collective& c) {
    if (!WorkQueue::on_communication_thread()) {
      const LabelScope label(*inner_, c.label);
      forward(c, Launch::kBlocking).wait();
      return;
    }
    Work work;
    {
      const std::lock_guard lock(inner_mutex_);
      const LabelScope label(*inner_, c.label);
      work = forward(c, Launch::kAsync);
    }
    work.wait();
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

  // Of collectives that failed: a peer's message may still arrive there while the inner group
  // lives.
  std::vector<std::shared_ptr<Staged>> failed_;
  const std::shared_ptr<ProcessGroup> inner_;
  std::mutex inner_mutex_;  // its label and activity, when the queue's thread is at work
  const std::shared_ptr<Registry> registry_ = std::make_shared<Registry>();
  WorkQueue queue_;  // issues all of the inner group's collectives
};

}  // namespace

std::shared_ptr<ProcessGroup> make_staged_group(std::shared_ptr<ProcessGroup> inner) {
  return std::make_shared<StagedGroup>(std::move(inner));
}

}  // namespace lockstep::distributed
