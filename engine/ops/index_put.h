#pragma once

#include <vector>

#include "lockstep/engine/tensor/tensor.h"

namespace lockstep {

// x with x[indices] = values, or += values where `accumulate`. The indices are those of index();
// the values, of x's dtype, broadcast to the shape of what they name. Where a place is named twice,
// the last value stays, or with `accumulate` all of them count.
Tensor index_put(const Tensor& x, const std::vector<Tensor>& indices, const Tensor& values,
                 bool accumulate = false);

}  // namespace lockstep
