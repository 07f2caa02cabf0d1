#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lockstep/distributed/activity.h"
#include "lockstep/distributed/label.h"
#include "lockstep/engine/tensor/device.h"
#include "lockstep/engine/tensor/dtype.h"

namespace lockstep::distributed {

enum class ReduceOp : uint8_t { kSum, kMin, kMax };

// A typed run of contiguous elements. Process groups know memory, not tensors.
struct Buffer {
  void* data = nullptr;
  int64_t count = 0;  // elements, not bytes
  DType dtype = DType::kFloat32;
  Device device{};

  size_t bytes() const { return static_cast<size_t>(count) * size_of(dtype); }
};

// Handle of a collective that may still be under way. Cheap to copy; dropping it cancels nothing.
// On a GPU, wait() orders the caller's stream behind the collective instead of blocking the host.
class Work {
 public:
  // Steady clock, valid once completed: the call, the start on this rank, the end on this rank.
  struct Times {
    std::chrono::steady_clock::time_point launched, started, finished;
  };
  class State {  // one per collective; implemented by each group
   public:
    virtual ~State() = default;
    virtual bool is_completed() const = 0;
    virtual void wait() = 0;  // throws DistributedError if the collective failed
    virtual Times times() const = 0;
  };

  Work() = default;  // an already completed one
  explicit Work(std::shared_ptr<State> state) : state_(std::move(state)) {}
  bool is_completed() const { return !state_ || state_->is_completed(); }
  void wait() {
    if (state_) state_->wait();
  }
  Times times() const { return state_ ? state_->times() : Times{}; }

 private:
  std::shared_ptr<State> state_;
};

// Memory that a group can communicate from without a copy (shared between the ranks of a node,
// registered with NCCL, ...). Allocating is collective: every rank of the group asks for the same
// number of bytes in the same order. Zero-filled. The memory lives as long as the handle, which may
// outlive the group.
class Memory {
 public:
  virtual ~Memory() = default;
  virtual void* data() const = 0;
  virtual size_t bytes() const = 0;
};

// Whether a call may return before its collective is complete. A blocking call saves the hand-over
// to the communication thread (about 10 us) when nothing else is queued; its Work is completed.
enum class Launch : uint8_t { kAsync, kBlocking };

class CanonicalPlan;  // canonical_sum.h

struct Collective;     // collective.h: one checked call, as the implementations see it
class FlightRecorder;  // flight_recorder.h: the last collectives
class LayerExchange;   // layer_exchange.h: what layers of a model send

// A fixed set of ranks and the collectives among them.
//
// Every rank issues the same collectives in the same order with the same counts and dtypes; they
// start in that order. The buffers must stay alive and untouched until the work has been waited
// for. All ranks receive identical bits from one call. Arguments that cannot be right on any rank
// (a root outside the group, counts that do not divide) throw ValueError before anything is sent.
// All functions throw DistributedError, naming the rank, if a peer failed or abort() was called;
// after that the group can only be destroyed. Destroying a group completes what is still queued,
// except while an exception unwinds: then it aborts.
//
// Calls that do not match end the group with an error on every rank that says which rank called
// what, and so does a call that a rank does not come to within the timeout.
//
// One thread of a rank uses a group at a time; groups are independent of each other. abort() may be
// called from any thread.
class ProcessGroup {
 public:
  virtual ~ProcessGroup();
  ProcessGroup(const ProcessGroup&) = delete;
  ProcessGroup& operator=(const ProcessGroup&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  virtual std::string_view name() const = 0;  // "mpi", "nccl", "threads", "single"

  virtual std::shared_ptr<Memory> allocate(size_t bytes, Device device) = 0;

  // In place: every rank ends with the reduction over all ranks, combined in rank order. 16-bit
  // floats are combined in float32 and rounded once; where they pass from node to node, once more
  // for each node, so that 16 bits travel. Integers wrap; min and max keep a NaN.
  Work all_reduce(Buffer buffer, ReduceOp op = ReduceOp::kSum, Launch launch = Launch::kAsync);
  Work broadcast(Buffer buffer, int root, Launch launch = Launch::kAsync);
  // in.count == size() * out.count; rank r receives the reduced r-th part. out may be that part of
  // in.
  Work reduce_scatter(Buffer out, Buffer in, ReduceOp op = ReduceOp::kSum,
                      Launch launch = Launch::kAsync);
  // out.count == size() * in.count; in may be this rank's part of out.
  Work all_gather(Buffer out, Buffer in, Launch launch = Launch::kAsync);
  // Both counts equal and divisible by size(): part r goes to rank r. Not in place.
  Work all_to_all(Buffer out, Buffer in, Launch launch = Launch::kAsync);
  // The sum over a plan's leaves, the same bits for any number of ranks. `slots` are the plan's
  // slots, of equal length, float32 or float64, one behind the other in memory of this group and at
  // the same place of it on every rank; they hold this rank's pieces where the plan says. Slot 0
  // ends with the sum on every rank, the others with anything.
  Work canonical_sum(Buffer slots, std::shared_ptr<const CanonicalPlan> plan,
                     Launch launch = Launch::kAsync);
  Work barrier(Launch launch = Launch::kAsync);

  // For groups that are built on this one: starts a call whose arguments have been checked, with a
  // label of its own. With Collective::then this group only makes the ranks meet, with all that
  // belongs to it (order, comparison, clock, record), and then each runs that, in the group's
  // communication thread or, blocking, in the caller's; what it throws ends the group.
  Work start(const Collective& collective, Launch launch = Launch::kAsync) {
    return issue(collective, launch);
  }

  // A group of the same ranks whose collectives start in an order of their own: those of one never
  // wait behind those of the other, and ranks may mix the two differently. Collective. It starts
  // with this group's timeout, follows its activity and later timeouts, and is aborted with it,
  // though not the other way round. Throws Error if there can be none.
  std::shared_ptr<ProcessGroup> duplicate();

  // Gives up: pending and later collectives on every rank that can still be reached throw
  // DistributedError with `reason`, prefixed by this rank. Does not throw and does not block for
  // longer than a few seconds. Idempotent.
  virtual void abort(const std::string& reason) noexcept = 0;

  // -- so that failures can be explained: see docs/diagnosis.md

  // While it lives, the collectives that this rank issues carry `label`. Ranks must agree on it, as
  // they must on counts and dtypes.
  class LabelScope {
   public:
    LabelScope(ProcessGroup& group, const Label& label) : group_(group), before_(group.label_) {
      group.label_ = label;
    }
    ~LabelScope() { group_.label_ = before_; }
    LabelScope(const LabelScope&) = delete;
    LabelScope& operator=(const LabelScope&) = delete;

   private:
    ProcessGroup& group_;
    const Label before_;
  };

  // Counts 1, 2, ... on every rank alike, if all call it in the same order: tells apart what has
  // the same name, as twin networks have.
  uint64_t next_tag() { return ++tags_; }

  // What this rank is doing from now on, and in which step (-1: none); a note for peers that miss
  // it, cheap. The step goes into the labels, too.
  virtual void set_activity(Phase phase, int64_t step);
  void set_activity(Phase phase) { set_activity(phase, step_); }  // in the same step
  // An activity for a while.
  class ActivityScope {
   public:
    ActivityScope(ProcessGroup& group, Phase phase) : group_(group), before_(group.phase_) {
      group.set_activity(phase);
    }
    ~ActivityScope() { group_.set_activity(before_); }
    ActivityScope(const ActivityScope&) = delete;
    ActivityScope& operator=(const ActivityScope&) = delete;

   private:
    ProcessGroup& group_;
    const Phase before_;
  };

  // How long a collective may stand still because a peer does not come to it; then it fails on
  // every rank. 0: for ever. The default is five minutes.
  static constexpr std::chrono::milliseconds kDefaultTimeout{300'000};
  virtual void set_timeout(std::chrono::milliseconds timeout);

  // Called once, in a thread of the group, a moment after the group has failed: for ranks whose
  // own thread will not notice, because it hangs. An empty handler takes the last one back, and so
  // does the group's end; both wait for a handler that is at work.
  using FailureHandler = std::function<void(const std::string& text)>;
  virtual void on_failure(const FailureHandler& handler);

  // The last 2,000 collectives of this rank as JSON, with `reason`. Any thread. Throws DataError.
  // A world of one keeps none and writes nothing.
  virtual void write_flight_record(const std::filesystem::path& file,
                                   const std::string& reason) const;

  // For a rank that has failed and reported it: waits until every peer has called this too or is
  // gone, so that a launcher that ends the job with its first rank cuts nobody short. False if
  // `timeout` came first; true at once where ranks are not processes. See mpi_runtime.h.
  virtual bool wait_for_peers_to_fail(std::chrono::milliseconds /*timeout*/) noexcept {
    return true;
  }

 protected:
  ProcessGroup(int rank, int size);

  // Starts a call whose arguments have been checked.
  virtual Work issue(const Collective& collective, Launch launch) = 0;

  virtual ActivityRecord* activity() { return nullptr; }  // where the peers can read it
  virtual const FlightRecorder* recorder() const { return nullptr; }
  Label current_label() const;

  virtual std::shared_ptr<ProcessGroup> make_duplicate();  // all ranks are there
  void abort_duplicates(const std::string& reason) noexcept;

 private:
  friend class LayerExchange;
  std::vector<std::shared_ptr<ProcessGroup>> duplicates();

  int rank_;
  int size_;
  Phase phase_ = Phase::kUnknown;
  int64_t step_ = -1;
  uint64_t tags_ = 0;
  Label label_;
  std::mutex mutex_;  // of the list
  std::vector<std::weak_ptr<ProcessGroup>> duplicates_;
  std::shared_ptr<LayerExchange> layers_;  // once a layer has asked for it
};

// A world of one: every collective is already complete.
std::shared_ptr<ProcessGroup> make_single_group();

}  // namespace lockstep::distributed
