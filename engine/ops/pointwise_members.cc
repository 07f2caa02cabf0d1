// The members of Tensor that are pointwise ops.
#include "lockstep/engine/autograd/renamed.h"
#include "lockstep/engine/ops/pointwise.h"
#include "lockstep/engine/ops/pointwise_kernel.h"

namespace lockstep {

#define LOCKSTEP_MEMBER(op) \
  Tensor Tensor::op() const { return lockstep::op(*this); }
LOCKSTEP_MEMBER(exp)
LOCKSTEP_MEMBER(log)
LOCKSTEP_MEMBER(sqrt)
LOCKSTEP_MEMBER(abs)
LOCKSTEP_MEMBER(sin)
LOCKSTEP_MEMBER(cos)
LOCKSTEP_MEMBER(tanh)
LOCKSTEP_MEMBER(sigmoid)
LOCKSTEP_MEMBER(relu)
LOCKSTEP_MEMBER(neg)
LOCKSTEP_MEMBER(sign)
LOCKSTEP_MEMBER(rsqrt)
LOCKSTEP_MEMBER(reciprocal)
LOCKSTEP_MEMBER(log1p)
LOCKSTEP_MEMBER(expm1)
LOCKSTEP_MEMBER(tan)
LOCKSTEP_MEMBER(erf)
LOCKSTEP_MEMBER(square)
#undef LOCKSTEP_MEMBER
#define LOCKSTEP_MEMBER(op) \
  const Tensor& Tensor::op() const { return lockstep::op(*this); }
LOCKSTEP_MEMBER(neg_)
LOCKSTEP_MEMBER(abs_)
LOCKSTEP_MEMBER(exp_)
LOCKSTEP_MEMBER(log_)
LOCKSTEP_MEMBER(sqrt_)
LOCKSTEP_MEMBER(rsqrt_)
LOCKSTEP_MEMBER(reciprocal_)
LOCKSTEP_MEMBER(sin_)
LOCKSTEP_MEMBER(cos_)
LOCKSTEP_MEMBER(tanh_)
LOCKSTEP_MEMBER(sigmoid_)
LOCKSTEP_MEMBER(relu_)
#undef LOCKSTEP_MEMBER

#define LOCKSTEP_MEMBER(op)                                                           \
  Tensor Tensor::op(const Tensor& other) const { return lockstep::op(*this, other); } \
  Tensor Tensor::op(Scalar other) const { return lockstep::op(*this, other); }
LOCKSTEP_MEMBER(mul)
LOCKSTEP_MEMBER(div)
LOCKSTEP_MEMBER(eq)
LOCKSTEP_MEMBER(ne)
LOCKSTEP_MEMBER(lt)
LOCKSTEP_MEMBER(le)
LOCKSTEP_MEMBER(gt)
LOCKSTEP_MEMBER(ge)
#undef LOCKSTEP_MEMBER

namespace {

Tensor scaled_sum(const Tensor& a, const Tensor& b, double alpha) {
  return alpha == 1 ? add(a, b) : add_scaled(a, b, alpha);
}

}  // namespace

Tensor Tensor::add(const Tensor& other, Scalar alpha) const {
  pointwise::check_alpha(*this, other, alpha);
  return scaled_sum(*this, other, alpha.to<double>());
}
Tensor Tensor::add(Scalar other) const { return lockstep::add(*this, other); }
Tensor Tensor::sub(const Tensor& other, Scalar alpha) const {
  pointwise::check_subtraction(*this, other);
  pointwise::check_alpha(*this, other, alpha);
  const auto factor = alpha.to<double>();
  if (factor == 1) return lockstep::sub(*this, other);
  return autograd::renamed(add_scaled(*this, other, -factor), "SubBackward0");
}
Tensor Tensor::sub(Scalar other) const { return lockstep::sub(*this, other); }

Tensor Tensor::pow(Scalar exponent) const { return lockstep::pow(*this, exponent); }
Tensor Tensor::pow(const Tensor& exponent) const { return lockstep::pow(*this, exponent); }
const Tensor& Tensor::pow_(Scalar exponent) const { return lockstep::pow_(*this, exponent); }
Tensor Tensor::clamp(double low, double high) const { return lockstep::clamp(*this, low, high); }
Tensor Tensor::clamp(const Tensor& low, const Tensor& high) const {
  return lockstep::clamp(*this, low, high);
}
const Tensor& Tensor::clamp_(double low, double high) const {
  return lockstep::clamp_(*this, low, high);
}

}  // namespace lockstep
