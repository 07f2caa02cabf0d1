#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "lockstep/data/step.h"
#include "lockstep/engine/cuda_graph.h"
#include "lockstep/launch/job.h"

namespace lockstep::launch {

// The body of a job's training loop, which --cuda-graph captures in a CUDA graph: after three steps
// as they are, all of a step is issued by one call, with the same bits.
//
//   launch::GraphedStep train_step(job, [&](data::Step& step) {
//     sgd.zero_grad();
//     for (auto& micro : replicas.accumulate(step)) {
//       replicas.backward(nn::mse_loss(line(micro.x), micro.y), micro.size());
//     }
//     sgd.step();
//   });
//   for (auto& step : job.steps(points)) {
//     train_step(step);
//     schedule.step();
//   }
//
// The body issues a step and does nothing else: it runs once more in the capture, and its code on
// the host not at all in the steps after that. What it uses must stay where it is. Steps of other
// shapes than the captured one's, a partial batch say, run as they are. So do all without
// --cuda-graph, on the CPU, with several ranks, and where the capture fails; the log says why.
class GraphedStep {
 public:
  GraphedStep(Job& job, std::function<void(data::Step&)> body);
  ~GraphedStep();
  GraphedStep(const GraphedStep&) = delete;
  GraphedStep& operator=(const GraphedStep&) = delete;

  // Throws what the body does, and what CUDAGraph::replay() does.
  void operator()(data::Step& step);
  // Captures the next step anew: for when what it uses has moved (a frozen layer, an optimizer's
  // loaded state).
  void reset();

  bool is_captured() const { return graph_ != nullptr; }

 private:
  void capture(const data::Step& step);
  bool fits(const data::Step& step) const;
  void replay(data::Step& step);

  const std::function<void(data::Step&)> body_;
  const Device device_;
  bool captures_;      // or everything runs as it is
  int64_t steps_ = 0;  // since the start, or reset()
  data::Step static_;  // the captured one
  std::unique_ptr<cuda::CUDAGraph> graph_;
};

}  // namespace lockstep::launch
