#include "lockstep/engine/ops/layer_norm.h"

#include <limits>

#include "lockstep/engine/autograd/op_node.h"
#include "lockstep/engine/backend.h"
#include "lockstep/engine/ops/autocast.h"
#include "lockstep/engine/ops/half.h"
#include "lockstep/engine/ops/implemented.h"
#include "lockstep/engine/ops/pointwise.h"
#include "lockstep/engine/ops/reduce.h"
#include "lockstep/engine/ops/row_norm.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep {
namespace {

using autograd::OpNode;
using autograd::record;

// Group norm standardises the rows of a matrix and then scales what it gets by weights of `affine`
// sizes. To the backend a row is a channel of a batch of one.
struct GroupNormBackward final : OpNode<4> {  // x, weight, mean, var
  int64_t rows = 0, columns = 0;
  Dims affine;
  double eps = 0;
  std::string_view name() const override { return "NativeGroupNormBackward0"; }

  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    const Tensor x = saved(0), weight = saved(1);
    const Tensor& gy = gradients[0];
    const Tensor g = weight.defined() ? mul(gy, weight.reshape(affine)) : gy;
    const bool differentiable = autograd::grad_enabled();
    if (needs(1) || (needs(0) && differentiable)) {
      const Tensor y = differentiable ? standardised(x) : standardised_fast(x);
      if (needs(1)) results[1] = sum_to_size(mul(gy, y), affine).reshape(weight.sizes());
      if (needs(0) && differentiable) results[0] = gradient_through(g, x, y);
    }
    if (needs(2)) results[2] = sum_to_size(gy, affine).reshape(bias_sizes);
    if (needs(0) && !differentiable) {
      const Tensor gx = empty_dense(x.sizes(), x.dtype(), x.device());
      backend_of(x).batch_norm_gradient(as_channels(gx), {}, {}, as_channels(g.contiguous()),
                                        as_channels(x), saved(2), saved(3), {}, eps, true);
      results[0] = gx;
    }
  }

  Dims bias_sizes;

 private:
  Tensor as_channels(const Tensor& t) const {
    return alias_of(t, {1, rows, columns}, {rows * columns, columns, 1}, t.storage_offset());
  }
  Tensor standardised_fast(const Tensor& x) {
    const Tensor y = empty_dense(x.sizes(), x.dtype(), x.device());
    backend_of(x).batch_norm(as_channels(y), as_channels(x), saved(2), saved(3), {}, {}, eps);
    return y;
  }
  Tensor inverse_deviation(const Tensor& flat) const {
    const Tensor centred = sub(flat, mean(flat, {1}, true));
    return rsqrt(add(mean(mul(centred, centred), {1}, true), eps));
  }
  Tensor standardised(const Tensor& x) const {
    const Tensor flat = x.reshape({rows, columns});
    return mul(sub(flat, mean(flat, {1}, true)), inverse_deviation(flat)).reshape(x.sizes());
  }
  // (g - mean(g) - y mean(g y)) / deviation, row by row.
  Tensor gradient_through(const Tensor& g, const Tensor& x, const Tensor& y) const {
    const Tensor gf = g.reshape({rows, columns}), yf = y.reshape({rows, columns});
    const Tensor rest = sub(sub(gf, mean(gf, {1}, true)), mul(yf, mean(mul(gf, yf), {1}, true)));
    return mul(rest, inverse_deviation(x.reshape({rows, columns}))).reshape(x.sizes());
  }
};

Tensor normalised_groups(const Tensor& x, int64_t rows, int64_t columns, const Tensor& weight,
                         const Tensor& bias, const Dims& affine, double eps) {
  check_floating("group_norm", x.dtype());
  if (is_half(x.dtype())) {
    const Tensor y =
        normalised_groups(widened(x), rows, columns, widened(weight), widened(bias), affine, eps);
    return narrowed(y, x.dtype(), "NativeGroupNormBackward0");
  }
  const Tensor dense = x.contiguous();
  Tensor y = empty_dense(x.sizes(), x.dtype(), x.device());
  const Tensor average = empty_dense({rows}, x.dtype(), x.device());
  const Tensor variance = empty_dense({rows}, x.dtype(), x.device());
  {
    const autograd::NoGrad no_grad;
    if (x.numel() > 0) {
      const auto as_channels = [&](const Tensor& t) {
        return alias_of(t, {1, rows, columns}, {rows * columns, columns, 1}, t.storage_offset());
      };
      backend_of(x).batch_statistics(average, variance, as_channels(dense));
      backend_of(x).batch_norm(as_channels(y), as_channels(dense), average, variance, {}, {}, eps);
    }
    if (weight.defined()) y = mul(y, weight.reshape(affine));
    if (bias.defined()) y = add(y, bias.reshape(affine));
  }
  if (auto node = record<GroupNormBackward>(y, dense, weight, bias)) {
    node->rows = rows;
    node->columns = columns;
    node->affine = affine;
    node->eps = eps;
    if (bias.defined()) node->bias_sizes = bias.sizes();
    node->save(0, dense);
    node->save(1, weight);
    node->save(2, average);
    node->save(3, variance);
  }
  return y;
}

// `shape` must be x's last sizes.
void check_shape(const Tensor& x, const Dims& shape, const Tensor& weight, const Tensor& bias) {
  check(!shape.empty(),
        "Expected normalized_shape to be at least 1-dimensional, i.e., containing "
        "at least one element, but got normalized_shape = {}",
        shape.str());
  for (const auto& [name, t] : {std::pair("weight", weight), std::pair("bias", bias)}) {
    check(!t.defined() || t.sizes() == shape,
          "Expected {} to be of same shape as normalized_shape, but got {} of shape {} and "
          "normalized_shape = {}",
          name, name, t.defined() ? t.sizes().str() : "", shape.str());
  }
  bool fits = x.dim() >= shape.size();
  for (int d = 1; fits && d <= shape.size(); ++d) fits = x.size(-d) == shape[shape.size() - d];
  check(fits,
        "Given normalized_shape={}, expected input with shape [*, {}], but got input of size{}",
        shape.str(), shape.str().substr(1, shape.str().size() - 2), x.sizes().str());
}

}  // namespace

Tensor layer_norm(const Tensor& x, const Dims& shape, const Tensor& weight, const Tensor& bias,
                  double eps) {
  LOCKSTEP_AUTOCAST(layer_norm, x, shape, weight, bias, eps);
  check_shape(x, shape, weight, bias);
  check_floating("layer_norm", x.dtype());
  return row_norm(RowNorm::kLayer, x, shape, weight, bias, eps, "NativeLayerNormBackward0");
}

Tensor group_norm(const Tensor& x, int64_t groups, const Tensor& weight, const Tensor& bias,
                  double eps) {
  LOCKSTEP_AUTOCAST(group_norm, x, groups, weight, bias, eps);
  check(x.dim() >= 2, "Expected at least 2 dimensions for input tensor but received {}", x.dim());
  const int64_t channels = x.size(1);
  check(groups > 0 && channels % groups == 0,
        "Expected number of channels in input to be divisible by num_groups, but got input of "
        "shape {} and num_groups={}",
        x.sizes().str(), groups);
  for (const auto& [name, t] : {std::pair("weight", weight), std::pair("bias", bias)}) {
    check(!t.defined() || (t.dim() == 1 && t.size(0) == channels),
          "Expected {} to be a vector of size equal to the number of channels in input, but got {} "
          "of shape {} and input of shape {}",
          name, name, t.defined() ? t.sizes().str() : "", x.sizes().str());
  }
  Dims affine = Dims::filled(x.dim() - 1, 1);
  affine[0] = channels;
  const int64_t rows = x.size(0) * groups;
  return normalised_groups(x, rows, rows == 0 ? 0 : x.numel() / rows, weight, bias, affine, eps);
}

Tensor rms_norm(const Tensor& x, const Dims& shape, const Tensor& weight, double eps) {
  LOCKSTEP_AUTOCAST(rms_norm, x, shape, weight, eps);
  check_shape(x, shape, weight, {});
  check_floating("rms_norm", x.dtype());
  if (eps < 0) {
    eps = x.dtype() == DType::kFloat64 ? std::numeric_limits<double>::epsilon()
                                       : std::numeric_limits<float>::epsilon();
  }
  return row_norm(RowNorm::kRms, x, shape, weight, {}, eps, "FusedRmsNormBackward0");
}

}  // namespace lockstep
