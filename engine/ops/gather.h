#pragma once

#include "lockstep/engine/tensor/tensor.h"

namespace lockstep {

// y[..., i, ...] = x[..., index[..., i, ...], ...] along `dim`: one element of x for each of the
// int64 `index`, which has x's dimensions and is no longer than x in any but `dim`. Here and below
// no dimensions are as good as one of size 1.
Tensor gather(const Tensor& x, int64_t dim, const Tensor& index);
// x with source[..., i, ...] added at index[..., i, ...] along `dim`; repeated places add up.
Tensor scatter_add(const Tensor& x, int64_t dim, const Tensor& index, const Tensor& source);

// Internal: zeros of `sizes` with g added at `index` along `dim`, differentiable: the adjoint of
// gather.
Tensor scatter_to_zeros(const Tensor& g, const Dims& sizes, int dim, const Tensor& index);

}  // namespace lockstep
