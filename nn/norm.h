#pragma once

#include <optional>

#include "lockstep/engine/tensor/dims.h"
#include "lockstep/nn/module.h"

// Normalisations that need no statistics of a batch; training and evaluation are the same.
namespace lockstep::nn {

// Mean 0 and variance 1 over the last dimensions, whose sizes are normalized_shape. weight and bias
// have that shape and start as ones and zeros.
class LayerNorm : public Layer {
 public:
  struct Options {
    double eps = 1e-5;
    bool elementwise_affine = true;
    bool bias = true;
  };

  LayerNorm(const Dims& normalized_shape, Options options);
  explicit LayerNorm(const Dims& normalized_shape) : LayerNorm(normalized_shape, Options()) {}
  LayerNorm(int64_t size, Options options) : LayerNorm(Dims{size}, options) {}
  explicit LayerNorm(int64_t size) : LayerNorm(Dims{size}, Options()) {}

  Tensor forward(const Tensor& x) override;

  Tensor weight, bias;

 private:
  Dims shape_;
  double eps_;
};

// x / sqrt(mean(x^2) + eps) over the last dimensions. weight has their shape and starts as ones.
class RMSNorm : public Layer {
 public:
  struct Options {
    std::optional<double> eps{};  // none: the epsilon of the input's dtype
    bool elementwise_affine = true;
  };

  RMSNorm(const Dims& normalized_shape, Options options);
  explicit RMSNorm(const Dims& normalized_shape) : RMSNorm(normalized_shape, Options()) {}
  RMSNorm(int64_t size, Options options) : RMSNorm(Dims{size}, options) {}
  explicit RMSNorm(int64_t size) : RMSNorm(Dims{size}, Options()) {}

  Tensor forward(const Tensor& x) override;

  Tensor weight;

 private:
  Dims shape_;
  double eps_;
};

// Mean 0 and variance 1 over each of num_groups groups of neighbouring channels of (N, C, ...) and
// all that follows. weight and bias are (C) and start as ones and zeros.
class GroupNorm : public Layer {
 public:
  struct Options {
    double eps = 1e-5;
    bool affine = true;
  };

  GroupNorm(int64_t num_groups, int64_t num_channels, Options options);
  GroupNorm(int64_t num_groups, int64_t num_channels)
      : GroupNorm(num_groups, num_channels, Options()) {}

  Tensor forward(const Tensor& x) override;

  Tensor weight, bias;

 private:
  int64_t groups_;
  double eps_;
};

}  // namespace lockstep::nn
