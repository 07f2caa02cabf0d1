#pragma once

#include <string_view>

#include "lockstep/engine/ops/nll_loss.h"
#include "lockstep/engine/tensor/tensor.h"

namespace lockstep {

// Element by element, x and target broadcast; then reduced. The wider dtype of the two counts, even
// if that one has no dimensions.

// (x - target)^2.
Tensor mse_loss(const Tensor& x, const Tensor& target, Reduction reduction = Reduction::kMean);
// |x - target|.
Tensor l1_loss(const Tensor& x, const Tensor& target, Reduction reduction = Reduction::kMean);
// Half the square over beta where |x - target| < beta, |x - target| - beta / 2 elsewhere.
Tensor smooth_l1_loss(const Tensor& x, const Tensor& target, Reduction reduction = Reduction::kMean,
                      double beta = 1);
// -(target log(x) + (1 - target) log(1 - x)) of probabilities x; logarithms end at -100. `weight`
// multiplies the losses.
Tensor binary_cross_entropy(const Tensor& x, const Tensor& target, const Tensor& weight = {},
                            Reduction reduction = Reduction::kMean);
// The same of sigmoid(x), without its rounding; pos_weight multiplies the positive term.
Tensor binary_cross_entropy_with_logits(const Tensor& x, const Tensor& target,
                                        const Tensor& weight = {}, const Tensor& pos_weight = {},
                                        Reduction reduction = Reduction::kMean);
// target (log(target) - x) of log-probabilities x; with log_target the target is logarithmic too.
// kBatchMean divides the sum by the batch size.
Tensor kl_div(const Tensor& x, const Tensor& target, Reduction reduction = Reduction::kMean,
              bool log_target = false);

}  // namespace lockstep
