// Ranks that run out of data before the others.
#include <algorithm>
#include <exception>

#include "lockstep/distributed/data_parallel.h"
#include "lockstep/distributed/layer_exchange.h"
#include "lockstep/engine/autograd/node.h"
#include "lockstep/engine/capture.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::distributed {

// A rank that has joined goes through the same reductions as the others, with no gradients and a
// flag that says so in the last bucket's trailer (step_trailer.h). From it every rank knows who is
// still there: what to average over, whose buffers count, and when it is over.
void DataParallel::join(const std::function<void()>& follow) {
  check<Error>(!plan_,
               "[data_parallel] join() in reduction mode bitwise, where every rank has its virtual "
               "shards in each step; use job.steps(), or mode repeatable");
  check_not_joined("join()");
  check<Error>(accumulation_ == nullptr && !no_sync_,
               "[data_parallel] join() inside {}; a rank joins between two steps",
               no_sync_ ? "no_sync()" : "accumulate()");
  forbid_in_capture("DataParallel::join()", "join after the last replay");
  check_reduced("join()");
  check<Error>(follow || optimizers_.empty(),
               "[data_parallel] join() without a function to follow the others' optimizers, whose "
               "state is watched and would differ: join([&] {{ optimizer.step(); }})");
  check<Error>(follow || !options_.shard_gradients,
               "[data_parallel] join() without a function to follow the others' sharded optimizer, "
               "which needs this rank for its part: join([&] {{ optimizer.step(); }})");
  check<Error>(
      LayerExchange::find(*group_) == nullptr,
      "[data_parallel] join() of a rank whose model has layers that exchange statistics, "
      "such as SyncBatchNorm: it has no batch for them. Use nn::BatchNorm, or give all ranks "
      "equally many micro-batches");
  struct Scope {
    explicit Scope(bool& here) : joined(here) { joined = true; }
    ~Scope() { joined = false; }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;
    bool& joined;
  };
  int64_t missed_steps = 0;
  {
    const Scope scope(joined_);
    forget_losses();
    step_index_ = kNoStep;
    for (;;) {
      reducer_->discard();
      reducer_->begin_pass(0);
      reducer_->begin();
      std::exception_ptr failure;
      try {
        reducer_->check_parameters();
      } catch (...) {
        failure = std::current_exception();
      }
      if (finish(failure)) break;
      if (follow) {
        follow();
      } else {
        ++missed_steps;
      }
    }
  }
  end_join(missed_steps);
}

// All ranks have joined. Those that have missed no step are alike.
void DataParallel::end_join(int64_t missed_steps) {
  reducer_->discard();
  if (group_->size() == 1) return;
  std::vector<int64_t> missed(static_cast<size_t>(group_->size()));
  {
    const ProcessGroup::LabelScope label(*group_, Label("join"));
    group_
        ->all_gather({missed.data(), group_->size(), DType::kInt64, {}},
                     {&missed_steps, 1, DType::kInt64, {}})
        .wait();
  }
  const auto root = static_cast<int>(std::find(missed.begin(), missed.end(), 0) - missed.begin());
  if (std::any_of(missed.begin(), missed.end(), [](int64_t steps) { return steps > 0; })) {
    // Parameters in no bucket have been frozen all the time.
    for (const Bucket* bucket : reducer_->buckets()) {
      const ProcessGroup::LabelScope label(*group_, bucket->label());
      group_->broadcast(bucket->parameter_buffer(), root).wait();
      for (const auto& entry : bucket->entries()) autograd::bump_version(entry.parameter);
    }
  }
  synchronize_buffers(root);
}

void DataParallel::check_not_joined(const char* function) const {
  check<Error>(!joined_,
               "[data_parallel] {} in the function that join() calls; it is to do what "
               "follows a backward, the optimizer's step, and nothing else",
               function);
}

}  // namespace lockstep::distributed
