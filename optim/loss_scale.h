#pragma once

#include <cstdint>

namespace lockstep::optim {

// How a loss scale moves; names and defaults are those of PyTorch's GradScaler.
struct LossScaleOptions {
  double init_scale = 65536.0;
  double growth_factor = 2.0;
  double backoff_factor = 0.5;
  int64_t growth_interval = 2000;  // steps in a row without an overflow
};

// The factor that keeps gradients of float16 from vanishing: small after a step whose gradients
// were not finite, larger after many that were. A float32, as PyTorch's.
class LossScale {
 public:
  // Throws ValueError, with PyTorch's texts, on factors that would not grow or not back off.
  explicit LossScale(const LossScaleOptions& options = {});

  double value() const { return value_; }
  int64_t growth_tracker() const { return growth_tracker_; }  // steps since the last change
  const LossScaleOptions& options() const { return options_; }

  // Once after each step.
  void update(bool found_inf);
  void set(double value) { value_ = static_cast<float>(value); }

  void set_growth_tracker(int64_t steps) { growth_tracker_ = steps; }
  void set_growth_factor(double factor) { options_.growth_factor = factor; }
  void set_backoff_factor(double factor) { options_.backoff_factor = factor; }
  void set_growth_interval(int64_t steps) { options_.growth_interval = steps; }

 private:
  LossScaleOptions options_;
  float value_;
  int64_t growth_tracker_ = 0;
};

}  // namespace lockstep::optim
