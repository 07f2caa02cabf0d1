#pragma once

#include "lockstep/engine/tensor/tensor.h"

namespace lockstep {

// The product of all elements (0-d) or along `dim`. Integers and bool multiply in int64. Exact
// derivatives of every order where elements are zero.
Tensor prod(const Tensor& x);
Tensor prod(const Tensor& x, int64_t dim, bool keepdim = false);
// Running sums along `dim`; integers and bool in int64.
Tensor cumsum(const Tensor& x, int64_t dim);

}  // namespace lockstep
