#pragma once

#include "lockstep/optim/optimizer.h"

namespace lockstep::optim {

struct AdagradOptions {
  double lr = 1e-2;
  double lr_decay = 0.0;
  double weight_decay = 0.0;
  double initial_accumulator_value = 0.0;
  double eps = 1e-10;
  bool maximize = false;
};

// Adagrad as PyTorch's (Duchi, Hazan, Singer: "Adaptive subgradient methods for online learning and
// stochastic optimization", JMLR 2011), with t the number of this parameter's updates:
//   g += weight_decay p;  s += g^2;  p -= lr / (1 + (t - 1) lr_decay) g / (sqrt(s) + eps).
class Adagrad : public Optimizer {
 public:
  using Options = AdagradOptions;
  explicit Adagrad(std::vector<Tensor> parameters, Options options = {});
  explicit Adagrad(std::vector<ParamGroup<Options>> groups);
  void step() override;
  std::vector<Rates> rates() override;
  std::vector<ParameterState> states() const override;
  std::vector<ParamGroup<Options>>& groups() { return groups_; }

 private:
  std::vector<std::vector<State>>* memory() override { return &states_; }

  std::vector<ParamGroup<Options>> groups_;
  std::vector<std::vector<State>> states_;  // as groups_: s
};

}  // namespace lockstep::optim
