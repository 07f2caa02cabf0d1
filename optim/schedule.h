#pragma once

#include <cstdint>
#include <vector>

#include "lockstep/optim/optimizer.h"

namespace lockstep::optim {

// Base of the learning-rate schedules, with PyTorch's semantics: constructing one sets the rates of
// step 0; step(), called after the optimizer's step, once per epoch or per update as you like, sets
// those of the next. Where a formula reads the present rate rather than the initial one (PyTorch's
// recursive forms, kept here), several schedules on one optimizer compose.
//
// The optimizer must outlive the schedule.
class Schedule {
 public:
  virtual ~Schedule() = default;
  Schedule(const Schedule&) = delete;
  Schedule& operator=(const Schedule&) = delete;

  void step();
  int64_t last_epoch() const { return last_epoch_; }  // steps taken so far
  std::vector<double> last_lr() const { return last_lr_; }

 protected:
  explicit Schedule(Optimizer& optimizer);
  // Sets the rates of step 0: to be called last in the constructor of every schedule.
  void start() { step(); }
  // What a group's learning rate is to be at step last_epoch(); `lr` is what it is now.
  virtual double next_lr(size_t group, double lr) = 0;
  // A group's learning rate before any schedule touched it.
  double base_lr(size_t group) const { return optimizer_.initial_lrs_[group]; }
  void set_base_lr(size_t group, double lr) { optimizer_.initial_lrs_[group] = lr; }
  Optimizer& optimizer() const { return optimizer_; }

 private:
  Optimizer& optimizer_;
  int64_t last_epoch_ = -1;
  std::vector<double> last_lr_;
};

}  // namespace lockstep::optim
