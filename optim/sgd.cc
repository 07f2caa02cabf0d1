#include "lockstep/optim/sgd.h"

#include "lockstep/engine/autograd/node.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::optim {

SGD::SGD(std::vector<Tensor> parameters, Options options)
    : SGD(std::vector<ParamGroup<Options>>{{std::move(parameters), options}}) {}

SGD::SGD(std::vector<ParamGroup<Options>> groups) : groups_(std::move(groups)) {
  for (const auto& group : groups_) {
    const Options& o = group.options;
    check(o.lr >= 0, "Invalid learning rate: {}", o.lr);
    check(o.momentum >= 0, "Invalid momentum value: {}", o.momentum);
    check(o.weight_decay >= 0, "Invalid weight_decay value: {}", o.weight_decay);
    check(!o.nesterov || (o.momentum > 0 && o.dampening == 0),
          "Nesterov momentum requires a momentum and zero dampening");
    add_parameters(group.parameters);
    states_.emplace_back(group.parameters.size());
  }
  check(!groups_.empty(), "optimizer got an empty parameter list");
}

std::vector<Optimizer::Rates> SGD::rates() {
  std::vector<Rates> result;
  for (auto& group : groups_) result.push_back({&group.options.lr, &group.options.momentum});
  return result;
}

std::vector<Optimizer::ParameterState> SGD::states() const {
  return named_states(groups_, states_, {"momentum_buffer"});
}

void SGD::step() {
  for (size_t g = 0; g < groups_.size(); ++g) {
    const Options& o = groups_[g].options;
    // Parameters seen for the first time start their momentum buffer; the rest continue theirs.
    std::vector<OptimizerSegment> first, later;
    Device device;
    for (size_t i = 0; i < groups_[g].parameters.size(); ++i) {
      const Tensor& p = groups_[g].parameters[i];
      if (!p.grad().defined()) continue;
      State& state = states_[g][i];
      const bool starts = !state.buffers[0].defined();
      const OptimizerSegment s = segment(p, state, o.momentum != 0 ? 1 : 0);
      (starts ? first : later).push_back(s);
      device = p.device();
      autograd::bump_version(p);
    }
    SgdArgs args{o.lr, o.momentum, o.dampening, o.weight_decay, o.nesterov, o.maximize, false};
    if (!later.empty()) backend_of(device).sgd_step(later, args);
    args.first_step = true;
    if (!first.empty()) backend_of(device).sgd_step(first, args);
  }
}

}  // namespace lockstep::optim
