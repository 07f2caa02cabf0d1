#pragma once

#include <functional>
#include <map>

#include "lockstep/optim/schedule.h"

namespace lockstep::optim {

// lr = initial lr * factor(step), by one function for all groups or one for each.
class LambdaLR final : public Schedule {
 public:
  using Factor = std::function<double(int64_t step)>;
  LambdaLR(Optimizer& optimizer, const Factor& factor);
  LambdaLR(Optimizer& optimizer, std::vector<Factor> factors);

 private:
  double next_lr(size_t group, double lr) override;
  std::vector<Factor> factors_;
};

// Multiplies by gamma every `step_size` steps.
class StepLR final : public Schedule {
 public:
  StepLR(Optimizer& optimizer, int64_t step_size, double gamma = 0.1);

 private:
  double next_lr(size_t group, double lr) override;
  int64_t step_size_;
  double gamma_;
};

// Multiplies by gamma at each milestone; one that is listed twice counts twice.
class MultiStepLR final : public Schedule {
 public:
  MultiStepLR(Optimizer& optimizer, const std::vector<int64_t>& milestones, double gamma = 0.1);

 private:
  double next_lr(size_t group, double lr) override;
  std::map<int64_t, int> milestones_;  // how often each is listed
  double gamma_;
};

// Multiplies by gamma at every step.
class ExponentialLR final : public Schedule {
 public:
  ExponentialLR(Optimizer& optimizer, double gamma);

 private:
  double next_lr(size_t group, double lr) override;
  double gamma_;
};

struct LinearLROptions {
  double start_factor = 1.0 / 3;
  double end_factor = 1.0;
  int64_t total_iters = 5;
};
// Linear warm-up: the factor goes from start_factor to end_factor over total_iters steps and stays
// there. A schedule constructed after it on the same optimizer starts from the warmed-up rate.
class LinearLR final : public Schedule {
 public:
  explicit LinearLR(Optimizer& optimizer, LinearLROptions options = {});

 private:
  double next_lr(size_t group, double lr) override;
  LinearLROptions options_;
};

}  // namespace lockstep::optim
