#pragma once

#include "lockstep/engine/ops/loss.h"
#include "lockstep/nn/module.h"

namespace lockstep::nn {

using lockstep::cross_entropy;
using lockstep::mse_loss;
using lockstep::nll_loss;
using lockstep::Reduction;

// Losses as modules: (prediction, target) to a loss.
template <Tensor (*kLoss)(const Tensor&, const Tensor&, Reduction)>
struct Loss : Module {
  explicit Loss(Reduction r = Reduction::kMean) : reduction(r) {}
  Tensor forward(const Tensor& x, const Tensor& target) { return kLoss(x, target, reduction); }
  Tensor operator()(const Tensor& x, const Tensor& target) { return forward(x, target); }
  Reduction reduction;
};
using CrossEntropyLoss = Loss<cross_entropy>;
using MSELoss = Loss<mse_loss>;
using NLLLoss = Loss<nll_loss>;

}  // namespace lockstep::nn
