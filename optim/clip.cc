#include "lockstep/optim/clip.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/backend.h"
#include "lockstep/engine/ops/pointwise.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::optim {

double clip_coefficient(double norm, double max_norm, bool error_if_nonfinite) {
  check<Error>(
      !error_if_nonfinite || std::isfinite(norm),
      "The total norm of order 2 for gradients from `parameters` is non-finite ({}), so it "
      "cannot be clipped. To disable this error and scale the gradients by the non-finite "
      "norm anyway, set `error_if_nonfinite=False`",
      norm);
  const double ratio = max_norm / (norm + 1e-6);
  return ratio > 1.0 ? 1.0 : ratio;  // keeps a NaN, as PyTorch does
}

double clip_grad_norm_(const std::vector<Tensor>& parameters, double max_norm,
                       bool error_if_nonfinite) {
  const autograd::NoGrad no_grad;
  std::vector<Tensor> grads;
  std::map<std::pair<DeviceType, int>, std::vector<OptimizerSegment>> by_device;
  for (const Tensor& p : parameters) {
    const Tensor g = p.grad();
    if (!g.defined()) continue;
    grads.push_back(g.contiguous());
    by_device[{g.device().type, g.device().index}].push_back(
        {nullptr, grads.back().data_ptr(), {}, g.numel(), g.dtype()});
  }
  if (grads.empty()) return 0.0;
  double squares = 0.0;
  for (const auto& [device, segments] : by_device) {
    const Device where{device.first, static_cast<int16_t>(device.second)};
    squares += backend_of(where).sum_of_squares(segments);
  }
  const double norm = std::sqrt(squares);
  const double coefficient = clip_coefficient(norm, max_norm, error_if_nonfinite);
  for (const Tensor& p : parameters) {
    if (p.grad().defined()) p.grad().mul_(coefficient);
  }
  return norm;
}

void clip_grad_value_(const std::vector<Tensor>& parameters, double limit) {
  check(limit >= 0, "[clip_grad_value_] the limit must not be negative, got {}", limit);
  const autograd::NoGrad no_grad;
  for (const Tensor& p : parameters) {
    const Tensor g = p.grad();
    if (g.defined()) g.copy_(clamp(g, -limit, limit));
  }
}

}  // namespace lockstep::optim
