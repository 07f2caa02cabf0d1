#pragma once

#include "engine/op_cases.h"

namespace lockstep::testing {

void add_pointwise_cases(std::vector<OpCase>& cases);
void add_dense_cases(std::vector<OpCase>& cases);  // matmul, convolution, pooling, norm, losses
void add_shape_cases(std::vector<OpCase>& cases);  // reductions, views, copies, in-place
void add_more_cases(std::vector<OpCase>& cases);   // indexing, sorting, statistics, einsum, ...

}  // namespace lockstep::testing
