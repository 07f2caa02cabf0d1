#include "lockstep/optim/optimizer.h"

#include <algorithm>

#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/autograd/node.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/engine/tensor/same_device.h"

namespace lockstep::optim {

void Optimizer::add_parameters(const std::vector<Tensor>& parameters) {
  check(!parameters.empty(), "optimizer got an empty parameter list");
  for (const Tensor& p : parameters) {
    check(p.defined() && p.is_leaf(), "can't optimize a non-leaf Tensor");
    check(p.dtype() == DType::kFloat32 || p.dtype() == DType::kFloat64,
          "[optimizer] parameters are float32 or float64, got {}", name_of(p.dtype()));
    const bool known = std::any_of(parameters_.begin(), parameters_.end(),
                                   [&](const Tensor& q) { return q.is_same(p); });
    check(!known, "some parameters appear in more than one parameter group");
    parameters_.push_back(p);
  }
}

void Optimizer::zero_grad() {
  for (const Tensor& p : parameters_) p.set_grad({});
}

void Optimizer::load_states(const std::vector<ParameterState>& states) {
  auto* const groups = memory();
  check<Error>(groups != nullptr, "[optimizer] this optimizer has no state that could be loaded");
  const std::vector<ParameterState> present = this->states();
  check(states.size() == present.size(),
        "[optimizer] the state is that of {} parameters, there are {}", states.size(),
        present.size());
  for (size_t i = 0; i < states.size(); ++i) {
    const Tensor& p = present[i].parameter;
    check(states[i].buffers.size() == present[i].buffers.size(),
          "[optimizer] the state of parameter {} has {} tensors instead of {}", i,
          states[i].buffers.size(), present[i].buffers.size());
    for (size_t b = 0; b < present[i].buffers.size(); ++b) {
      const auto& [name, t] = states[i].buffers[b];
      check(name == present[i].buffers[b].first,
            "[optimizer] the state of parameter {} has \"{}\" in place of \"{}\"", i, name,
            present[i].buffers[b].first);
      check(!t.defined() || (t.sizes() == p.sizes() && t.dtype() == p.dtype()),
            "[optimizer] {} of parameter {} is {} of {}, the parameter {} of {}", name, i,
            t.defined() ? t.sizes().str() : "", t.defined() ? name_of(t.dtype()) : "",
            p.sizes().str(), name_of(p.dtype()));
    }
  }
  const autograd::NoGrad no_grad;
  auto from = states.begin();
  for (auto& group : *groups) {
    for (State& state : group) {
      state.steps = from->steps;
      for (Tensor& buffer : state.buffers) buffer = Tensor();
      for (size_t b = 0; b < from->buffers.size(); ++b) {
        const Tensor& t = from->buffers[b].second;
        if (t.defined()) state.buffers[b] = t.detach().contiguous().clone();
      }
      ++from;
    }
  }
}

void Optimizer::forbid_first_step() {
  forbid_in_capture("an optimizer's first step",
                    "it makes the optimizer's state, which later steps go on with. Make one step "
                    "before the capture");
}

void Optimizer::watch_replays(DeviceGraph& graph, std::vector<OptimizerSegment> segments,
                              const Updated& updated, bool counts) {
  const std::weak_ptr<const int> alive = alive_;
  const auto unchanged = [alive, segments = std::move(segments), updated] {
    check<Error>(!alive.expired(), "[cuda graph] an optimizer of the captured step is gone");
    for (size_t i = 0; i < updated.size(); ++i) {
      const auto& [parameter, state] = updated[i];
      const OptimizerSegment& s = segments[i];
      bool same = parameter.data_ptr() == s.param && state->steps == updated[0].second->steps;
      for (int b = 0; b < 3; ++b) {
        const Tensor& buffer = state->buffers[b];
        same = same && (!s.state[b] || (buffer.defined() && buffer.data_ptr() == s.state[b]));
      }
      check<Error>(same,
                   "[cuda graph] a parameter, or an optimizer's state of it, has been moved or "
                   "loaded since the capture; capture the step again");
    }
  };
  const auto update = [updated, counts] {
    for (const auto& [parameter, state] : updated) {
      autograd::bump_version(parameter);
      if (counts) ++state->steps;
    }
  };
  if (counts && graph.skip()) {
    graph.after_replay([updated, skip = graph.skip()] {
      if (!skip->skipped) return;
      for (const auto& [parameter, state] : updated) --state->steps;
    });
  }
  graph.before_replay(unchanged, update);
}

OptimizerSegment Optimizer::segment(const Tensor& parameter, State& state, int buffers) {
  const Tensor grad = parameter.grad();
  check<Error>(parameter.is_contiguous() && grad.is_contiguous(),
               "[optimizer] parameters and gradients must be contiguous, got strides {} and {}",
               parameter.strides().str(), grad.strides().str());
  const auto fits = [&](const Tensor& t) {
    return t.dtype() == parameter.dtype() && t.sizes() == parameter.sizes();
  };
  check<Error>(fits(grad),
               "[optimizer] a parameter of {} has a gradient of {}; after changing the dtype of a "
               "model call zero_grad() and make the optimizer anew",
               name_of(parameter.dtype()), name_of(grad.dtype()));
  check_on_device("an optimizer's step", parameters_.front().device(), parameter, grad);
  OptimizerSegment s;
  s.param = parameter.data_ptr();
  s.grad = grad.data_ptr();
  s.count = parameter.numel();
  s.dtype = parameter.dtype();
  for (int i = 0; i < buffers; ++i) {
    Tensor& buffer = state.buffers[i];
    if (!buffer.defined()) {
      forbid_first_step();
      buffer = zeros(parameter.sizes(), {parameter.dtype(), parameter.device()});
    } else if (buffer.device() != parameter.device()) {  // the model has been moved since
      buffer = buffer.to(parameter.device());
    }
    check<Error>(fits(buffer),
                 "[optimizer] a parameter of {} has a state of {}; after changing the dtype of a "
                 "model make the optimizer anew",
                 name_of(parameter.dtype()), name_of(buffer.dtype()));
    s.state[i] = buffer.data_ptr();
  }
  return s;
}

}  // namespace lockstep::optim
