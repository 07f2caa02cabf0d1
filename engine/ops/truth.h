#pragma once

#include "lockstep/engine/tensor/tensor.h"

// Questions about values. The answers are bool tensors, or bool for two whole tensors.
namespace lockstep {

Tensor isnan(const Tensor& x);
Tensor isinf(const Tensor& x);
Tensor isfinite(const Tensor& x);

// Whether all (any) elements are not zero; along `dim` where it is given. Of nothing: true (false).
// A uint8 tensor is answered in uint8.
Tensor all(const Tensor& x);
Tensor all(const Tensor& x, int64_t dim, bool keepdim = false);
Tensor any(const Tensor& x);
Tensor any(const Tensor& x, int64_t dim, bool keepdim = false);

// Same sizes and values; NaN equals nothing.
bool equal(const Tensor& a, const Tensor& b);
// |a - b| <= atol + rtol |b| everywhere, with infinities equal to themselves; a and b broadcast.
bool allclose(const Tensor& a, const Tensor& b, double rtol = 1e-5, double atol = 1e-8,
              bool equal_nan = false);

}  // namespace lockstep
