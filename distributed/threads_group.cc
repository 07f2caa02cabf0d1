#include "lockstep/distributed/threads_group.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>

#include "lockstep/distributed/collective.h"
#include "lockstep/distributed/flight_recorder.h"
#include "lockstep/distributed/heap_memory.h"
#include "lockstep/distributed/late_ranks.h"
#include "lockstep/distributed/team.h"
#include "lockstep/distributed/ticker.h"
#include "lockstep/distributed/work_queue.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::distributed {
namespace {

// What the ranks of one world share.
class World {
 public:
  explicit World(int size)
      : calls_(static_cast<size_t>(size)),
        activities_(static_cast<size_t>(size)),
        arrivals_(static_cast<size_t>(size)),
        size_(size) {}

  struct Shown {
    Call call;
    std::byte* input = nullptr;
  };

  int size() const { return size_; }

  // Written by its rank before a barrier, read by all after it, until the next barrier.
  Shown& call(int rank) { return calls_[static_cast<size_t>(rank)]; }

  ActivityRecord& activity(int rank) { return activities_[static_cast<size_t>(rank)]; }

  // The ranks that have not come to where `rank` waits, if that takes longer than `timeout` (0: for
  // ever); then it has given up.
  std::vector<Sighting> arrive_and_wait(int rank, std::chrono::milliseconds timeout) {
    std::unique_lock lock(mutex_);
    throw_if_over(rank);
    ++arrivals_[static_cast<size_t>(rank)];
    if (++arrived_ == size_) {
      arrived_ = 0;
      ++generation_;
      changed_.notify_all();
      return {};
    }
    const uint64_t generation = generation_;
    const auto ended = [&] { return generation_ != generation || over(); };
    if (timeout.count() == 0) {
      changed_.wait(lock, ended);
    } else if (!changed_.wait_for(lock, timeout, ended)) {
      std::vector<Sighting> missing;
      for (int r = 0; r < size_; ++r) {
        if (arrivals_[static_cast<size_t>(r)] >= arrivals_[static_cast<size_t>(rank)]) continue;
        missing.push_back(look_at(activity(r), r));
      }
      return missing;
    }
    if (generation_ == generation) throw_if_over(rank);
    return {};
  }

  void abort(int rank, const std::string& reason) {
    const std::lock_guard lock(mutex_);
    if (!abort_text_) abort_text_ = fmt::format("[rank {}] aborted: {}", rank, reason);
    changed_.notify_all();
  }

  // The rank's group is gone: whoever waits for it waits in vain.
  void leave(int rank) {
    const std::lock_guard lock(mutex_);
    if (left_ < 0) left_ = rank;
    changed_.notify_all();
  }

  void throw_if_aborted() {
    const std::lock_guard lock(mutex_);
    if (abort_text_) throw DistributedError(*abort_text_);
  }

  std::optional<std::string> abort_text() {
    const std::lock_guard lock(mutex_);
    return abort_text_;
  }

  // Another world of the same ranks: each asks once, before any asks for a further one.
  std::shared_ptr<World> twin() {
    const std::lock_guard lock(mutex_);
    if (!twin_) twin_ = std::make_shared<World>(size_);
    if (++twins_taken_ < size_) return twin_;
    twins_taken_ = 0;
    return std::move(twin_);
  }

 private:
  bool over() const { return abort_text_ || left_ >= 0; }
  void throw_if_over(int rank) {
    if (abort_text_) throw DistributedError(*abort_text_);
    check<DistributedError>(
        left_ < 0, "[rank {}] rank {} destroyed its process group while this rank waits for it",
        rank, left_);
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Shown> calls_;
  std::vector<ActivityRecord> activities_;
  std::vector<uint64_t> arrivals_;  // how often each rank has arrived
  int arrived_ = 0;
  uint64_t generation_ = 0;
  std::optional<std::string> abort_text_;
  int left_ = -1;
  std::shared_ptr<World> twin_;
  int twins_taken_ = 0;
  const int size_;
};

class ThreadsTeam final : public Team {
 public:
  ThreadsTeam(std::shared_ptr<World> world, int rank, const FlightRecorder& recorder)
      : world_(std::move(world)), rank_(rank), recorder_(recorder) {}

  int index() const override { return rank_; }
  int size() const override { return world_->size(); }

  Reach meet(const Collective& collective) override {
    world_->throw_if_aborted();  // a peer may still be comparing the call that failed
    auto& mine = world_->call(rank_);
    mine = {call_of(collective), static_cast<std::byte*>(collective.in.data)};
    world_->activity(rank_).call.store(collective.sequence, std::memory_order_relaxed);
    barrier();
    bool same = true;
    for (int r = 0; r < size(); ++r) {
      same = same && world_->call(r).call.signature == mine.call.signature;
    }
    if (!same) {
      std::vector<Callers> all;
      for (int r = 0; r < size(); ++r) all.push_back({{r}, world_->call(r).call});
      fail_mismatch(rank_, all);
    }
    // Calls without data end here; the next call must not overwrite what a peer still compares.
    if (collective.in.count == 0 || collective.kind == CollectiveKind::kAllocate ||
        collective.then) {
      barrier();
    }
    return Reach::kDirect;
  }
  std::byte* input(int member) const override { return world_->call(member).input; }

  std::byte* staging(int) const override { return nullptr; }
  size_t staging_bytes() const override { return 0; }

  void barrier() override {
    const auto timeout = std::chrono::milliseconds(timeout_);
    const std::vector<Sighting> missing = world_->arrive_and_wait(rank_, timeout);
    if (missing.empty()) return;
    fail_late(rank_, world_->call(rank_).call, std::chrono::duration<double>(timeout).count(),
              missing, recorder_);
  }

  void set_timeout(std::chrono::milliseconds timeout) { timeout_ = timeout.count(); }
  std::chrono::milliseconds timeout() const { return std::chrono::milliseconds(timeout_); }

 private:
  std::shared_ptr<World> world_;
  int rank_;
  const FlightRecorder& recorder_;
  std::atomic<int64_t> timeout_ = ProcessGroup::kDefaultTimeout.count();
};

class ThreadsGroup final : public ProcessGroup {
 public:
  ThreadsGroup(const std::shared_ptr<World>& world, int rank)
      : ProcessGroup(rank, world->size()),
        world_(world),
        team_(world, rank, recorder_),
        queue_(fmt::format("ls-threads-{}", rank)) {}

  ~ThreadsGroup() override {
    ticker_.reset();
    if (std::uncaught_exceptions() > 0) abort("an exception destroyed the process group");
    queue_.drain_and_join();
    world_->leave(rank());
  }

  std::string_view name() const override { return "threads"; }

  std::shared_ptr<Memory> allocate(size_t bytes, Device device) override {
    check(device.is_cpu(), "[allocate] the threads group has no memory on {}", device.str());
    world_->throw_if_aborted();
    Buffer wanted;
    wanted.count = static_cast<int64_t>(bytes);
    wanted.dtype = DType::kUInt8;
    Collective call{CollectiveKind::kAllocate, wanted, wanted};
    call.label = current_label();
    run(call, Launch::kBlocking);
    return std::make_shared<HeapMemory>(bytes);
  }

  void abort(const std::string& reason) noexcept override {
    try {
      world_->abort(rank(), reason);
    } catch (...) {  // no memory for the text: nothing better is left to do
    }
    abort_duplicates(reason);
  }

  void set_timeout(std::chrono::milliseconds timeout) override {
    team_.set_timeout(timeout);
    ProcessGroup::set_timeout(timeout);
  }

  void on_failure(const FailureHandler& handler) override {
    ticker_.reset();
    if (!handler) return;
    ticker_ = std::make_unique<Ticker>(fmt::format("ls-watch-{}", rank()),
                                       std::chrono::milliseconds(50), [world = world_, handler] {
                                         const auto text = world->abort_text();
                                         if (text) handler(*text);
                                         return !text;
                                       });
  }

 private:
  ActivityRecord* activity() override { return &world_->activity(rank()); }
  const FlightRecorder* recorder() const override { return &recorder_; }

  std::shared_ptr<ProcessGroup> make_duplicate() override {
    auto copy = std::make_shared<ThreadsGroup>(world_->twin(), rank());
    copy->set_timeout(team_.timeout());
    return copy;
  }

  Work issue(const Collective& collective, Launch launch) override {
    check(collective.in.device.is_cpu() || collective.then,
          "[threads group] buffers must be on the CPU, not on {}", collective.in.device.str());
    world_->throw_if_aborted();
    Collective call = collective;
    return run(call, launch);
  }

  Work run(Collective& collective, Launch launch) {
    FlightRecorder::Slot& slot = recorder_.launch(collective);
    return queue_.launch(
        [this, collective] {
          try {
            if (collective.then) {
              team_.meet(collective);
              collective.then(collective);
            } else if (collective.kind == CollectiveKind::kAllocate) {
              team_.meet(collective);
            } else {
              run_in_team(team_, collective);
            }
          } catch (const std::exception& error) {
            world_->abort(rank(), error.what());
            throw;
          }
        },
        launch, &slot);
  }

  std::shared_ptr<World> world_;
  FlightRecorder recorder_;
  ThreadsTeam team_;
  WorkQueue queue_;
  std::unique_ptr<Ticker> ticker_;
};

}  // namespace

std::vector<std::shared_ptr<ProcessGroup>> make_threads_groups(int size) {
  check(size >= 1, "[threads group] {} ranks; at least one is needed", size);
  const auto world = std::make_shared<World>(size);
  std::vector<std::shared_ptr<ProcessGroup>> groups;
  for (int rank = 0; rank < size; ++rank) {
    groups.push_back(std::make_shared<ThreadsGroup>(world, rank));
  }
  return groups;
}

void run_thread_ranks(int size, const std::function<void(ProcessGroup&)>& train) {
  auto groups = make_threads_groups(size);
  std::mutex mutex;
  std::exception_ptr first;
  std::vector<std::thread> threads;
  for (auto& owned : groups) {
    // The thread alone owns its group, so that a rank that returns early is missed by the others.
    threads.emplace_back([&train, &mutex, &first, group = std::move(owned)] {
      try {
        train(*group);
      } catch (...) {
        const std::exception_ptr error = std::current_exception();
        {
          const std::lock_guard lock(mutex);
          if (!first) first = error;
        }
        try {
          std::rethrow_exception(error);
        } catch (const std::exception& e) {
          group->abort(e.what());
        } catch (...) {
          group->abort("an unknown exception");
        }
      }
    });
  }
  for (auto& thread : threads) thread.join();
  if (first) std::rethrow_exception(first);
}

}  // namespace lockstep::distributed
