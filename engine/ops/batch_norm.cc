#include "lockstep/engine/ops/batch_norm.h"

#include "lockstep/engine/autograd/op_node.h"
#include "lockstep/engine/backend.h"
#include "lockstep/engine/ops/half.h"
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

Dims all_but_channels(const Tensor& x) {
  Dims dims;
  for (int d = 0; d < x.dim(); ++d) {
    if (d != 1) dims.push_back(d);
  }
  return dims;
}

Tensor per_channel(const Tensor& values, const Tensor& x) {
  Dims sizes = Dims::filled(x.dim(), 1);
  sizes[1] = x.size(1);
  return values.reshape(sizes);
}

struct NativeBatchNormBackward0 final : OpNode<4> {
  double eps = 0;
  bool batch = false;  // the statistics came from x
  std::string_view name() const override { return "NativeBatchNormBackward0"; }

  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    const Tensor x = saved(0), mean = saved(1), var = saved(2), weight = saved(3);
    if (autograd::grad_enabled()) {
      apply_differentiably(gradients[0], x, mean, var, weight, results);
      return;
    }
    const Tensor gy = like_layout(gradients[0], x);
    const auto channels = [&] { return empty_dense({x.size(1)}, x.dtype(), x.device()); };
    if (needs(0)) results[0] = empty_like(x);
    if (needs(1)) results[1] = channels();
    if (needs(2)) results[2] = channels();
    backend_of(x).batch_norm_gradient(results[0], results[1], results[2], gy, x, mean, var, weight,
                                      eps, batch);
  }

 private:
  // The same in differentiable ops, for create_graph. With batch statistics, mean and variance are
  // functions of x; recomputing them from x keeps that dependence.
  void apply_differentiably(const Tensor& gy, const Tensor& x, Tensor mean, Tensor var,
                            const Tensor& weight, std::span<Tensor> results) {
    const Dims dims = all_but_channels(x);
    if (batch) {
      mean = lockstep::mean(x, dims);
      var = lockstep::mean(square(x - per_channel(mean, x)), dims);
    }
    const Tensor inverse = reciprocal(sqrt(per_channel(var, x) + eps));
    const Tensor normal = (x - per_channel(mean, x)) * inverse;
    if (needs(1)) results[1] = sum(gy * normal, dims);
    if (needs(2)) results[2] = sum(gy, dims);
    if (!needs(0)) return;
    const Tensor g = weight.defined() ? gy * per_channel(weight, x) : gy;
    results[0] = !batch ? g * inverse
                        : (g - lockstep::mean(g, dims, true) -
                           normal * lockstep::mean(g * normal, dims, true)) *
                              inverse;
  }
};

void check_channels(const char* what, const Tensor& t, const Tensor& x) {
  check(!t.defined() || (t.dim() == 1 && t.size(0) == x.size(1) && t.dtype() == x.dtype()),
        "[batch_norm] {} must be [{}] of {}, got {} of {}", what, x.size(1), name_of(x.dtype()),
        t.defined() ? t.sizes().str() : "", t.defined() ? name_of(t.dtype()) : "");
}

}  // namespace

Tensor batch_norm(const Tensor& input, const Tensor& running_mean, const Tensor& running_var,
                  const Tensor& weight, const Tensor& bias, const BatchNormOptions& options) {
  check(input.dim() >= 2, "[batch_norm] expects (N, C, ...), got {}", input.sizes().str());
  check_floating("batch_norm", input.dtype());
  if (is_half(input.dtype())) {  // statistics of 16 bits would not be worth much
    const Tensor y = batch_norm(widened(input), running_mean, running_var, widened(weight),
                                widened(bias), options);
    return narrowed(y, input.dtype(), "NativeBatchNormBackward0");
  }
  check_channels("running_mean", running_mean, input);
  check_channels("running_var", running_var, input);
  check_channels("weight", weight, input);
  check_channels("bias", bias, input);
  const int64_t channels = input.size(1);
  const int64_t count = channels > 0 ? input.numel() / channels : 0;
  check(!options.training || count > 1,
        "Expected more than 1 value per channel when training, got input size {}",
        input.sizes().str());
  check(options.training || (running_mean.defined() && running_var.defined()),
        "Expected running_mean and running_var to be defined when training=False");
  const Tensor x = input.dim() == 4 ? any_dense_layout(input) : input.contiguous();
  Tensor mean = running_mean, var = running_var;
  if (options.training) {
    mean = empty_dense({channels}, x.dtype(), x.device());
    var = empty_dense({channels}, x.dtype(), x.device());
    backend_of(x).batch_statistics(mean, var, x.detach());
    const autograd::NoGrad no_grad;
    const double unbias = static_cast<double>(count) / static_cast<double>(count - 1);
    if (running_mean.defined()) {
      running_mean.mul_(1 - options.momentum).add_(mean, options.momentum);
    }
    if (running_var.defined()) {
      running_var.mul_(1 - options.momentum).add_(var, options.momentum * unbias);
    }
  }
  const Tensor y = empty_like(x);
  const auto plain = [](const Tensor& t) { return t.defined() ? t.detach().contiguous() : t; };
  backend_of(x).batch_norm(y, x.detach(), mean.detach(), var.detach(), plain(weight), plain(bias),
                           options.eps);
  if (auto node = record<NativeBatchNormBackward0>(y, x, weight, bias)) {
    node->eps = options.eps;
    node->batch = options.training;
    node->save(0, x);
    // The running statistics may move on before backward.
    node->save(1, options.training ? mean : mean.detach().clone());
    node->save(2, options.training ? var : var.detach().clone());
    node->save(3, weight);
  }
  return y;
}

}  // namespace lockstep
