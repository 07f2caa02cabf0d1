#pragma once

#include <vector>

#include "lockstep/engine/tensor/tensor.h"

namespace lockstep::optim {

// Scales all gradients by min(1, max_norm / (norm + 1e-6)), norm being the Euclidean norm over all
// of them together, and returns that norm. Parameters without a gradient do not count. Throws Error
// when the norm is not finite and `error_if_nonfinite` is set.
double clip_grad_norm_(const std::vector<Tensor>& parameters, double max_norm,
                       bool error_if_nonfinite = false);

// For those that compute a norm in another way: what to scale the gradients by. Throws likewise.
double clip_coefficient(double norm, double max_norm, bool error_if_nonfinite);

// Clamps every gradient element to [-limit, limit].
void clip_grad_value_(const std::vector<Tensor>& parameters, double limit);

}  // namespace lockstep::optim
