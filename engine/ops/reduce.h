#pragma once

#include "lockstep/engine/tensor/tensor.h"

namespace lockstep {

// Sum over all elements (0-d) or over `dims`. Integers and bool sum to int64.
Tensor sum(const Tensor& x);
Tensor sum(const Tensor& x, const Dims& dims, bool keepdim = false);
// Floating tensors only.
Tensor mean(const Tensor& x);
Tensor mean(const Tensor& x, const Dims& dims, bool keepdim = false);
// Over all elements; ties share the gradient evenly, as PyTorch's full reductions do.
Tensor max(const Tensor& x);
Tensor min(const Tensor& x);
// int64 index of the first maximum along `dim`.
Tensor argmax(const Tensor& x, int64_t dim, bool keepdim = false);
// Euclidean norm of all elements.
Tensor norm(const Tensor& x);

}  // namespace lockstep
