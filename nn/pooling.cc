#include "lockstep/nn/pooling.h"

#include "lockstep/engine/tensor/check.h"

namespace lockstep::nn {
namespace {

Pool2dParams params_of(Pair kernel, Pair stride, Pair padding, Pair dilation, bool count_padding) {
  check(kernel.height > 0 && kernel.width > 0,
        "kernel size should be greater than zero, got {} x {}", kernel.height, kernel.width);
  check(stride.height > 0 && stride.width > 0, "stride should not be zero or negative, got {} x {}",
        stride.height, stride.width);
  return {{kernel.height, kernel.width},
          {stride.height, stride.width},
          {padding.height, padding.width},
          {dilation.height, dilation.width},
          count_padding};
}

// Pooling of (N, C, L) or (C, L) as of (N, C, 1, L) or (C, 1, L).
template <typename Pool>
Tensor over_length(const char* function, const Tensor& x, Pool&& pool) {
  check(x.dim() == 2 || x.dim() == 3,
        "Expected 2 to 3 dimensions, but got {}-dimensional tensor for argument #1 'self' (while "
        "checking arguments for {})",
        x.dim(), function);
  return pool(x.unsqueeze(-2)).squeeze(-2);
}

}  // namespace

MaxPool1d::MaxPool1d(int64_t k, Options o)
    : params_(params_of({1, k}, {1, o.stride.value_or(k)}, {0, o.padding}, {1, o.dilation}, true)) {
}

Tensor MaxPool1d::forward(const Tensor& x) {
  check(x.dim() == 2 || x.dim() == 3,
        "max_pool1d: Expected 2D or 3D (batch mode) tensor with optional 0 dim batch size for "
        "input, but got:{}",
        x.sizes().str());
  return over_length("max_pool1d", x,
                     [&](const Tensor& flat) { return max_pool2d(flat, params_); });
}

MaxPool2d::MaxPool2d(Pair k, Options o)
    : params_(params_of(k, o.stride.value_or(k), o.padding, o.dilation, true)) {}

Tensor MaxPool2d::forward(const Tensor& x) { return max_pool2d(x, params_); }

AvgPool1d::AvgPool1d(int64_t k, Options o)
    : params_(
          params_of({1, k}, {1, o.stride.value_or(k)}, {0, o.padding}, 1, o.count_include_pad)) {}

Tensor AvgPool1d::forward(const Tensor& x) {
  return over_length("avg_pool1d", x,
                     [&](const Tensor& flat) { return avg_pool2d(flat, params_); });
}

AvgPool2d::AvgPool2d(Pair k, Options o)
    : params_(params_of(k, o.stride.value_or(k), o.padding, 1, o.count_include_pad)) {}

Tensor AvgPool2d::forward(const Tensor& x) { return avg_pool2d(x, params_); }

Tensor AdaptiveAvgPool1d::forward(const Tensor& x) {
  return over_length("adaptive_avg_pool1d", x,
                     [&](const Tensor& flat) { return adaptive_avg_pool2d(flat, 1, size_); });
}

Tensor AdaptiveAvgPool2d::forward(const Tensor& x) {
  return adaptive_avg_pool2d(x, size_.height, size_.width);
}

Tensor AdaptiveMaxPool2d::forward(const Tensor& x) {
  return adaptive_max_pool2d(x, size_.height, size_.width);
}

}  // namespace lockstep::nn
