#pragma once

#include <string_view>

#include "lockstep/engine/tensor/tensor.h"

namespace lockstep {

enum class Reduction : uint8_t { kNone, kMean, kSum, kBatchMean };
// "none", "mean", "sum" or "batchmean" (kl_div only).
Reduction reduction_from_name(std::string_view name);

struct ClassLossOptions {
  Tensor weight{};              // (C): of each class, in the mean's divisor too; or undefined
  int64_t ignore_index = -100;  // targets of this class count for nothing
  Reduction reduction = Reduction::kMean;
  double label_smoothing = 0;  // cross_entropy: the part of the target spread over all classes
};

// Negative log likelihood: log-probabilities (N, C, ...) or (C), class indices int64 (N, ...) or
// 0-d. The mean is over the samples that count.
Tensor nll_loss(const Tensor& log_probabilities, const Tensor& target,
                const ClassLossOptions& options);
Tensor nll_loss(const Tensor& log_probabilities, const Tensor& target,
                Reduction reduction = Reduction::kMean);
// log_softmax over the classes and nll_loss of logits (N, C, ...) or (C). Floating targets of the
// logits' shape are probabilities. Backward wants the logits as they were, where PyTorch keeps the
// log-probabilities beside them: writing to them between the two is an error.
Tensor cross_entropy(const Tensor& logits, const Tensor& target, const ClassLossOptions& options);
Tensor cross_entropy(const Tensor& logits, const Tensor& target,
                     Reduction reduction = Reduction::kMean);

}  // namespace lockstep
