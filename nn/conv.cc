#include "lockstep/nn/conv.h"

#include <cmath>

#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/nn/init.h"

namespace lockstep::nn {
namespace {

void check_sizes(const char* module, int64_t in, int64_t out, Pair kernel, int64_t groups) {
  check(in > 0 && out > 0 && kernel.height > 0 && kernel.width > 0 && groups > 0 &&
            in % groups == 0 && out % groups == 0,
        "[{}] {} input and {} output channels must be positive multiples of groups = {}, kernel "
        "size {} x {} positive",
        module, in, out, groups, kernel.height, kernel.width);
}

Tensor initial_weight(const Dims& sizes) {
  const Tensor weight = empty(sizes);
  init::kaiming_uniform_(weight, std::sqrt(5.0));
  return weight;
}

Tensor initial_bias(int64_t size, const Tensor& weight) {
  const Tensor bias = empty({size});
  const double bound = 1.0 / std::sqrt(static_cast<double>(init::fan_in(weight)));
  init::uniform_(bias, -bound, bound);
  return bias;
}

}  // namespace

Conv1d::Conv1d(int64_t in_channels, int64_t out_channels, int64_t kernel_size, Options o)
    : params_{o.stride, o.padding, o.dilation, o.groups} {
  check_sizes("Conv1d", in_channels, out_channels, {1, kernel_size}, o.groups);
  weight = register_parameter("weight",
                              initial_weight({out_channels, in_channels / o.groups, kernel_size}));
  if (o.bias) bias = register_parameter("bias", initial_bias(out_channels, weight));
}

Tensor Conv1d::forward(const Tensor& x) { return conv1d(x, weight, bias, params_); }

Conv2d::Conv2d(int64_t in_channels, int64_t out_channels, Pair kernel_size, Options o)
    : params_{{o.stride.height, o.stride.width},
              {o.padding.height, o.padding.width},
              {o.dilation.height, o.dilation.width},
              o.groups} {
  check_sizes("Conv2d", in_channels, out_channels, kernel_size, o.groups);
  weight = register_parameter("weight", initial_weight({out_channels, in_channels / o.groups,
                                                        kernel_size.height, kernel_size.width}));
  if (o.bias) bias = register_parameter("bias", initial_bias(out_channels, weight));
}

Tensor Conv2d::forward(const Tensor& x) { return conv2d(x, weight, bias, params_); }

ConvTranspose2d::ConvTranspose2d(int64_t in_channels, int64_t out_channels, Pair kernel_size,
                                 Options o)
    : params_{{o.stride.height, o.stride.width},
              {o.padding.height, o.padding.width},
              {o.output_padding.height, o.output_padding.width},
              {o.dilation.height, o.dilation.width},
              o.groups} {
  check_sizes("ConvTranspose2d", in_channels, out_channels, kernel_size, o.groups);
  weight = register_parameter("weight", initial_weight({in_channels, out_channels / o.groups,
                                                        kernel_size.height, kernel_size.width}));
  if (o.bias) bias = register_parameter("bias", initial_bias(out_channels, weight));
}

Tensor ConvTranspose2d::forward(const Tensor& x) {
  return conv_transpose2d(x, weight, bias, params_);
}

}  // namespace lockstep::nn
