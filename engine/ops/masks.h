#pragma once

#include "lockstep/engine/tensor/tensor.h"

namespace lockstep {

// The lower (upper) triangle of each matrix (..., M, N), zero elsewhere; diagonal 0 is the main
// one, 1 the one above it.
Tensor tril(const Tensor& x, int64_t diagonal = 0);
Tensor triu(const Tensor& x, int64_t diagonal = 0);

// Internal: throws if a mask of bytes has others than 0 and 1.
void check_byte_mask(const Tensor& mask);

}  // namespace lockstep
