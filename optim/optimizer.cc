#include "lockstep/optim/optimizer.h"

#include <algorithm>

#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"

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
  OptimizerSegment s;
  s.param = parameter.data_ptr();
  s.grad = grad.data_ptr();
  s.count = parameter.numel();
  s.dtype = parameter.dtype();
  for (int i = 0; i < buffers; ++i) {
    Tensor& buffer = state.buffers[i];
    if (!buffer.defined()) {
      buffer = zeros(parameter.sizes(), {parameter.dtype(), parameter.device()});
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
