#pragma once

#include "lockstep/optim/optimizer.h"

namespace lockstep::optim {

struct SgdOptions {
  double lr = 1e-3;
  double momentum = 0.0;
  double dampening = 0.0;
  double weight_decay = 0.0;
  bool nesterov = false;
  bool maximize = false;
};

// Stochastic gradient descent as PyTorch's:
//   g += weight_decay p;  b = g at first, later momentum b + (1 - dampening) g;
//   g = g + momentum b with nesterov, else b;  p -= lr g.
class SGD : public Optimizer {
 public:
  using Options = SgdOptions;
  explicit SGD(std::vector<Tensor> parameters, Options options = {});
  explicit SGD(std::vector<ParamGroup<Options>> groups);
  void step() override;
  std::vector<Rates> rates() override;
  std::vector<ParameterState> states() const override;
  std::vector<ParamGroup<Options>>& groups() { return groups_; }

 private:
  std::vector<std::vector<State>>* memory() override { return &states_; }
  SgdArgs args(size_t group) const;  // of now

  std::vector<ParamGroup<Options>> groups_;
  std::vector<std::vector<State>> states_;  // as groups_
};

}  // namespace lockstep::optim
