#include "lockstep/engine/ops/truth.h"

#include <cmath>

#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/ops/pointwise.h"
#include "lockstep/engine/ops/reduce.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"

namespace lockstep {
namespace {

// How many are true, over all dimensions or one.
Tensor count(const Tensor& truths) { return sum(truths); }
Tensor count(const Tensor& truths, int64_t dim, bool keepdim) {
  return sum(truths, {dim}, keepdim);
}

// Bytes are answered in bytes.
Tensor as_answer(const Tensor& truth, const Tensor& x) {
  return x.dtype() == DType::kUInt8 ? truth.to(DType::kUInt8) : truth;
}

}  // namespace

Tensor isnan(const Tensor& x) { return ne(x, x); }

Tensor isinf(const Tensor& x) {
  if (!is_floating(x.dtype())) return zeros(x.sizes(), {DType::kBool, x.device()});
  const autograd::NoGrad no_grad;
  return eq(abs(x), static_cast<double>(INFINITY));
}

Tensor isfinite(const Tensor& x) {
  if (!is_floating(x.dtype())) return ones(x.sizes(), {DType::kBool, x.device()});
  const autograd::NoGrad no_grad;
  return lt(abs(x), static_cast<double>(INFINITY));
}

Tensor all(const Tensor& x) { return as_answer(eq(count(eq(x, 0)), 0), x); }
Tensor all(const Tensor& x, int64_t dim, bool keepdim) {
  return as_answer(eq(count(eq(x, 0), dim, keepdim), 0), x);
}
Tensor any(const Tensor& x) { return as_answer(gt(count(ne(x, 0)), 0), x); }
Tensor any(const Tensor& x, int64_t dim, bool keepdim) {
  return as_answer(gt(count(ne(x, 0), dim, keepdim), 0), x);
}

bool equal(const Tensor& a, const Tensor& b) {
  return a.sizes() == b.sizes() && all(eq(a, b)).item<bool>();
}

bool allclose(const Tensor& a, const Tensor& b, double rtol, double atol, bool equal_nan) {
  check(a.dtype() == b.dtype(), "{} did not match {}", type_name(a.dtype()), type_name(b.dtype()));
  check(rtol >= 0 && atol >= 0,
        "rtol and atol must be greater than or equal to zero, but got {} "
        "and {}",
        rtol, atol);
  const autograd::NoGrad no_grad;
  const auto wide = [](const Tensor& t) { return t.to(DType::kFloat64); };
  const Tensor bound = add(mul(abs(wide(b)), rtol), atol);
  Tensor close = logical_and(le(abs(sub(wide(a), wide(b))), bound), isfinite(b));
  close = logical_or(close, eq(a, b));
  if (equal_nan) close = logical_or(close, logical_and(isnan(a), isnan(b)));
  return all(close).item<bool>();
}

Tensor Tensor::all() const { return lockstep::all(*this); }
Tensor Tensor::any() const { return lockstep::any(*this); }

}  // namespace lockstep
