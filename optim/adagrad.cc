#include "lockstep/optim/adagrad.h"

#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/ops/pointwise.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"

namespace lockstep::optim {

Adagrad::Adagrad(std::vector<Tensor> parameters, Options options)
    : Adagrad(std::vector<ParamGroup<Options>>{{std::move(parameters), options}}) {}

Adagrad::Adagrad(std::vector<ParamGroup<Options>> groups) : groups_(std::move(groups)) {
  for (const auto& group : groups_) {
    const Options& o = group.options;
    check(o.lr >= 0, "Invalid learning rate: {}", o.lr);
    check(o.lr_decay >= 0, "Invalid lr_decay value: {}", o.lr_decay);
    check(o.weight_decay >= 0, "Invalid weight_decay value: {}", o.weight_decay);
    check(o.initial_accumulator_value >= 0, "Invalid initial_accumulator_value value: {}",
          o.initial_accumulator_value);
    check(o.eps >= 0, "Invalid epsilon value: {}", o.eps);
    add_parameters(group.parameters);
    states_.emplace_back(group.parameters.size());
  }
  check(!groups_.empty(), "optimizer got an empty parameter list");
}

std::vector<Optimizer::Rates> Adagrad::rates() {
  std::vector<Rates> result;
  for (auto& group : groups_) result.push_back({&group.options.lr, nullptr});
  return result;
}

std::vector<Optimizer::ParameterState> Adagrad::states() const {
  return named_states(groups_, states_, {"sum"});
}

void Adagrad::step() {
  forbid_in_capture("Adagrad's step",
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
      State& state = states_[group][i];
      Tensor& sum = state.buffers[0];
      if (!sum.defined()) {
        sum = full(p.sizes(), o.initial_accumulator_value, {p.dtype(), p.device()});
      }
      const double lr = o.lr / (1 + static_cast<double>(state.steps++) * o.lr_decay);
      sum.add_(g * g);
      p.add_(g / (sqrt(sum) + o.eps), -lr);
    }
  }
}

}  // namespace lockstep::optim
