#pragma once

#include <cstdint>
#include <vector>

#include "lockstep/optim/optimizer.h"

namespace lockstep::optim {

struct PlateauOptions {
  bool larger_is_better = false;  // an accuracy, say, rather than a loss
  double factor = 0.1;
  int64_t patience = 10;  // steps without improvement that are let pass
  double threshold = 1e-4;
  bool relative_threshold = true;
  int64_t cooldown = 0;  // steps after a reduction in which nothing counts
  double min_lr = 0.0;
  double eps = 1e-8;  // smaller reductions are left out
};

// Multiplies the learning rates by `factor` when a metric has stopped improving; PyTorch's
// semantics. Under data-parallel, give it the same metric on every rank (the mean over ranks).
class ReduceLROnPlateau {
 public:
  using Options = PlateauOptions;
  // The optimizer must outlive the schedule. Throws ValueError unless factor < 1.
  explicit ReduceLROnPlateau(Optimizer& optimizer, Options options = {});
  void step(double metric);
  double best() const { return best_; }
  int64_t last_epoch() const { return last_epoch_; }
  std::vector<double> last_lr() const;

 private:
  bool is_better(double metric) const;

  Optimizer& optimizer_;
  Options options_;
  double best_;
  int64_t last_epoch_ = 0, bad_steps_ = 0, cooldown_left_ = 0;
};

}  // namespace lockstep::optim
