#include "lockstep/optim/cosine.h"

#include <cmath>
#include <numbers>

#include "lockstep/engine/tensor/check.h"

namespace lockstep::optim {

using std::numbers::pi;

CosineAnnealingLR::CosineAnnealingLR(Optimizer& optimizer, int64_t t_max, double eta_min)
    : Schedule(optimizer), t_max_(t_max), eta_min_(eta_min) {
  check(t_max > 0, "[CosineAnnealingLR] t_max must be positive, got {}", t_max);
  start();
}

double CosineAnnealingLR::next_lr(size_t group, double lr) {
  const auto t_max = static_cast<double>(t_max_), t = static_cast<double>(last_epoch());
  if (last_epoch() == 0) return lr;
  if ((last_epoch() - 1 - t_max_) % (2 * t_max_) == 0) {  // the factor below would be x / 0
    return lr + (base_lr(group) - eta_min_) * (1 - std::cos(pi / t_max)) / 2;
  }
  return (1 + std::cos(pi * t / t_max)) / (1 + std::cos(pi * (t - 1) / t_max)) * (lr - eta_min_) +
         eta_min_;
}

CosineAnnealingWarmRestarts::CosineAnnealingWarmRestarts(Optimizer& optimizer, int64_t t_0,
                                                         WarmRestartsOptions options)
    : Schedule(optimizer), options_(options), period_(t_0) {
  check(t_0 > 0, "Expected positive integer T_0, but got {}", t_0);
  check(options.t_mult >= 1, "Expected integer T_mult >= 1, but got {}", options.t_mult);
  start();
}

double CosineAnnealingWarmRestarts::next_lr(size_t group, double) {
  while (last_epoch() - period_begin_ >= period_) {
    period_begin_ += period_;
    period_ *= options_.t_mult;
  }
  const auto t = static_cast<double>(last_epoch() - period_begin_);
  return options_.eta_min + (base_lr(group) - options_.eta_min) *
                                (1 + std::cos(pi * t / static_cast<double>(period_))) / 2;
}

}  // namespace lockstep::optim
