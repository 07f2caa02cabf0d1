#include "lockstep/nn/losses.h"

#include "lockstep/engine/tensor/check.h"

namespace lockstep::nn {
namespace {

Reduction checked(Reduction reduction) {
  check(reduction != Reduction::kBatchMean, "batchmean is not a valid value for reduction");
  return reduction;
}

}  // namespace

MSELoss::MSELoss(Reduction reduction) : reduction_(checked(reduction)) {}

Tensor MSELoss::forward(const Tensor& x, const Tensor& target) {
  return mse_loss(x, target, reduction_);
}

L1Loss::L1Loss(Reduction reduction) : reduction_(checked(reduction)) {}

Tensor L1Loss::forward(const Tensor& x, const Tensor& target) {
  return l1_loss(x, target, reduction_);
}

SmoothL1Loss::SmoothL1Loss(Reduction reduction, double beta)
    : reduction_(checked(reduction)), beta_(beta) {
  check(beta >= 0, "smooth_l1_loss does not support negative values for beta.");
}

Tensor SmoothL1Loss::forward(const Tensor& x, const Tensor& target) {
  return smooth_l1_loss(x, target, reduction_, beta_);
}

BCELoss::BCELoss(const Options& options) : options_(options) {
  checked(options.reduction);
  if (options.weight.defined()) register_buffer("weight", options.weight);
}

Tensor BCELoss::forward(const Tensor& x, const Tensor& target) {
  return binary_cross_entropy(x, target, options_.weight, options_.reduction);
}

BCEWithLogitsLoss::BCEWithLogitsLoss(const Options& options) : options_(options) {
  checked(options.reduction);
  if (options.weight.defined()) register_buffer("weight", options.weight);
  if (options.pos_weight.defined()) register_buffer("pos_weight", options.pos_weight);
}

Tensor BCEWithLogitsLoss::forward(const Tensor& x, const Tensor& target) {
  return binary_cross_entropy_with_logits(x, target, options_.weight, options_.pos_weight,
                                          options_.reduction);
}

NLLLoss::NLLLoss(const ClassLossOptions& options) : options_(options) {
  checked(options.reduction);
  check(options.label_smoothing == 0, "[NLLLoss] has no label smoothing; use CrossEntropyLoss");
  if (options.weight.defined()) register_buffer("weight", options.weight);
}

Tensor NLLLoss::forward(const Tensor& x, const Tensor& target) {
  return nll_loss(x, target, options_);
}

CrossEntropyLoss::CrossEntropyLoss(const ClassLossOptions& options) : options_(options) {
  checked(options.reduction);
  check(options.label_smoothing >= 0 && options.label_smoothing <= 1,
        "label_smoothing must be between 0.0 and 1.0. Got: {}", options.label_smoothing);
  if (options.weight.defined()) register_buffer("weight", options.weight);
}

Tensor CrossEntropyLoss::forward(const Tensor& x, const Tensor& target) {
  return cross_entropy(x, target, options_);
}

Tensor KLDivLoss::forward(const Tensor& x, const Tensor& target) {
  return kl_div(x, target, reduction_, log_target_);
}

}  // namespace lockstep::nn
