#pragma once

#include <vector>

#include "lockstep/engine/tensor/tensor.h"

namespace lockstep {

// One after the other along `dim`; equal sizes elsewhere, dtypes promote.
Tensor cat(const std::vector<Tensor>& tensors, int64_t dim = 0);
// Along a new dimension; equal sizes.
Tensor stack(const std::vector<Tensor>& tensors, int64_t dim = 0);
// Views of `size` each, the last perhaps smaller.
std::vector<Tensor> split(const Tensor& x, int64_t size, int64_t dim = 0);
std::vector<Tensor> split(const Tensor& x, const Dims& sizes, int64_t dim = 0);
// At most `chunks` views of equal size, the last perhaps smaller.
std::vector<Tensor> chunk(const Tensor& x, int64_t chunks, int64_t dim = 0);
// x as many times over as `repeats` says, dimension by dimension; it may name more than x has.
Tensor repeat(const Tensor& x, const Dims& repeats);
// Reversed along `dims`.
Tensor flip(const Tensor& x, const Dims& dims);

}  // namespace lockstep
