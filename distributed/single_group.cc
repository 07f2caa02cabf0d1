#include <cstdlib>
#include <cstring>
#include <mutex>

#include "lockstep/distributed/collective.h"
#include "lockstep/distributed/device_memory.h"
#include "lockstep/distributed/heap_memory.h"
#include "lockstep/distributed/process_group.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::distributed {
namespace {

class SingleGroup final : public ProcessGroup {
 public:
  SingleGroup() : ProcessGroup(0, 1) {}

  std::string_view name() const override { return "single"; }

  std::shared_ptr<Memory> allocate(size_t bytes, Device device) override {
    throw_if_aborted();
    if (!device.is_cpu()) return std::make_shared<DeviceMemory>(bytes, device);
    return std::make_shared<HeapMemory>(bytes);
  }

  void abort(const std::string& reason) noexcept override {
    const std::lock_guard lock(mutex_);
    if (!aborted_) reason_ = reason;
    aborted_ = true;
    abort_duplicates(reason);
  }

 private:
  std::shared_ptr<ProcessGroup> make_duplicate() override { return make_single_group(); }

  Work issue(const Collective& collective, Launch) override {
    throw_if_aborted();
    const auto now = std::chrono::steady_clock::now();
    if (collective.then) {
      collective.then(collective);
    } else {
      copy_in_to_out(collective);
    }
    return Work(std::make_shared<Done>(now));
  }

  // Already complete when it is made.
  class Done final : public Work::State {
   public:
    explicit Done(std::chrono::steady_clock::time_point launched)
        : times_{launched, launched, std::chrono::steady_clock::now()} {}
    bool is_completed() const override { return true; }
    void wait() override {}
    Work::Times times() const override { return times_; }

   private:
    Work::Times times_;
  };

  void throw_if_aborted() {
    const std::lock_guard lock(mutex_);
    check<DistributedError>(!aborted_, "[rank 0] aborted: {}", reason_);
  }

  std::mutex mutex_;
  bool aborted_ = false;
  std::string reason_;
};

}  // namespace

std::shared_ptr<ProcessGroup> make_single_group() { return std::make_shared<SingleGroup>(); }

}  // namespace lockstep::distributed
