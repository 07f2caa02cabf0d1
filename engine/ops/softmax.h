#pragma once

#include "lockstep/engine/tensor/tensor.h"

namespace lockstep {

Tensor log_softmax(const Tensor& x, int64_t dim);
Tensor softmax(const Tensor& x, int64_t dim);

}  // namespace lockstep
