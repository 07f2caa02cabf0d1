#include "lockstep/optim/decay.h"

#include <cmath>

#include "lockstep/engine/tensor/check.h"

namespace lockstep::optim {

LambdaLR::LambdaLR(Optimizer& optimizer, const Factor& factor)
    : LambdaLR(optimizer, std::vector<Factor>(optimizer.rates().size(), factor)) {}

LambdaLR::LambdaLR(Optimizer& optimizer, std::vector<Factor> factors)
    : Schedule(optimizer), factors_(std::move(factors)) {
  const size_t groups = optimizer.rates().size();
  check(factors_.size() == groups, "Expected {} lr_lambdas, but got {}", groups, factors_.size());
  for (const auto& factor : factors_) check(static_cast<bool>(factor), "[LambdaLR] empty function");
  start();
}

double LambdaLR::next_lr(size_t group, double) {
  return base_lr(group) * factors_[group](last_epoch());
}

StepLR::StepLR(Optimizer& optimizer, int64_t step_size, double gamma)
    : Schedule(optimizer), step_size_(step_size), gamma_(gamma) {
  check(step_size > 0, "[StepLR] step_size must be positive, got {}", step_size);
  start();
}

double StepLR::next_lr(size_t, double lr) {
  return last_epoch() == 0 || last_epoch() % step_size_ != 0 ? lr : lr * gamma_;
}

MultiStepLR::MultiStepLR(Optimizer& optimizer, const std::vector<int64_t>& milestones, double gamma)
    : Schedule(optimizer), gamma_(gamma) {
  for (const int64_t milestone : milestones) ++milestones_[milestone];
  start();
}

double MultiStepLR::next_lr(size_t, double lr) {
  const auto found = milestones_.find(last_epoch());
  return found == milestones_.end() ? lr : lr * std::pow(gamma_, found->second);
}

ExponentialLR::ExponentialLR(Optimizer& optimizer, double gamma)
    : Schedule(optimizer), gamma_(gamma) {
  start();
}

double ExponentialLR::next_lr(size_t, double lr) { return last_epoch() == 0 ? lr : lr * gamma_; }

LinearLR::LinearLR(Optimizer& optimizer, LinearLROptions options)
    : Schedule(optimizer), options_(options) {
  check(options.start_factor > 0 && options.start_factor <= 1,
        "Starting multiplicative factor expected to be greater than 0 and less or equal to 1. "
        "(got {})",
        options.start_factor);
  check(options.end_factor >= 0 && options.end_factor <= 1,
        "Ending multiplicative factor expected to be between 0 and 1. (got {})",
        options.end_factor);
  check(options.total_iters > 0, "[LinearLR] total_iters must be positive, got {}",
        options.total_iters);
  start();
}

double LinearLR::next_lr(size_t, double lr) {
  const auto& [first, last, steps] = options_;
  if (last_epoch() == 0) return lr * first;
  if (last_epoch() > steps) return lr;
  return lr * (1.0 + (last - first) / (static_cast<double>(steps) * first +
                                       static_cast<double>(last_epoch() - 1) * (last - first)));
}

}  // namespace lockstep::optim
