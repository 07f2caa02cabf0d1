#include "lockstep/optim/one_cycle.h"

#include <cmath>
#include <numbers>

#include "lockstep/engine/tensor/check.h"

namespace lockstep::optim {

OneCycleLR::OneCycleLR(Optimizer& optimizer, double max_lr, int64_t total_steps, Options options)
    : OneCycleLR(optimizer, std::vector<double>(optimizer.rates().size(), max_lr), total_steps,
                 options) {}

OneCycleLR::OneCycleLR(Optimizer& optimizer, std::vector<double> max_lrs, int64_t total_steps,
                       Options options)
    : Schedule(optimizer),
      max_lrs_(std::move(max_lrs)),
      total_steps_(total_steps),
      options_(options) {
  const auto groups = optimizer.rates();
  check(total_steps > 0, "Expected positive integer total_steps, but got {}", total_steps);
  check(options.pct_start >= 0 && options.pct_start <= 1,
        "Expected float between 0 and 1 pct_start, but got {}", options.pct_start);
  check(max_lrs_.size() == groups.size(), "expected {} values for max_lr, got {}", groups.size(),
        max_lrs_.size());
  for (size_t i = 0; i < groups.size(); ++i) {
    check(!options.cycle_momentum || groups[i].momentum != nullptr,
          "optimizer must support momentum with `cycle_momentum` option enabled");
    set_base_lr(i, max_lrs_[i] / options.div_factor);
  }
  start();
}

OneCycleLR::Phase OneCycleLR::phase(size_t group) const {
  const auto& o = options_;
  const double low = base_lr(group), high = max_lrs_[group], last = low / o.final_div_factor;
  const double rise = o.pct_start * static_cast<double>(total_steps_);
  const auto now = static_cast<double>(last_epoch()), end = static_cast<double>(total_steps_ - 1);
  const auto passed = [&](double from, double to) {
    return to == from ? 1.0 : (now - from) / (to - from);
  };
  const double top = rise - 1, foot = 2 * rise - 2;
  if (now <= top) return {low, high, o.max_momentum, o.base_momentum, passed(0, top)};
  if (!o.three_phase) return {high, last, o.base_momentum, o.max_momentum, passed(top, end)};
  if (now <= foot) return {high, low, o.base_momentum, o.max_momentum, passed(top, foot)};
  return {low, last, o.max_momentum, o.max_momentum, passed(foot, end)};
}

double OneCycleLR::next_lr(size_t group, double) {
  check(last_epoch() <= total_steps_,
        "Tried to step {} times. The specified number of total steps is {}", last_epoch() + 1,
        total_steps_);
  const Phase now = phase(group);
  const auto between = [&](double from, double to) {
    if (options_.anneal == Anneal::kLinear) return (to - from) * now.passed + from;
    return to + (from - to) / 2.0 * (std::cos(std::numbers::pi * now.passed) + 1);
  };
  if (options_.cycle_momentum) {
    *optimizer().rates()[group].momentum = between(now.from_momentum, now.to_momentum);
  }
  return between(now.from_lr, now.to_lr);
}

}  // namespace lockstep::optim
