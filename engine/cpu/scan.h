#pragma once

#include "lockstep/engine/tensor/tensor.h"

// Running sums and sorting along a dimension; see Backend for the contracts.
namespace lockstep::cpu {

void cumsum_along(const Tensor& out, const Tensor& in, int dim, bool reverse);
void sort_along(const Tensor& values, const Tensor& indices, const Tensor& in, int dim,
                bool descending);

}  // namespace lockstep::cpu
