#include "lockstep/nn/conv.h"

#include <cmath>

#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/nn/init.h"

namespace lockstep::nn {

Conv2d::Conv2d(int64_t in_channels, int64_t out_channels, int64_t kernel_size, Options o)
    : params_{{o.stride, o.stride}, {o.padding, o.padding}, {o.dilation, o.dilation}, o.groups} {
  check(
      in_channels > 0 && out_channels > 0 && kernel_size > 0 && o.groups > 0 &&
          in_channels % o.groups == 0 && out_channels % o.groups == 0,
      "[Conv2d] {} input and {} output channels must be positive multiples of groups = {}, kernel "
      "size {} positive",
      in_channels, out_channels, o.groups, kernel_size);
  weight = register_parameter(
      "weight", empty({out_channels, in_channels / o.groups, kernel_size, kernel_size}));
  init::kaiming_uniform_(weight, std::sqrt(5.0));
  if (!o.bias) return;
  bias = register_parameter("bias", empty({out_channels}));
  const double bound = 1.0 / std::sqrt(static_cast<double>(init::fan_in(weight)));
  init::uniform_(bias, -bound, bound);
}

Tensor Conv2d::forward(const Tensor& x) { return conv2d(x, weight, bias, params_); }

}  // namespace lockstep::nn
