#pragma once

#include "lockstep/optim/schedule.h"

namespace lockstep::optim {

enum class Anneal { kCosine, kLinear };

struct OneCycleOptions {
  double pct_start = 0.3;  // the share of the steps in which the rate rises
  Anneal anneal = Anneal::kCosine;
  bool cycle_momentum = true;
  double base_momentum = 0.85;
  double max_momentum = 0.95;
  double div_factor = 25.0;       // initial rate = max_lr / div_factor
  double final_div_factor = 1e4;  // last rate = initial rate / final_div_factor
  bool three_phase = false;       // down to the initial rate as it went up, then to the last
};

// Up to max_lr and down to nearly nothing over total_steps updates, the momentum (SGD's, RMSprop's,
// Adam's beta1) the other way round (Smith, Topin: "Super-convergence", 2018). Made for one step()
// per update; throws ValueError when stepped more than total_steps times.
class OneCycleLR final : public Schedule {
 public:
  using Options = OneCycleOptions;
  OneCycleLR(Optimizer& optimizer, double max_lr, int64_t total_steps, Options options = {});
  // A maximum for each group.
  OneCycleLR(Optimizer& optimizer, std::vector<double> max_lrs, int64_t total_steps,
             Options options = {});

 private:
  // Both ends of the present phase and how much of it has passed.
  struct Phase {
    double from_lr, to_lr, from_momentum, to_momentum, passed;
  };
  Phase phase(size_t group) const;
  double next_lr(size_t group, double lr) override;

  std::vector<double> max_lrs_;
  int64_t total_steps_;
  Options options_;
};

}  // namespace lockstep::optim
