#pragma once

#include <vector>

#include "lockstep/engine/tensor/tensor.h"

// All give views of x. As in PyTorch, those of split, chunk and unbind take no in-place ops that a
// gradient would have to pass.
namespace lockstep {

// Parts of `size` each, the last perhaps smaller; or of the given sizes, which add up.
std::vector<Tensor> split(const Tensor& x, int64_t size, int64_t dim = 0);
std::vector<Tensor> split(const Tensor& x, const Dims& sizes, int64_t dim = 0);
// At most `chunks` parts of equal size, the last perhaps smaller.
std::vector<Tensor> chunk(const Tensor& x, int64_t chunks, int64_t dim = 0);
// The slices along `dim`, which goes.
std::vector<Tensor> unbind(const Tensor& x, int64_t dim = 0);
// Moves the dimensions `source` to the places `destination`; the others keep their order.
Tensor movedim(const Tensor& x, const Dims& source, const Dims& destination);

}  // namespace lockstep
