#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "lockstep/distributed/process_group.h"
#include "lockstep/engine/tensor/tensor.h"

namespace lockstep::distributed {

struct PeriodicAveragerOptions {
  int64_t period = 4;        // steps between averages
  int64_t warmup_steps = 0;  // first steps that are followed by one each
};

// Local SGD: every rank trains its replica by itself, and now and then the replicas become their
// mean. Communication happens once in `period` steps instead of in each.
//
//   PeriodicAverager averager(net.parameters(), job.group(), {.period = 4, .warmup_steps = 100});
//   for (auto& step : job.steps(images)) {
//     adam.zero_grad();
//     nn::cross_entropy(net.forward(step.micros[0].x), step.micros[0].y).backward();
//     adam.step();
//     averager.step();
//   }
//   averager.average();  // before the replicas are evaluated or saved
//
// Post-local SGD, with gradients reduced by a DataParallel in the beginning: no warm-up here, and
// step() from the step on that no longer reduces. The optimizer's state is not averaged. Neither
// are buffers, unless they are among the tensors given.
//
// Means are sums in rank order, in float32 at least, divided by the number of ranks: all ranks end
// with the same bits.
class PeriodicAverager {
 public:
  // Collective: verifies that the parameters are the same ones on every rank, and gives all ranks
  // rank 0's values. Throws ValueError unless they are floating point, the period is at least 1 and
  // warmup_steps at least 0.
  PeriodicAverager(const std::vector<Tensor>& parameters, std::shared_ptr<ProcessGroup> group,
                   PeriodicAveragerOptions options = {});
  PeriodicAverager(const NamedTensors& parameters, std::shared_ptr<ProcessGroup> group,
                   PeriodicAveragerOptions options = {});

  // After the optimizer's step, on every rank. True if the parameters have been averaged.
  bool step();
  // Collective: now.
  void average();

  int64_t steps() const { return steps_; }

 private:
  // Parameters that travel together.
  struct Run {
    std::vector<Tensor> parameters, places;  // places in the group's memory
    Buffer buffer;
  };

  Work send(const Run& run, bool from_root);
  void exchange(bool from_root);

  std::shared_ptr<ProcessGroup> group_;
  const PeriodicAveragerOptions options_;
  std::vector<Run> runs_;
  int64_t steps_ = 0;
};

}  // namespace lockstep::distributed
