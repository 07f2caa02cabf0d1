#pragma once

#include "lockstep/engine/ops/conv.h"
#include "lockstep/nn/module.h"
#include "lockstep/nn/pair.h"

// Convolutions. Every weight and bias starts as U(-1/sqrt(fan_in), 1/sqrt(fan_in)).
namespace lockstep::nn {

// Of (N, C, L); weight (out, in / groups, k), bias (out).
class Conv1d : public Layer {
 public:
  struct Options {
    int64_t stride = 1;
    int64_t padding = 0;
    int64_t dilation = 1;
    int64_t groups = 1;
    bool bias = true;
  };

  Conv1d(int64_t in_channels, int64_t out_channels, int64_t kernel_size, Options options);
  Conv1d(int64_t in_channels, int64_t out_channels, int64_t kernel_size)
      : Conv1d(in_channels, out_channels, kernel_size, Options()) {}

  Tensor forward(const Tensor& x) override;

  Tensor weight, bias;

 private:
  Conv1dParams params_;
};

// Of (N, C, H, W); weight (out, in / groups, kh, kw), bias (out).
class Conv2d : public Layer {
 public:
  struct Options {
    Pair stride = 1;
    Pair padding = 0;
    Pair dilation = 1;
    int64_t groups = 1;
    bool bias = true;
  };

  Conv2d(int64_t in_channels, int64_t out_channels, Pair kernel_size, Options options);
  Conv2d(int64_t in_channels, int64_t out_channels, Pair kernel_size)
      : Conv2d(in_channels, out_channels, kernel_size, Options()) {}

  Tensor forward(const Tensor& x) override;

  Tensor weight, bias;

 private:
  Conv2dParams params_;
};

// The adjoint of a convolution, of (N, C, H, W); weight (in, out / groups, kh, kw), bias (out). Its
// fan_in is that of the convolution: out / groups kh kw.
class ConvTranspose2d : public Layer {
 public:
  struct Options {
    Pair stride = 1;
    Pair padding = 0;
    Pair output_padding = 0;  // added to one side of the output
    int64_t groups = 1;
    bool bias = true;
    Pair dilation = 1;
  };

  ConvTranspose2d(int64_t in_channels, int64_t out_channels, Pair kernel_size, Options options);
  ConvTranspose2d(int64_t in_channels, int64_t out_channels, Pair kernel_size)
      : ConvTranspose2d(in_channels, out_channels, kernel_size, Options()) {}

  Tensor forward(const Tensor& x) override;

  Tensor weight, bias;

 private:
  ConvTranspose2dParams params_;
};

}  // namespace lockstep::nn
