#pragma once

#include <memory>
#include <vector>

#include "lockstep/distributed/canonical_sum.h"
#include "lockstep/distributed/process_group.h"
#include "lockstep/engine/tensor/tensor.h"

namespace lockstep::distributed {

// A model's buffers (running statistics) over virtual shards: as if one update had been applied
// once, with the mean of what the shards would have made of it.
//
// Every shard starts from the values at the step's start. What it leaves in a floating-point buffer
// is weighted by 1 / shards and enters the canonical sum, and that is the buffer after the step, on
// every rank. Integers (num_batches_tracked) take what shard 0 left.
class ShardBuffers {
 public:
  // Collective. `runs` are flat, one for each dtype; the model's buffers are views of their memory.
  ShardBuffers(std::shared_ptr<ProcessGroup> group, const std::vector<Tensor>& runs,
               std::shared_ptr<const CanonicalPlan> plan);

  void begin_step();
  void begin_shard(size_t pass);  // the pass-th of this rank
  void end_shard(size_t pass);
  void finish();   // collective, after the last shard
  void abandon();  // the values at the step's start

 private:
  struct Run {
    Tensor values;
    Tensor start;
    Tensor first;  // integers, rank 0: what shard 0 left
    std::shared_ptr<Memory> memory;
    std::vector<Tensor> slots;  // empty for integers
    int64_t stride = 0;
  };

  std::shared_ptr<ProcessGroup> group_;
  std::shared_ptr<const CanonicalPlan> plan_;
  std::vector<Run> runs_;
  bool started_ = false;
};

}  // namespace lockstep::distributed
