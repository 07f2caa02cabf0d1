#include "lockstep/optim/reduce_on_plateau.h"

#include <algorithm>
#include <limits>

#include "lockstep/engine/tensor/check.h"

namespace lockstep::optim {

ReduceLROnPlateau::ReduceLROnPlateau(Optimizer& optimizer, Options options)
    : optimizer_(optimizer),
      options_(options),
      best_(options.larger_is_better ? -std::numeric_limits<double>::infinity()
                                     : std::numeric_limits<double>::infinity()) {
  check(options.factor < 1.0, "Factor should be < 1.0.");
}

bool ReduceLROnPlateau::is_better(double metric) const {
  const auto& o = options_;
  if (o.larger_is_better) {
    return metric > (o.relative_threshold ? best_ * (o.threshold + 1) : best_ + o.threshold);
  }
  return metric < (o.relative_threshold ? best_ * (1 - o.threshold) : best_ - o.threshold);
}

void ReduceLROnPlateau::step(double metric) {
  ++last_epoch_;
  if (is_better(metric)) {
    best_ = metric;
    bad_steps_ = 0;
  } else {
    ++bad_steps_;
  }
  if (cooldown_left_ > 0) {
    --cooldown_left_;
    bad_steps_ = 0;
  }
  if (bad_steps_ <= options_.patience) return;
  for (const auto& group : optimizer_.rates()) {
    const double lr = std::max(*group.lr * options_.factor, options_.min_lr);
    if (*group.lr - lr > options_.eps) *group.lr = lr;
  }
  cooldown_left_ = options_.cooldown;
  bad_steps_ = 0;
}

std::vector<double> ReduceLROnPlateau::last_lr() const {
  std::vector<double> result;
  for (const auto& group : optimizer_.rates()) result.push_back(*group.lr);
  return result;
}

}  // namespace lockstep::optim
