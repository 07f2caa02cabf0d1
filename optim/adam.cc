#include "lockstep/optim/adam.h"

#include <map>

#include "lockstep/engine/autograd/node.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::optim {

Adam::Adam(std::vector<Tensor> parameters, Options options)
    : Adam(std::vector<ParamGroup<Options>>{{std::move(parameters), options}}, false) {}

Adam::Adam(std::vector<ParamGroup<Options>> groups) : Adam(std::move(groups), false) {}

Adam::Adam(std::vector<ParamGroup<Options>> groups, bool decoupled_weight_decay)
    : groups_(std::move(groups)), decoupled_weight_decay_(decoupled_weight_decay) {
  for (const auto& group : groups_) {
    const Options& o = group.options;
    check(o.lr >= 0, "Invalid learning rate: {}", o.lr);
    check(o.eps >= 0, "Invalid epsilon value: {}", o.eps);
    check(o.beta1 >= 0 && o.beta1 < 1, "Invalid beta parameter at index 0: {}", o.beta1);
    check(o.beta2 >= 0 && o.beta2 < 1, "Invalid beta parameter at index 1: {}", o.beta2);
    check(o.weight_decay >= 0, "Invalid weight_decay value: {}", o.weight_decay);
    add_parameters(group.parameters);
    states_.emplace_back(group.parameters.size());
  }
  check(!groups_.empty(), "optimizer got an empty parameter list");
}

std::vector<Optimizer::Rates> Adam::rates() {
  std::vector<Rates> result;
  for (auto& group : groups_) result.push_back({&group.options.lr, &group.options.beta1});
  return result;
}

std::vector<Optimizer::ParameterState> Adam::states() const {
  return named_states(groups_, states_, {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"});
}

AdamArgs Adam::args(size_t group, int64_t steps) const {
  const Options& o = groups_[group].options;
  return {o.lr,      o.beta1,    o.beta2, o.eps, o.weight_decay, decoupled_weight_decay_,
          o.amsgrad, o.maximize, steps};
}

void Adam::step() {
  DeviceGraph* const graph = graph_in_capture();
  for (size_t g = 0; g < groups_.size(); ++g) {
    const Options& o = groups_[g].options;
    // The bias correction depends on a parameter's own number of updates, nearly always one value.
    struct Update {
      std::vector<OptimizerSegment> segments;
      Updated updated;
    };
    std::map<int64_t, Update> by_steps;
    Device device;
    for (size_t i = 0; i < groups_[g].parameters.size(); ++i) {
      const Tensor& p = groups_[g].parameters[i];
      if (!p.grad().defined()) continue;
      State& state = states_[g][i];
      const OptimizerSegment s = segment(p, state, o.amsgrad ? 3 : 2);
      Update& update = by_steps[state.steps + 1];
      update.segments.push_back(s);
      update.updated.emplace_back(p, &state);
      if (graph == nullptr) ++state.steps;  // replays count theirs
      device = p.device();
      autograd::bump_version(p);
    }
    for (auto& [steps, update] : by_steps) {
      if (graph == nullptr) {
        backend_of(device).adam_step(update.segments, args(g, steps));
        continue;
      }
      const State* const counted = update.updated.front().second;
      graph->adam_step(update.segments, [this, g, counted] { return args(g, counted->steps); });
      watch_replays(*graph, std::move(update.segments), update.updated, true);
    }
  }
}

namespace {

std::vector<ParamGroup<AdamOptions>> as_adam(const std::vector<ParamGroup<AdamWOptions>>& groups) {
  std::vector<ParamGroup<AdamOptions>> result;
  for (const auto& [parameters, o] : groups) {
    result.push_back(
        {parameters, {o.lr, o.beta1, o.beta2, o.eps, o.weight_decay, o.amsgrad, o.maximize}});
  }
  return result;
}

}  // namespace

AdamW::AdamW(std::vector<Tensor> parameters, Options options)
    : AdamW(std::vector<ParamGroup<Options>>{{std::move(parameters), options}}) {}

AdamW::AdamW(const std::vector<ParamGroup<Options>>& groups) : Adam(as_adam(groups), true) {}

}  // namespace lockstep::optim
