#include "lockstep/optim/loss_scale.h"

#include <cmath>

#include "lockstep/engine/tensor/check.h"

namespace lockstep::optim {

LossScale::LossScale(const LossScaleOptions& options)
    : options_(options), value_(static_cast<float>(options.init_scale)) {
  check(options.growth_factor > 1.0, "The growth factor must be > 1.0.");
  check(options.backoff_factor < 1.0, "The backoff factor must be < 1.0.");
}

void LossScale::update(bool found_inf) {
  if (found_inf) {
    value_ = static_cast<float>(value_ * options_.backoff_factor);
    growth_tracker_ = 0;
    return;
  }
  if (++growth_tracker_ < options_.growth_interval) return;
  growth_tracker_ = 0;
  const auto larger = static_cast<float>(value_ * options_.growth_factor);
  if (std::isfinite(larger)) value_ = larger;
}

}  // namespace lockstep::optim
