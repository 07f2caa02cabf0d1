#pragma once

#include <vector>

#include "lockstep/engine/tensor/tensor.h"

namespace lockstep {

// The slices of `x` along `dim` that the int64 or int32 tensor `index` (1-d) names, in its order.
Tensor index_select(const Tensor& x, int64_t dim, const Tensor& index);
// x with slice i of `source` added to slice index[i] along `dim`; repeated indices add up.
Tensor index_add(const Tensor& x, int64_t dim, const Tensor& index, const Tensor& source);

// x[i, j, ...] with tensors for indices, as in PyTorch: int64 tensors (negative ones count from the
// end), which broadcast with each other, and bool or uint8 masks, each of which stands for as many
// dimensions as it has; one without any for a new one of size 1 or 0. An integer without dimensions
// is a select(), and the result a view if there is nothing else. An undefined tensor leaves a
// dimension as it is (a Python `:`).
Tensor index(const Tensor& x, const std::vector<Tensor>& indices);
// The elements of x where `mask` is true, in row-major order; both broadcast.
Tensor masked_select(const Tensor& x, const Tensor& mask);
// The indices of the elements that are not zero, one row each: int64 (n, x.dim()).
Tensor nonzero(const Tensor& x);

// Rows of weight (count, width): (..., width) for int64 or int32 indices (...). The gradient of row
// padding_idx stays zero.
Tensor embedding(const Tensor& indices, const Tensor& weight, int64_t padding_idx = -1);
// int64 (..., classes) with a one at each class of `x` (...); -1: one class more than the largest.
Tensor one_hot(const Tensor& x, int64_t classes = -1);

}  // namespace lockstep
