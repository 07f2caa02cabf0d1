#pragma once

#include "lockstep/engine/ops/conv.h"
#include "lockstep/nn/module.h"

namespace lockstep::nn {

// 2-d convolution of (N, C, H, W). weight (out, in / groups, k, k) and bias (out) start as
// U(-1/sqrt(fan_in), 1/sqrt(fan_in)).
class Conv2d : public Layer {
 public:
  struct Options {
    int64_t stride = 1;
    int64_t padding = 0;
    int64_t dilation = 1;
    int64_t groups = 1;
    bool bias = true;
  };
  Conv2d(int64_t in_channels, int64_t out_channels, int64_t kernel_size, Options options);
  Conv2d(int64_t in_channels, int64_t out_channels, int64_t kernel_size)
      : Conv2d(in_channels, out_channels, kernel_size, Options()) {}
  Tensor forward(const Tensor& x) override;

  Tensor weight, bias;

 private:
  Conv2dParams params_;
};

}  // namespace lockstep::nn
