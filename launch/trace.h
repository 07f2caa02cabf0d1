#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <string>
#include <vector>

#include "lockstep/data/step.h"
#include "lockstep/distributed/process_group.h"

namespace lockstep::launch {

// When what happened on one rank in the last steps of a job; what --trace writes.
class Trace {
 public:
  using Time = std::chrono::steady_clock::time_point;

  enum class Kind : int32_t {
    kData,       // the training waits for the next step's samples
    kStep,       // the loop's body
    kForward,    // of a micro-batch, up to the call of backward()
    kBackward,   // of a micro-batch, without the wait for the gradients
    kWait,       // for the gradients of all ranks: communication that nothing hides
    kOptimizer,  // from the gradients' arrival to the end of the body
    kEvaluate,
    kQueued,     // a bucket, handed over to the communication thread, waits for its turn
    kAllReduce,  // of a bucket
  };
  // As ranks send it to each other. Nanoseconds of the steady clock.
  struct Event {
    int64_t begin = 0, end = 0;
    int64_t step = -1;
    int64_t number = -1;  // of the micro-batch or the bucket
    int64_t bytes = 0;    // of a bucket
    Kind kind{};
    int32_t unused = 0;
  };

  // Keeps at most `steps` steps and `events` events; the oldest steps go first.
  explicit Trace(size_t steps = 1000, size_t events = 100'000)
      : most_steps_(steps), most_events_(events) {}

  // The step's body began at `begin`, after a wait for its data since `fetched`, and ended at
  // `end`.
  void add(const data::Step& step, Time fetched, Time begin, Time end);
  void add_evaluation(Time begin, Time end);

  int64_t steps_left_out() const { return left_out_; }
  // By begin; of two that begin together the longer one first.
  std::vector<Event> events() const;

 private:
  void append(std::vector<Event> events, bool is_step);

  struct Block {
    std::vector<Event> events;
    bool is_step = false;
  };
  size_t most_steps_, most_events_;
  std::deque<Block> blocks_;
  size_t steps_ = 0, events_ = 0;
  int64_t left_out_ = 0;
};

// How many events each of `world` ranks may keep, so that the file stays one that can be opened.
size_t trace_events_per_rank(int world);

// Throws Error, naming the path and the reason, if write_trace could not create the file.
void check_trace_path(const std::filesystem::path& path);

// Collective: rank 0 writes what all ranks have recorded as a trace in the format of Chrome's
// about:tracing, which Perfetto reads too. A rank is a process; its threads are "training" and
// "communication"; buckets in the queue are asynchronous events. The clocks of ranks on another
// machine than rank 0's are set by the moments at which barriers end, so they are right to about
// the time of a barrier. Written beside `path` and renamed. Throws Error.
void write_trace(const std::filesystem::path& path, const std::string& program,
                 distributed::ProcessGroup& group, const Trace& trace);

}  // namespace lockstep::launch
