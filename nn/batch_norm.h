#pragma once

#include <optional>

#include "lockstep/nn/module.h"

namespace lockstep::nn {

// Batch normalisation per channel. In training it uses the batch's statistics and updates the
// running ones; in evaluation it uses the running ones.
class BatchNorm : public Layer {
 public:
  struct Options {
    double eps = 1e-5;
    std::optional<double> momentum = 0.1;  // none: a cumulative average
    bool affine = true;
    bool track_running_stats = true;
  };

  Tensor forward(const Tensor& x) override;

  Tensor weight, bias;                                    // (C), ones and zeros at first
  Tensor running_mean, running_var, num_batches_tracked;  // zeros, ones, 0

 protected:
  BatchNorm(int64_t features, Options options);

 private:
  virtual void check_input(const Tensor& x) const = 0;

  Options options_;
};

// Of (N, C) or (N, C, L).
class BatchNorm1d : public BatchNorm {
 public:
  BatchNorm1d(int64_t features, Options options) : BatchNorm(features, options) {}
  explicit BatchNorm1d(int64_t features) : BatchNorm(features, Options()) {}

 private:
  void check_input(const Tensor& x) const override;
};

// Of (N, C, H, W).
class BatchNorm2d : public BatchNorm {
 public:
  BatchNorm2d(int64_t features, Options options) : BatchNorm(features, options) {}
  explicit BatchNorm2d(int64_t features) : BatchNorm(features, Options()) {}

 private:
  void check_input(const Tensor& x) const override;
};

}  // namespace lockstep::nn
