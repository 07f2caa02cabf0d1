#pragma once

#include "lockstep/optim/optimizer.h"

namespace lockstep::optim {

struct AdamOptions {
  double lr = 1e-3;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0.0;
  bool amsgrad = false;
  bool maximize = false;
};

// Adam as PyTorch's (Kingma, Ba: "Adam: a method for stochastic optimization", ICLR 2015), with t
// the number of this parameter's updates:
//   g += weight_decay p;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;
//   p -= lr / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + eps).
// amsgrad uses the largest v so far.
class Adam : public Optimizer {
 public:
  using Options = AdamOptions;
  explicit Adam(std::vector<Tensor> parameters, Options options = {});
  explicit Adam(std::vector<ParamGroup<Options>> groups);
  void step() override;
  std::vector<Rates> rates() override;
  std::vector<ParameterState> states() const override;
  std::vector<ParamGroup<Options>>& groups() { return groups_; }

 protected:
  Adam(std::vector<ParamGroup<Options>> groups, bool decoupled_weight_decay);

 private:
  std::vector<std::vector<State>>* memory() override { return &states_; }
  AdamArgs args(size_t group, int64_t steps) const;  // of now

  std::vector<ParamGroup<Options>> groups_;
  std::vector<std::vector<State>> states_;  // as groups_: exp_avg, exp_avg_sq, its maximum
  bool decoupled_weight_decay_;
};

struct AdamWOptions {
  double lr = 1e-3;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 1e-2;
  bool amsgrad = false;
  bool maximize = false;
};

// Adam with decoupled weight decay (Loshchilov, Hutter: "Decoupled weight decay regularization",
// ICLR 2019): p *= 1 - lr weight_decay first, and nothing is added to g.
class AdamW : public Adam {
 public:
  using Options = AdamWOptions;
  explicit AdamW(std::vector<Tensor> parameters, Options options = {});
  explicit AdamW(const std::vector<ParamGroup<Options>>& groups);
};

}  // namespace lockstep::optim
