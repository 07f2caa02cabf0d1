#pragma once

#include <optional>

#include "lockstep/nn/module.h"

namespace lockstep::nn {

// Batch normalisation over (N, C, H, W), per channel. In training it uses the batch's statistics
// and updates the running ones; in evaluation it uses the running ones.
class BatchNorm2d : public Layer {
 public:
  struct Options {
    double eps = 1e-5;
    std::optional<double> momentum = 0.1;  // none: a cumulative average
    bool affine = true;
    bool track_running_stats = true;
  };
  BatchNorm2d(int64_t features, Options options);
  explicit BatchNorm2d(int64_t features) : BatchNorm2d(features, Options()) {}
  Tensor forward(const Tensor& x) override;

  Tensor weight, bias;                                    // (C), ones and zeros at first
  Tensor running_mean, running_var, num_batches_tracked;  // zeros, ones, 0

 private:
  Options options_;
};

}  // namespace lockstep::nn
