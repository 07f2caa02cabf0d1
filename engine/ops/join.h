#pragma once

#include <vector>

#include "lockstep/engine/tensor/tensor.h"

namespace lockstep {

// One after the other along `dim`; equal sizes elsewhere, dtypes promote.
Tensor cat(const std::vector<Tensor>& tensors, int64_t dim = 0);
// Along a new dimension; equal sizes.
Tensor stack(const std::vector<Tensor>& tensors, int64_t dim = 0);
// x as many times over as `repeats` says, dimension by dimension; it may name more than x has.
Tensor repeat(const Tensor& x, const Dims& repeats);
// Reversed along `dims`.
Tensor flip(const Tensor& x, const Dims& dims);

}  // namespace lockstep
