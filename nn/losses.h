#pragma once

#include "lockstep/engine/ops/loss.h"
#include "lockstep/nn/module.h"

namespace lockstep::nn {

using lockstep::binary_cross_entropy;
using lockstep::binary_cross_entropy_with_logits;
using lockstep::cross_entropy;
using lockstep::kl_div;
using lockstep::l1_loss;
using lockstep::mse_loss;
using lockstep::nll_loss;
using lockstep::Reduction;
using lockstep::smooth_l1_loss;

// Losses as modules: (prediction, target) to a loss, by the function of the same name. Weights are
// buffers, so that they move and are saved with the module.
class Loss : public Module {
 public:
  virtual Tensor forward(const Tensor& x, const Tensor& target) = 0;
  Tensor operator()(const Tensor& x, const Tensor& target) { return forward(x, target); }
};

class MSELoss : public Loss {
 public:
  explicit MSELoss(Reduction reduction = Reduction::kMean);
  Tensor forward(const Tensor& x, const Tensor& target) override;

 private:
  Reduction reduction_;
};

class L1Loss : public Loss {
 public:
  explicit L1Loss(Reduction reduction = Reduction::kMean);
  Tensor forward(const Tensor& x, const Tensor& target) override;

 private:
  Reduction reduction_;
};

class SmoothL1Loss : public Loss {
 public:
  explicit SmoothL1Loss(Reduction reduction = Reduction::kMean, double beta = 1.0);
  Tensor forward(const Tensor& x, const Tensor& target) override;

 private:
  Reduction reduction_;
  double beta_;
};

class BCELoss : public Loss {
 public:
  struct Options {
    Tensor weight{};  // multiplies the losses; or undefined
    Reduction reduction = Reduction::kMean;
  };

  explicit BCELoss(const Options& options);
  explicit BCELoss(Reduction reduction = Reduction::kMean) : BCELoss(Options{{}, reduction}) {}
  Tensor forward(const Tensor& x, const Tensor& target) override;

 private:
  Options options_;
};

class BCEWithLogitsLoss : public Loss {
 public:
  struct Options {
    Tensor weight{};
    Reduction reduction = Reduction::kMean;
    Tensor pos_weight{};  // multiplies the positive term; or undefined
  };

  explicit BCEWithLogitsLoss(const Options& options);
  explicit BCEWithLogitsLoss(Reduction reduction = Reduction::kMean)
      : BCEWithLogitsLoss(Options{{}, reduction, {}}) {}
  Tensor forward(const Tensor& x, const Tensor& target) override;

 private:
  Options options_;
};

class NLLLoss : public Loss {
 public:
  explicit NLLLoss(const ClassLossOptions& options);  // without label_smoothing
  explicit NLLLoss(Reduction reduction = Reduction::kMean)
      : NLLLoss(ClassLossOptions{.reduction = reduction}) {}
  Tensor forward(const Tensor& x, const Tensor& target) override;

 private:
  ClassLossOptions options_;
};

class CrossEntropyLoss : public Loss {
 public:
  explicit CrossEntropyLoss(const ClassLossOptions& options);
  explicit CrossEntropyLoss(Reduction reduction = Reduction::kMean)
      : CrossEntropyLoss(ClassLossOptions{.reduction = reduction}) {}
  Tensor forward(const Tensor& x, const Tensor& target) override;

 private:
  ClassLossOptions options_;
};

class KLDivLoss : public Loss {
 public:
  explicit KLDivLoss(Reduction reduction = Reduction::kMean, bool log_target = false)
      : reduction_(reduction), log_target_(log_target) {}
  Tensor forward(const Tensor& x, const Tensor& target) override;

 private:
  Reduction reduction_;
  bool log_target_;
};

}  // namespace lockstep::nn
