#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <iterator>
#include <memory>
#include <string>

#include "lockstep/data/dataset.h"
#include "lockstep/data/step.h"
#include "lockstep/distributed/bucket_reduction.h"
#include "lockstep/distributed/process_group.h"
#include "lockstep/distributed/reduction_mode.h"
#include "lockstep/engine/tensor/device.h"
#include "lockstep/launch/options.h"
#include "lockstep/launch/report.h"

namespace lockstep::launch {

class GraphedStep;
class Job;

// The training steps of a job, for one range-based for. Destroying it (a break or an exception in
// the loop's body) stops the prefetching; a step whose body was left by break is not counted.
class Steps {
 public:
  class Iterator {
   public:
    using iterator_category = std::input_iterator_tag;
    using value_type = data::Step;
    using difference_type = std::ptrdiff_t;
    using pointer = data::Step*;
    using reference = data::Step&;

    data::Step& operator*() const { return steps_->current(); }
    data::Step* operator->() const { return &steps_->current(); }
    Iterator& operator++() {
      steps_->advance();
      return *this;
    }
    void operator++(int) { steps_->advance(); }
    bool operator==(std::default_sentinel_t) const { return steps_->done(); }

   private:
    friend class Steps;
    explicit Iterator(Steps* steps) : steps_(steps) {}
    Steps* steps_;
  };

  ~Steps();
  Steps(const Steps&) = delete;
  Steps& operator=(const Steps&) = delete;

  int64_t size() const;  // optimizer steps in all
  Iterator begin();      // once
  std::default_sentinel_t end() const { return {}; }

 private:
  friend class Job;
  struct State;
  explicit Steps(std::unique_ptr<State> state);
  data::Step& current();
  void advance();
  bool done() const;

  std::unique_ptr<State> state_;
};

// One rank of a training job: what it was told and how it reports. launch::run makes it.
class Job {
 public:
  Job(CommandLine line, std::shared_ptr<distributed::ProcessGroup> group);
  ~Job();
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;

  const Options& options() const;
  std::filesystem::path data_dir() const;  // --data, else $LOCKSTEP_DATA, else the distribution's
  Device device() const;
  distributed::ReductionChoice reduction() const;
  distributed::MakeReduction compression() const;  // --compression, for DataParallelOptions
  DType precision() const;                         // --precision, likewise
  const std::shared_ptr<distributed::ProcessGroup>& group() const;
  int rank() const { return group()->rank(); }
  int world_size() const { return group()->size(); }

  // This rank's share of every training step over `dataset`, which must outlive the range:
  // --epochs passes or --max-steps steps, assembled ahead by a thread, with progress shown and the
  // steps' reports collected. With --reduction bitwise the micro-batches are the virtual shards and
  // --accumulate has no effect. Once per job. Throws ValueError if the global batch cannot be cut
  // into world size x accumulate micro-batches or is larger than the dataset.
  Steps steps(const data::Dataset& dataset);
  Steps steps(const data::Dataset&&) = delete;

  // The fraction of samples whose largest logit is that of their label; goes into the report as
  // test_accuracy. Every rank calls it and gets the same result; each computes a contiguous share,
  // no sample counts twice. `logits` maps a batch to (B, classes), floating point, and is called
  // without gradients being recorded, under autocast if --precision says so; putting modules into
  // eval mode is the caller's task.
  using Logits = std::function<Tensor(const data::Batch&)>;
  double evaluate(const data::Dataset& dataset, const Logits& logits, int64_t batch_size = 256);

  // The mean of a loss over the samples, which goes into the report as validation_loss; called
  // several times, the last one does. Collective and cut into shares as evaluate() is. `loss` maps
  // a batch to the mean over its samples, a tensor of one element.
  using Loss = std::function<Tensor(const data::Batch&)>;
  double evaluate_loss(const data::Dataset& dataset, const Loss& loss, int64_t batch_size = 256);

  // Adds to the weights whose hash the report carries; needed only for those that no DataParallel
  // trains, which does it by itself. Parameters first, then buffers, in registration order. Of
  // several models the hash takes one after the other, in the order in which they were tracked or
  // took part in a step first.
  void track(NamedTensors weights);

  // Everything the report says, reduced over the ranks; collective, after the training. Throws
  // DistributedError, naming the ranks, if the ranks' weights are not identical.
  Report finish();

  // What --trace asks for (trace.h); collective, after the training. Without the flag nothing
  // happens.
  void write_trace();

 private:
  friend class GraphedStep;
  friend struct Steps::State;
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace lockstep::launch
