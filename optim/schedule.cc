#include "lockstep/optim/schedule.h"

namespace lockstep::optim {

Schedule::Schedule(Optimizer& optimizer) : optimizer_(optimizer) {
  if (optimizer.initial_lrs_.empty()) {
    for (const auto& group : optimizer.rates()) optimizer.initial_lrs_.push_back(*group.lr);
  }
}

void Schedule::step() {
  ++last_epoch_;
  const auto groups = optimizer_.rates();
  std::vector<double> lrs(groups.size());
  for (size_t i = 0; i < groups.size(); ++i) lrs[i] = next_lr(i, *groups[i].lr);
  for (size_t i = 0; i < groups.size(); ++i) *groups[i].lr = lrs[i];
  last_lr_ = std::move(lrs);
}

}  // namespace lockstep::optim
