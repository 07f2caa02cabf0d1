#pragma once

#include "lockstep/optim/optimizer.h"

namespace lockstep::optim {

struct RmspropOptions {
  double lr = 1e-2;
  double alpha = 0.99;
  double eps = 1e-8;
  double weight_decay = 0.0;
  double momentum = 0.0;
  bool centered = false;
  bool maximize = false;
};

// RMSprop as PyTorch's (G. Hinton's lecture 6e; centered: Graves, "Generating sequences with
// recurrent neural networks", 2013):
//   g += weight_decay p;  v = alpha v + (1 - alpha) g^2;  d = sqrt(v) + eps,
//   centered: m = alpha m + (1 - alpha) g and d = sqrt(v - m^2) + eps;
//   p -= lr g / d, with momentum: b = momentum b + g / d and p -= lr b.
class RMSprop : public Optimizer {
 public:
  using Options = RmspropOptions;
  explicit RMSprop(std::vector<Tensor> parameters, Options options = {});
  explicit RMSprop(std::vector<ParamGroup<Options>> groups);
  void step() override;
  std::vector<Rates> rates() override;
  std::vector<ParameterState> states() const override;
  std::vector<ParamGroup<Options>>& groups() { return groups_; }

 private:
  std::vector<std::vector<State>>* memory() override { return &states_; }

  std::vector<ParamGroup<Options>> groups_;
  std::vector<std::vector<State>> states_;  // as groups_: v, m, b
};

}  // namespace lockstep::optim
