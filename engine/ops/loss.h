#pragma once

#include "lockstep/engine/tensor/tensor.h"

namespace lockstep {

enum class Reduction : uint8_t { kNone, kMean, kSum };

// Negative log likelihood: log-probabilities (N, C), class indices int64 (N). Mean over samples.
Tensor nll_loss(const Tensor& log_probabilities, const Tensor& target,
                Reduction reduction = Reduction::kMean);
// log_softmax and nll_loss of logits (N, C).
Tensor cross_entropy(const Tensor& logits, const Tensor& target,
                     Reduction reduction = Reduction::kMean);
// (x - target)^2, same shapes.
Tensor mse_loss(const Tensor& x, const Tensor& target, Reduction reduction = Reduction::kMean);

}  // namespace lockstep
