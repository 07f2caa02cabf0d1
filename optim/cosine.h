#pragma once

#include "lockstep/optim/schedule.h"

namespace lockstep::optim {

// Half a cosine from the initial rate to eta_min in t_max steps, and back up in as many, and so on
// (Loshchilov, Hutter: "SGDR: stochastic gradient descent with warm restarts", ICLR 2017; without
// the restarts).
class CosineAnnealingLR final : public Schedule {
 public:
  CosineAnnealingLR(Optimizer& optimizer, int64_t t_max, double eta_min = 0.0);

 private:
  double next_lr(size_t group, double lr) override;
  int64_t t_max_;
  double eta_min_;
};

struct WarmRestartsOptions {
  int64_t t_mult = 1;
  double eta_min = 0.0;
};
// With the restarts: every half cosine starts from the initial rate; the first takes t_0 steps,
// each further one t_mult times the steps of the one before.
class CosineAnnealingWarmRestarts final : public Schedule {
 public:
  CosineAnnealingWarmRestarts(Optimizer& optimizer, int64_t t_0, WarmRestartsOptions options = {});

 private:
  double next_lr(size_t group, double lr) override;
  WarmRestartsOptions options_;
  int64_t period_;
  int64_t period_begin_ = 0;
};

}  // namespace lockstep::optim
