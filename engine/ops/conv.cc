#include "lockstep/engine/ops/conv.h"

#include <algorithm>
#include <span>
#include <string>

#include "lockstep/engine/autograd/backward.h"
#include "lockstep/engine/autograd/op_node.h"
#include "lockstep/engine/ops/autocast.h"
#include "lockstep/engine/ops/implemented.h"
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

// The three products of a convolution are each linear in two arguments, and the derivatives of each
// are the other two; so any order of differentiation stays within these functions.
Tensor input_gradient(const Tensor& gy, const Tensor& weight, const Dims& x_sizes,
                      const Conv2dParams& params,
                      std::string_view label = "ConvolutionBackwardInputBackward0",
                      const Tensor& bias = {});  // added to each channel
Tensor weight_gradient(const Tensor& gy, const Tensor& x, const Dims& w_sizes,
                       const Conv2dParams& params);

struct ConvolutionBackward0 final : OpNode<2> {
  Conv2dParams params;
  Dims x_sizes, w_sizes;
  std::string_view name() const override { return "ConvolutionBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    const Tensor& gy = gradients[0];
    if (autograd::grad_enabled()) {
      if (needs(0)) results[0] = input_gradient(gy, saved(1), x_sizes, params);
      if (needs(1)) results[1] = weight_gradient(gy, saved(0), w_sizes, params);
      if (needs(2)) results[2] = sum(gy, {0, 2, 3});
      return;
    }
    if (needs(1) || needs(2)) parameter_gradients(gy, results);
    if (needs(0)) results[0] = input_gradient(gy, saved(1), x_sizes, params);
  }

 private:
  // Weight and bias in one pass over gy, in their buckets where possible.
  void parameter_gradients(const Tensor& gy, std::span<Tensor> results) {
    const auto target = [&](size_t i, const Dims& sizes) {
      const Tensor destination = autograd::gradient_destination(edges()[i]);
      return destination.defined() ? destination : empty_dense(sizes, gy.dtype(), gy.device());
    };
    if (!needs(1)) {
      results[2] = sum(gy, {0, 2, 3});
      return;
    }
    const Tensor x = saved(0);
    results[1] = target(1, w_sizes);
    if (needs(2)) results[2] = target(2, {w_sizes[0]});
    backend_of(gy).conv2d_weight_gradient(results[1], results[2], like_layout(gy, x), x, params);
  }
};

struct InputGradientBackward final : OpNode<2> {
  Conv2dParams params;
  Dims w_sizes;
  std::string_view label = "ConvolutionBackwardInputBackward0";
  std::string_view name() const override { return label; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    const Tensor& g = gradients[0];
    if (needs(0)) results[0] = conv2d(g, saved(1), {}, params);
    if (needs(1)) results[1] = weight_gradient(saved(0), g, w_sizes, params);
    if (needs(2)) results[2] = sum(g, {0, 2, 3});
  }
};

struct WeightGradientBackward final : OpNode<2> {
  Conv2dParams params;
  Dims x_sizes;
  std::string_view name() const override { return "ConvolutionBackwardWeightBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    const Tensor& g = gradients[0];
    if (needs(0)) results[0] = conv2d(saved(1), g, {}, params);
    if (needs(1)) results[1] = input_gradient(saved(0), g, x_sizes, params);
  }
};

Tensor input_gradient(const Tensor& gy, const Tensor& weight, const Dims& x_sizes,
                      const Conv2dParams& params, std::string_view label, const Tensor& bias) {
  const Tensor dense = activation_layout(gy.detach());
  const Tensor gx = empty_in_layout_of(dense, x_sizes);
  backend_of(gy).conv2d_input_gradient(gx, dense, weight.detach().contiguous(), params);
  if (bias.defined()) {
    const autograd::NoGrad no_grad;
    gx.add_(bias.view({-1, 1, 1}));
  }
  if (auto node = record<InputGradientBackward>(gx, gy, weight, bias)) {
    node->params = params;
    node->label = label;
    node->w_sizes = weight.sizes();
    node->save(0, gy);
    node->save(1, weight);
  }
  return gx;
}

Tensor weight_gradient(const Tensor& gy, const Tensor& x, const Dims& w_sizes,
                       const Conv2dParams& params) {
  const Tensor dense = activation_layout(x.detach());
  const Tensor gw = empty_dense(w_sizes, gy.dtype(), gy.device());
  backend_of(gy).conv2d_weight_gradient(gw, {}, like_layout(gy.detach(), dense), dense, params);
  if (auto node = record<WeightGradientBackward>(gw, gy, x)) {
    node->params = params;
    node->x_sizes = x.sizes();
    node->save(0, gy);
    node->save(1, x);
  }
  return gw;
}

// `dims` is that of a batch and of the weight.
void check_dimensions(const char* name, const Tensor& x, const Tensor& weight, int dims) {
  check(x.dim() == dims || x.dim() == dims - 1,
        "Expected {}D (unbatched) or {}D (batched) input to {}, but got input of size: {}",
        dims - 1, dims, name, x.sizes());
  check(weight.dim() == dims, "[{}] expects a weight of {} dimensions, got {}", name, dims,
        weight.sizes());
}

void check_types(const char* name, const Tensor& x, const Tensor& weight, const Tensor& bias) {
  check(x.dtype() == weight.dtype(), "expected scalar type {} but found {}", type_name(x.dtype()),
        type_name(weight.dtype()));
  check(!bias.defined() || bias.dtype() == x.dtype(),
        "Input type (torch.{}Tensor) and bias type (torch.{}Tensor) should be the same",
        type_name(x.dtype()), bias.defined() ? type_name(bias.dtype()) : "");
  check_floating(name, x.dtype());
}

// Both take one number for each dimension of space.
void check_steps(std::span<const int64_t> stride, std::span<const int64_t> padding,
                 std::span<const int64_t> dilation, int64_t groups) {
  const auto all = [](std::span<const int64_t> values, int64_t least) {
    return std::all_of(values.begin(), values.end(), [&](int64_t v) { return v >= least; });
  };
  check(groups > 0, "non-positive groups is not supported");
  check(all(padding, 0), "negative padding is not supported");
  check(all(stride, 1), "non-positive stride is not supported");
  check(all(dilation, 1), "dilation should be greater than zero, but got {}", Dims(dilation));
}

std::string product_of_sizes(const Dims& sizes) {
  std::string text;
  for (int64_t n : sizes) text += (text.empty() ? "" : " x ") + std::to_string(n);
  return text;
}

// Of a batched convolution, in its own dimensions.
void check_convolution(const char* name, const Tensor& x, const Tensor& weight, const Tensor& bias,
                       std::span<const int64_t> stride, std::span<const int64_t> padding,
                       std::span<const int64_t> dilation, int64_t groups) {
  check_steps(stride, padding, dilation, groups);
  check(weight.size(0) % groups == 0,
        "Given groups={}, expected weight to be divisible by {} at dimension 0, but got weight of "
        "size {} instead",
        groups, groups, weight.sizes());
  check(x.size(1) == weight.size(1) * groups,
        "Given groups={}, weight of size {}, expected input{} to have {} channels, but got {} "
        "channels instead",
        groups, weight.sizes(), x.sizes(), weight.size(1) * groups, x.size(1));
  check(!bias.defined() || (bias.dim() == 1 && bias.size(0) == weight.size(0)),
        "Given weight of size {}, expected bias to be 1-dimensional with {} elements, but got bias "
        "of size {} instead",
        weight.sizes().str(), weight.size(0), bias.defined() ? bias.sizes().str() : "");
  Dims padded, reach;
  bool fits = true;
  for (int i = 0; i < static_cast<int>(stride.size()); ++i) {
    const auto at = static_cast<size_t>(i);
    padded.push_back(x.size(2 + i) + 2 * padding[at]);
    reach.push_back(dilation[at] * (weight.size(2 + i) - 1) + 1);
    fits = fits && padded.back() >= reach.back();
  }
  check(fits,
        "Calculated padded input size per channel: ({}). Kernel size: ({}). Kernel size can't be "
        "greater than actual input size",
        product_of_sizes(padded), product_of_sizes(reach));
  check_types(name, x, weight, bias);
}

}  // namespace

Tensor conv2d(const Tensor& x, const Tensor& weight, const Tensor& bias,
              const Conv2dParams& params) {
  LOCKSTEP_AUTOCAST(conv2d, x, weight, bias, params);
  check_dimensions("conv2d", x, weight, 4);
  if (x.dim() == 3) return conv2d(x.unsqueeze(0), weight, bias, params).squeeze(0);
  check_convolution("conv2d", x, weight, bias, params.stride, params.padding, params.dilation,
                    params.groups);
  int64_t out[2];
  for (int i = 0; i < 2; ++i) {
    const int64_t reach = params.dilation[i] * (weight.size(2 + i) - 1) + 1;
    out[i] = (x.size(2 + i) + 2 * params.padding[i] - reach) / params.stride[i] + 1;
  }
  const Tensor dense = activation_layout(x);
  const Tensor y = empty_in_layout_of(dense, {x.size(0), weight.size(0), out[0], out[1]});
  backend_of(x).conv2d(y, dense.detach(), weight.detach().contiguous(),
                       bias.defined() ? bias.detach().contiguous() : bias, params);
  if (auto node = record<ConvolutionBackward0>(y, dense, weight, bias)) {
    node->params = params;
    node->x_sizes = x.sizes();
    node->w_sizes = weight.sizes();
    if (node->needs(1)) node->save(0, dense);
    if (node->needs(0)) node->save(1, weight);
  }
  return y;
}

// The adjoint of conv2d with respect to its input is the transposed convolution itself.
Tensor conv_transpose2d(const Tensor& x, const Tensor& weight, const Tensor& bias,
                        const ConvTranspose2dParams& params) {
  LOCKSTEP_AUTOCAST(conv_transpose2d, x, weight, bias, params);
  check_dimensions("conv_transpose2d", x, weight, 4);
  if (x.dim() == 3) return conv_transpose2d(x.unsqueeze(0), weight, bias, params).squeeze(0);
  check_steps(params.stride, params.padding, params.dilation, params.groups);
  check(x.size(1) == weight.size(0) && x.size(1) % params.groups == 0,
        "Given transposed=1, weight of size {}, expected input{} to have {} channels, but got {} "
        "channels instead",
        weight.sizes(), x.sizes(), weight.size(0), x.size(1));
  const int64_t channels = weight.size(1) * params.groups;
  check(
      !bias.defined() || (bias.dim() == 1 && bias.size(0) == channels),
      "Given transposed=1, weight of size {}, expected bias to be 1-dimensional with {} elements, "
      "but got bias of size {} instead",
      weight.sizes().str(), channels, bias.defined() ? bias.sizes().str() : "");
  check_types("conv_transpose2d", x, weight, bias);
  Conv2dParams convolution;
  convolution.groups = params.groups;
  Dims sizes = {x.size(0), channels, 0, 0};
  for (int i = 0; i < 2; ++i) {
    check(params.output_padding[i] >= 0 && (params.output_padding[i] < params.stride[i] ||
                                            params.output_padding[i] < params.dilation[i]),
          "output padding must be smaller than either stride or dilation, but got "
          "output_padding_height: {} output_padding_width: {} stride_height: {} stride_width: {} "
          "dilation_height: {} dilation_width: {}",
          params.output_padding[0], params.output_padding[1], params.stride[0], params.stride[1],
          params.dilation[0], params.dilation[1]);
    convolution.stride[i] = params.stride[i];
    convolution.padding[i] = params.padding[i];
    convolution.dilation[i] = params.dilation[i];
    sizes[2 + i] = (x.size(2 + i) - 1) * params.stride[i] - 2 * params.padding[i] +
                   params.dilation[i] * (weight.size(2 + i) - 1) + params.output_padding[i] + 1;
  }
  check(sizes[2] > 0 && sizes[3] > 0,
        "Given input size per channel: ({} x {}). Calculated output size per channel: ({} x {}). "
        "Output size is too small",
        x.size(2), x.size(3), sizes[2], sizes[3]);
  return input_gradient(x, weight, sizes, convolution, "ConvolutionBackward0", bias);
}

namespace {

// What ends a convolution over one dimension, which is run as one over two.
struct Conv1dBackward final : OpNode<1> {
  std::string_view name() const override { return "ConvolutionBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    results[0] = gradients[0].unsqueeze(2);
  }
};

}  // namespace

Tensor conv1d(const Tensor& x, const Tensor& weight, const Tensor& bias,
              const Conv1dParams& params) {
  LOCKSTEP_AUTOCAST(conv1d, x, weight, bias, params);
  check_dimensions("conv1d", x, weight, 3);
  if (x.dim() == 2) return conv1d(x.unsqueeze(0), weight, bias, params).squeeze(0);
  check_convolution("conv1d", x, weight, bias, {&params.stride, 1}, {&params.padding, 1},
                    {&params.dilation, 1}, params.groups);
  Conv2dParams flat;
  flat.stride[1] = params.stride;
  flat.padding[1] = params.padding;
  flat.dilation[1] = params.dilation;
  flat.groups = params.groups;
  const Tensor wide = conv2d(x.unsqueeze(2), weight.unsqueeze(2), bias, flat);
  Dims sizes = wide.sizes(), strides = wide.strides();
  sizes.erase(2);
  strides.erase(2);
  const Tensor y = alias_of(wide, sizes, strides, 0);
  record<Conv1dBackward>(y, wide);
  return y;
}

}  // namespace lockstep
