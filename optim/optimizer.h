#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "lockstep/engine/backend.h"
#include "lockstep/engine/tensor/tensor.h"

namespace lockstep::optim {

// Base of all optimizers: updates parameters from their gradients. Parameters whose grad() is
// undefined are skipped and keep their state, as in PyTorch.
class Optimizer {
 public:
  virtual ~Optimizer() = default;
  Optimizer(const Optimizer&) = delete;
  Optimizer& operator=(const Optimizer&) = delete;

  virtual void step() = 0;
  // Forgets all gradients; grad() becomes undefined, no memory is touched.
  void zero_grad();
  const std::vector<Tensor>& parameters() const { return parameters_; }

  // What a schedule may change of each parameter group, in place; until the groups change.
  struct Rates {
    double* lr;
    double* momentum;  // SGD's and RMSprop's, Adam's beta1; null where there is none
  };
  virtual std::vector<Rates> rates() = 0;

 protected:
  Optimizer() = default;
  // Throws ValueError on an empty list, a repeated parameter or one that is not a leaf.
  void add_parameters(const std::vector<Tensor>& parameters);

  // An optimizer's memory of one parameter.
  struct State {
    int64_t steps = 0;
    Tensor buffers[3];
  };
  // What a kernel needs for one parameter; its first `buffers` state tensors are made (zeros) when
  // missing.
  OptimizerSegment segment(const Tensor& parameter, State& state, int buffers);

 private:
  friend class Schedule;
  std::vector<Tensor> parameters_;
  std::vector<double> initial_lrs_;  // each group's before the first schedule; empty without any
};

// Parameters that share hyperparameters. Options may be changed between steps, by a schedule say.
template <typename Options>
struct ParamGroup {
  std::vector<Tensor> parameters;
  Options options;
};

}  // namespace lockstep::optim
