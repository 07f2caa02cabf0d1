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

SgdArgs SGD::args(size_t group) const {
  const Options& o = groups_[group].options;
  return {o.lr, o.momentum, o.dampening, o.weight_decay, o.nesterov, o.maximize, false};
}

void SGD::step() {
  DeviceGraph* const graph = graph_in_capture();
  for (size_t g = 0; g < groups_.size(); ++g) {
    const Options& o = groups_[g].options;
    // Parameters seen for the first time start their momentum buffer; the rest continue theirs.
    std::vector<OptimizerSegment> first, later;
    Updated updated;
    Device device;
    for (size_t i = 0; i < groups_[g].parameters.size(); ++i) {
      const Tensor& p = groups_[g].parameters[i];
      if (!p.grad().defined()) continue;
      State& state = states_[g][i];
      const bool starts = o.momentum != 0 && !state.buffers[0].defined();
      const OptimizerSegment s = segment(p, state, o.momentum != 0 ? 1 : 0);
      (starts ? first : later).push_back(s);
      updated.emplace_back(p, &state);
      device = p.device();
      autograd::bump_version(p);
    }
    if (graph != nullptr && !later.empty()) {
      graph->sgd_step(later, [this, g] { return args(g); });
      watch_replays(*graph, std::move(later), updated, false);
      graph->before_replay(
          [this, g, had = o.momentum != 0] {
            check<Error>((groups_[g].options.momentum != 0) == had,
                         "[cuda graph] SGD's momentum was {}0 in the capture, and is not now; "
                         "capture the step again",
                         had ? "not " : "");
          },
          nullptr);
      continue;
    }
    SgdArgs now = args(g);
    if (!later.empty()) backend_of(device).sgd_step(later, now);
    now.first_step = true;
    if (!first.empty()) backend_of(device).sgd_step(first, now);
  }
}

}  // namespace lockstep::optim
