#include <array>
#include <cmath>

#include "lockstep/engine/autograd/op_node.h"
#include "lockstep/engine/ops/implemented.h"
#include "lockstep/engine/ops/pointwise.h"
#include "lockstep/engine/ops/pointwise_kernel.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep {
namespace {

struct ClampBackward0 final : autograd::OpNode<3> {
  std::array<Dims, 3> sizes;
  std::array<DType, 3> dtypes{};
  std::string_view name() const override { return "ClampBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    const Tensor& g = gradients[0];
    const Tensor x = saved(0), low = saved(1), high = saved(2);
    const bool both = low.defined() && high.defined();
    if (needs(0)) {
      Tensor passed = g;
      if (low.defined()) passed = where(ge(x, low), passed, 0);
      if (high.defined()) passed = where(le(x, high), passed, 0);
      results[0] = fit(passed, 0);
    }
    if (needs(1)) {
      const Tensor below = lt(x, low);
      results[1] = fit(where(both ? logical_and(below, lt(low, high)) : below, g, 0), 1);
    }
    if (needs(2)) {
      const Tensor above = gt(x, high);
      results[2] = fit(where(both ? logical_or(above, lt(high, low)) : above, g, 0), 2);
    }
  }

 private:
  Tensor fit(const Tensor& gradient, size_t i) const {
    return sum_to_size(gradient, sizes[i]).to(dtypes[i]);
  }
};

struct OneBoundBackward final : autograd::OpNode<1> {
  double low = -INFINITY, high = INFINITY;
  std::string_view label;
  std::string_view name() const override { return label; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    results[0] = clamp_backward(gradients[0], saved(0), low, high);
  }
};

Tensor clamp_to_one_bound(const Tensor& x, double low, double high, std::string_view label) {
  Tensor y;
  {
    const autograd::NoGrad no_grad;
    y = clamp(x, low, high);
  }
  if (auto node = autograd::record<OneBoundBackward>(y, x)) {
    node->low = low;
    node->high = high;
    node->label = label;
    node->save(0, x);
  }
  return y;
}

}  // namespace

Tensor clamp(const Tensor& x, const Tensor& low, const Tensor& high) {
  check(low.defined() || high.defined(),
        "torch.clamp: At least one of 'min' or 'max' must not be None");
  // All three decide the dtype together: bfloat16 among int64 and float16 gives float32.
  const std::array<Operand, 3> operands = {x, low.defined() ? low : x, high.defined() ? high : x};
  const DType dtype = pointwise::result_type(operands);
  if (dtype == DType::kBool) not_implemented("clamp", dtype);
  Tensor y;
  {
    const autograd::NoGrad no_grad;
    y = x.to(dtype);
    if (low.defined()) y = maximum(y, low.to(dtype));
    if (high.defined()) y = minimum(y, high.to(dtype));
  }
  if (auto node = autograd::record<ClampBackward0>(y, x, low, high)) {
    size_t i = 0;
    for (const Tensor* t : {&x, &low, &high}) {
      node->save(i, *t);
      if (t->defined()) {
        node->sizes[i] = t->sizes();
        node->dtypes[i] = t->dtype();
      }
      ++i;
    }
  }
  return y;
}

Tensor clamp_min(const Tensor& x, double low) {
  return clamp_to_one_bound(x, low, INFINITY, "ClampMinBackward0");
}
Tensor clamp_max(const Tensor& x, double high) {
  return clamp_to_one_bound(x, -INFINITY, high, "ClampMaxBackward0");
}

}  // namespace lockstep
