#include "lockstep/engine/ops/pool.h"

#include <optional>
#include <vector>

#include "lockstep/engine/autograd/op_node.h"
#include "lockstep/engine/autograd/renamed.h"
#include "lockstep/engine/ops/extreme.h"
#include "lockstep/engine/ops/implemented.h"
#include "lockstep/engine/ops/join.h"
#include "lockstep/engine/ops/layout.h"
#include "lockstep/engine/ops/pointwise.h"
#include "lockstep/engine/ops/reduce.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep {
namespace {

using autograd::OpNode;
using autograd::record;

void check_window(const Pool2dParams& p) {
  for (int i = 0; i < 2; ++i) {
    check(p.stride[i] != 0, "stride should not be zero");
    check(p.padding[i] >= 0, "pad must be non-negative, but got pad: {}", p.padding[i]);
    check(p.padding[i] <= p.kernel[i] / 2,
          "pad should be at most half of kernel size, but got pad={} and kernel_size={}",
          p.padding[i], p.kernel[i]);
  }
  const auto positive = [](const int64_t(&values)[2]) { return values[0] > 0 && values[1] > 0; };
  check(positive(p.kernel), "kernel size should be greater than zero, but got kH: {} kW: {}",
        p.kernel[0], p.kernel[1]);
  check(positive(p.stride), "stride should be greater than zero, but got dH: {} dW: {}",
        p.stride[0], p.stride[1]);
  check(positive(p.dilation),
        "dilation should be greater than zero, but got dilationH: {} dilationW: {}", p.dilation[0],
        p.dilation[1]);
}

Dims pooled_sizes(const char* name, const Tensor& x, const Pool2dParams& p) {
  check(x.dim() == 4, "non-empty 3D or 4D (batch mode) tensor expected for input");
  check_floating(name, x.dtype());
  check_window(p);
  check(x.size(1) > 0 && x.size(2) > 0 && x.size(3) > 0,
        "Expected 3D or 4D (batch mode) tensor with optional 0 dim batch size for input, but "
        "got:{}",
        x.sizes());
  Dims sizes = x.sizes();
  for (int i = 0; i < 2; ++i) {
    const int64_t room = sizes[2 + i] + 2 * p.padding[i] - p.dilation[i] * (p.kernel[i] - 1) - 1;
    // Rounded down, below zero too.
    sizes[2 + i] = room >= 0 ? room / p.stride[i] + 1 : 1 - (p.stride[i] - 1 - room) / p.stride[i];
  }
  check(
      sizes[2] > 0 && sizes[3] > 0,
      "Given input size: ({}x{}x{}). Calculated output size: ({}x{}x{}). Output size is too small",
      x.size(1), x.size(2), x.size(3), x.size(1), sizes[2], sizes[3]);
  return sizes;
}

template <typename Pool>
Tensor as_batch_of_one(const Tensor& x, std::string_view label, Pool&& pool) {
  return autograd::renamed(pool(x.unsqueeze(0)).squeeze(0), label);
}

Pool2dParams square_window(int64_t kernel) {
  return {.kernel = {kernel, kernel}, .stride = {kernel, kernel}};
}

Tensor max_pool_gradient(const Tensor& gy, const Tensor& indices, const Dims& x_sizes,
                         const Pool2dParams& params);

// What max_pool2d chose, read from another tensor of x's shape: the gradient of the gradient.
Tensor take_indices(const Tensor& x, const Tensor& indices) {
  const int64_t planes = x.size(0) * x.size(1), area = x.size(2) * x.size(3);
  const Tensor flat_index = indices.contiguous().to(DType::kInt64).view({planes, -1});
  const Tensor flat = x.contiguous().view({-1});
  const Tensor planes_begin = arange(0, planes, 1, {DType::kInt64, x.device()}).unsqueeze(1) * area;
  const Tensor positions = flat_index + planes_begin;
  const Tensor out = empty_dense(indices.sizes(), x.dtype(), x.device());
  backend_of(x).index_select(out.view({-1}), flat, 0, positions.view({-1}));
  return out;
}

struct MaxPoolGradientBackward final : OpNode<1> {
  Pool2dParams params;
  std::string_view name() const override { return "MaxPool2DWithIndicesBackwardBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override;
};

struct MaxPool2DWithIndicesBackward0 final : OpNode<1> {
  Pool2dParams params;
  Dims x_sizes;
  std::string_view name() const override { return "MaxPool2DWithIndicesBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    results[0] = max_pool_gradient(gradients[0], saved(0), x_sizes, params);
  }
};

Tensor max_pool_gradient(const Tensor& gy, const Tensor& indices, const Dims& x_sizes,
                         const Pool2dParams& params) {
  const Tensor dense = like_layout(gy.detach(), indices);
  const Tensor gx = empty_in_layout_of(dense, x_sizes);
  backend_of(gy).max_pool2d_gradient(gx, dense, indices, params);
  if (auto node = record<MaxPoolGradientBackward>(gx, gy)) {
    node->params = params;
    node->save(0, indices);
  }
  return gx;
}

void MaxPoolGradientBackward::apply(std::span<Tensor> gradients, std::span<Tensor> results) {
  const Tensor indices = saved(0);
  const Tensor y = take_indices(gradients[0].detach(), indices);
  if (auto node = record<MaxPool2DWithIndicesBackward0>(y, gradients[0])) {
    node->params = params;
    node->x_sizes = gradients[0].sizes();
    node->save(0, indices);
  }
  results[0] = y;
}

Tensor avg_pool_gradient(const Tensor& gy, const Dims& x_sizes, const Pool2dParams& params);

struct AvgPoolGradientBackward final : OpNode<1> {
  Pool2dParams params;
  std::string_view name() const override { return "AvgPool2DBackwardBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    results[0] = avg_pool2d(gradients[0], params);
  }
};

struct AvgPool2DBackward0 final : OpNode<1> {
  Pool2dParams params;
  Dims x_sizes;
  std::string_view name() const override { return "AvgPool2DBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    results[0] = avg_pool_gradient(gradients[0], x_sizes, params);
  }
};

Tensor avg_pool_gradient(const Tensor& gy, const Dims& x_sizes, const Pool2dParams& params) {
  const Tensor dense = any_dense_layout(gy.detach());
  const Tensor gx = empty_in_layout_of(dense, x_sizes);
  backend_of(gy).avg_pool2d_gradient(gx, dense, params);
  if (auto node = record<AvgPoolGradientBackward>(gx, gy)) node->params = params;
  return gx;
}

}  // namespace

Tensor max_pool2d(const Tensor& x, const Pool2dParams& params) {
  if (x.dim() == 3) {
    return as_batch_of_one(x, "MaxPool2DWithIndicesBackward0",
                           [&](const Tensor& batch) { return max_pool2d(batch, params); });
  }
  const Dims sizes = pooled_sizes("max_pool2d", x, params);
  const Tensor dense = any_dense_layout(x);
  const Tensor y = empty_in_layout_of(dense, sizes);
  const Tensor indices = dense.is_channels_last()
                             ? empty_channels_last(sizes, DType::kInt32, x.device())
                             : empty_dense(sizes, DType::kInt32, x.device());
  backend_of(x).max_pool2d(y, indices, dense.detach(), params);
  if (auto node = record<MaxPool2DWithIndicesBackward0>(y, dense)) {
    node->params = params;
    node->x_sizes = x.sizes();
    node->save(0, indices);
  }
  return y;
}

Tensor avg_pool2d(const Tensor& x, const Pool2dParams& params) {
  if (x.dim() == 3) {
    return as_batch_of_one(x, "AvgPool2DBackward0",
                           [&](const Tensor& batch) { return avg_pool2d(batch, params); });
  }
  check(params.dilation[0] == 1 && params.dilation[1] == 1, "[avg_pool2d] has no dilation");
  const Dims sizes = pooled_sizes("avg_pool2d", x, params);
  const Tensor dense = any_dense_layout(x);
  const Tensor y = empty_in_layout_of(dense, sizes);
  backend_of(x).avg_pool2d(y, dense.detach(), params);
  if (auto node = record<AvgPool2DBackward0>(y, dense)) {
    node->params = params;
    node->x_sizes = x.sizes();
  }
  return y;
}

Tensor max_pool2d(const Tensor& x, int64_t kernel) { return max_pool2d(x, square_window(kernel)); }
Tensor avg_pool2d(const Tensor& x, int64_t kernel) { return avg_pool2d(x, square_window(kernel)); }

namespace {

// One dimension's windows: window(x, i) is the reduction over the i-th, which keeps size 1.
template <typename Reduce>
Tensor over_windows(const Tensor& x, int dim, int64_t outputs, Reduce&& reduce) {
  const int64_t n = x.size(dim);
  std::vector<Tensor> parts;
  for (int64_t i = 0; i < outputs; ++i) {
    const int64_t begin = i * n / outputs, end = ((i + 1) * n + outputs - 1) / outputs;
    parts.push_back(reduce(x.narrow(dim, begin, end - begin), dim));
  }
  return cat(parts, dim);
}

void check_adaptive(const char* name, const Tensor& x, int64_t height, int64_t width) {
  check(x.dim() == 4, "{}(): Expected 3D or 4D tensor, but got {}", name, x.sizes());
  for (int d = 1; d < 4; ++d) {
    check(
        x.size(d) > 0,
        "{}(): Expected input to have non-zero size for non-batch dimensions, but input has sizes "
        "{} with dimension {} being empty",
        name, x.sizes(), d);
  }
  check(height >= 0 && width >= 0,
        "{}: elements of output_size must be greater than or equal to 0 but received {{{}, {}}}",
        name, height, width);
}

// No windows at all, in x's place in the graph.
Tensor without_windows(const Tensor& x, int64_t height, int64_t width) {
  return x.narrow(2, 0, 0).reshape({x.size(0), x.size(1), height, width});
}

// Equal windows side by side, which the ordinary kernels do; none where sizes do not divide.
std::optional<Pool2dParams> even_windows(const Tensor& x, int64_t height, int64_t width) {
  if (x.size(2) % height != 0 || x.size(3) % width != 0) return std::nullopt;
  const int64_t h = x.size(2) / height, w = x.size(3) / width;
  return Pool2dParams{.kernel = {h, w}, .stride = {h, w}};
}

}  // namespace

Tensor adaptive_avg_pool2d(const Tensor& x, int64_t height, int64_t width) {
  if (x.dim() == 3) {
    return as_batch_of_one(
        x, height == 1 && width == 1 ? "MeanBackward1" : "AdaptiveAvgPool2DBackward0",
        [&](const Tensor& batch) { return adaptive_avg_pool2d(batch, height, width); });
  }
  check_adaptive("adaptive_avg_pool2d", x, height, width);
  if (height == 0 || width == 0) return without_windows(x, height, width);
  if (height == 1 && width == 1) return mean(x, {2, 3}, true);
  const auto named = [](const Tensor& y) {
    return autograd::renamed(y, "AdaptiveAvgPool2DBackward0");
  };
  if (const auto even = even_windows(x, height, width)) return named(avg_pool2d(x, *even));
  // A window's mean is the mean of its rows' means.
  const auto mean_of = [](const Tensor& part, int dim) { return mean(part, {dim}, true); };
  return named(over_windows(over_windows(x, 3, width, mean_of), 2, height, mean_of));
}

Tensor adaptive_max_pool2d(const Tensor& x, int64_t height, int64_t width) {
  if (x.dim() == 3) {
    return as_batch_of_one(x, "AdaptiveMaxPool2DBackward0", [&](const Tensor& batch) {
      return adaptive_max_pool2d(batch, height, width);
    });
  }
  check_adaptive("adaptive_max_pool2d", x, height, width);
  if (height == 0 || width == 0) return without_windows(x, height, width);
  const auto named = [](const Tensor& y) {
    return autograd::renamed(y, "AdaptiveMaxPool2DBackward0");
  };
  if (const auto even = even_windows(x, height, width)) return named(max_pool2d(x, *even));
  // Columns first: on ties the first element in row-major order keeps the gradient.
  const auto max_of = [](const Tensor& part, int dim) { return max(part, dim, true).values; };
  return named(over_windows(over_windows(x, 3, width, max_of), 2, height, max_of));
}

}  // namespace lockstep
