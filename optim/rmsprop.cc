#include "lockstep/optim/rmsprop.h"

#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/ops/pointwise.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"

namespace lockstep::optim {

RMSprop::RMSprop(std::vector<Tensor> parameters, Options options)
    : RMSprop(std::vector<ParamGroup<Options>>{{std::move(parameters), options}}) {}

RMSprop::RMSprop(std::vector<ParamGroup<Options>> groups) : groups_(std::move(groups)) {
  for (const auto& group : groups_) {
    const Options& o = group.options;
    check(o.lr >= 0, "Invalid learning rate: {}", o.lr);
    check(o.eps >= 0, "Invalid epsilon value: {}", o.eps);
    check(o.momentum >= 0, "Invalid momentum value: {}", o.momentum);
    check(o.weight_decay >= 0, "Invalid weight_decay value: {}", o.weight_decay);
    check(o.alpha >= 0, "Invalid alpha value: {}", o.alpha);
    add_parameters(group.parameters);
    states_.emplace_back(group.parameters.size());
  }
  check(!groups_.empty(), "optimizer got an empty parameter list");
}

std::vector<Optimizer::Rates> RMSprop::rates() {
  std::vector<Rates> result;
  for (auto& group : groups_) result.push_back({&group.options.lr, &group.options.momentum});
  return result;
}

std::vector<Optimizer::ParameterState> RMSprop::states() const {
  return named_states(groups_, states_, {"square_avg", "grad_avg", "momentum_buffer"});
}

void RMSprop::step() {
  forbid_in_capture("RMSprop's step",
                    "its rates are numbers of the host. Capture up to backward(), and "
                    "step after each replay; or use SGD or Adam");
  const autograd::NoGrad no_grad;
  for (size_t group = 0; group < groups_.size(); ++group) {
    const Options& o = groups_[group].options;
    for (size_t i = 0; i < groups_[group].parameters.size(); ++i) {
      const Tensor& p = groups_[group].parameters[i];
      Tensor g = p.grad();
      if (!g.defined()) continue;
      if (o.maximize) g = -g;
      if (o.weight_decay != 0) g = g + p * o.weight_decay;
      auto& [mean_square, mean, velocity] = states_[group][i].buffers;
      const auto made = [&](Tensor& buffer) -> const Tensor& {
        if (!buffer.defined()) buffer = zeros_like(g);
        return buffer;
      };
      made(mean_square).mul_(o.alpha).add_(g * (1 - o.alpha) * g);
      Tensor variance = mean_square;
      if (o.centered) {
        made(mean).mul_(o.alpha).add_(g, 1 - o.alpha);
        variance = mean_square - mean * mean;
      }
      const Tensor update = g / (sqrt(variance) + o.eps);
      if (o.momentum > 0) {
        made(velocity).mul_(o.momentum).add_(update);
        p.add_(velocity, -o.lr);
      } else {
        p.add_(update, -o.lr);
      }
    }
  }
}

}  // namespace lockstep::optim
