#include "lockstep/distributed/work_queue.h"

#include <atomic>
#include <exception>
#include <optional>

#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lockstep/distributed/quiet_thread.h"
#include "lockstep/engine/tensor/error.h"

namespace lockstep::distributed {
namespace {

thread_local bool t_on_communication_thread = false;

int64_t nanoseconds(std::chrono::steady_clock::time_point time) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count();
}

// The kernel's sched_attr: its header cannot be included beside <sched.h>.
struct SchedulingAttributes {
  uint32_t size = sizeof(SchedulingAttributes);
  uint32_t policy = 0;
  uint64_t flags = 0;
  int32_t nice = 0;
  uint32_t priority = 0;
  uint64_t runtime = 0, deadline = 0, period = 0;  // nanoseconds
};

// The communication thread computes little, but a link stands still until it has been there. Where
// all cores compute, Linux (6.12 and later) lets a thread with short slices run as soon as it wakes
// up. Others keep their scheduling.
void ask_for_short_slices() {
  SchedulingAttributes attributes;
  if (syscall(SYS_sched_getattr, 0, &attributes, sizeof(attributes), 0) != 0 ||
      attributes.policy != SCHED_OTHER) {
    return;
  }
  attributes.runtime = 100'000;
  syscall(SYS_sched_setattr, 0, &attributes, 0);
}

}  // namespace

class WorkQueue::Item final : public Work::State {
 public:
  Item(std::function<void()> run, FlightRecorder::Slot* slot) : run_(std::move(run)), slot_(slot) {
    times_.launched = std::chrono::steady_clock::now();
    if (slot_) slot_->launched(nanoseconds(times_.launched));
  }

  bool is_completed() const override { return completed_.load(std::memory_order_acquire); }

  void wait() override {
    if (!is_completed()) {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return is_completed(); });
    }
    if (error_) throw DistributedError(*error_);
  }

  Work::Times times() const override { return is_completed() ? times_ : Work::Times{}; }

  void execute() noexcept {
    times_.started = std::chrono::steady_clock::now();
    if (slot_) slot_->started(nanoseconds(times_.started));
    try {
      run_();
    } catch (const std::exception& error) {
      error_ = error.what();
    } catch (...) {
      error_ = "an unknown exception";
    }
    run_ = nullptr;
    times_.finished = std::chrono::steady_clock::now();
    if (slot_) slot_->finished(nanoseconds(times_.finished), !error_);
    const std::lock_guard lock(mutex_);
    completed_.store(true, std::memory_order_release);
    changed_.notify_all();
  }

 private:
  std::function<void()> run_;
  FlightRecorder::Slot* const slot_;
  Work::Times times_;
  std::optional<std::string> error_;  // a text: an exception object would be shared by threads
  std::atomic<bool> completed_ = false;
  std::mutex mutex_;
  std::condition_variable changed_;
};

Work WorkQueue::launch(std::function<void()> run, Launch how, FlightRecorder::Slot* slot) {
  auto item = std::make_shared<Item>(std::move(run), slot);
  std::unique_lock lock(mutex_);
  if (how == Launch::kBlocking && items_.empty() && !running_) {
    running_ = true;
    lock.unlock();
    item->execute();
    lock.lock();
    running_ = false;
    const bool more = !items_.empty();
    lock.unlock();
    if (more) changed_.notify_all();
  } else {
    items_.push_back(item);
    if (!thread_.joinable()) {
      try {
        thread_ = start_quiet_thread([this] { run_thread(); });
      } catch (...) {
        items_.pop_back();
        throw;
      }
    }
    lock.unlock();
    changed_.notify_all();
  }
  Work work(item);
  if (how == Launch::kBlocking) work.wait();
  return work;
}

void WorkQueue::run_thread() {
  t_on_communication_thread = true;
  pthread_setname_np(pthread_self(), thread_name_.substr(0, 15).c_str());
  ask_for_short_slices();
  prctl(PR_SET_TIMERSLACK, 1000);  // nanoseconds; the default turns a sleep of 50 us into 106
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return !running_ && (closed_ || !items_.empty()); });
    if (items_.empty()) return;
    const auto item = std::move(items_.front());
    items_.pop_front();
    running_ = true;
    lock.unlock();
    item->execute();
    lock.lock();
    running_ = false;
  }
}

bool WorkQueue::is_idle() {
  const std::lock_guard lock(mutex_);
  return items_.empty() && !running_;
}

bool WorkQueue::on_communication_thread() { return t_on_communication_thread; }

void WorkQueue::drain_and_join() {
  std::unique_lock lock(mutex_);
  closed_ = true;
  lock.unlock();
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

}  // namespace lockstep::distributed
