#pragma once

#include "lockstep/engine/tensor/tensor.h"

namespace lockstep {

// Zeroes each element with probability p and scales the rest by 1 / (1 - p); the identity when not
// training. Draws from the calling thread's generator (random.h).
Tensor dropout(const Tensor& x, double p, bool training);

}  // namespace lockstep
