#include "lockstep/engine/ops/loss.h"

#include "lockstep/engine/autograd/op_node.h"
#include "lockstep/engine/autograd/renamed.h"
#include "lockstep/engine/ops/autocast.h"
#include "lockstep/engine/ops/implemented.h"
#include "lockstep/engine/ops/pointwise.h"
#include "lockstep/engine/ops/pointwise_kernel.h"
#include "lockstep/engine/ops/reduce.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep {
namespace {

using autograd::OpNode;
using autograd::record;

Tensor reduced(const Tensor& losses, Reduction reduction) {
  switch (reduction) {
    case Reduction::kNone:
      return losses;
    case Reduction::kMean:
      return mean(losses);
    case Reduction::kSum:
      return sum(losses);
    case Reduction::kBatchMean:
      return div(sum(losses), losses.dim() > 0 ? losses.size(0) : 1);
  }
  return losses;
}

// The dtype of the losses. PyTorch expands the arguments to one shape first, so that one without
// dimensions counts as much as the other.
DType loss_dtype(const Tensor& x, const Tensor& target) {
  return promote(x.dtype(), target.dtype());
}

// A loss of x and target, both of the losses' dtype, with its slopes in closed form.
struct Mse {
  static constexpr std::string_view kOp = "mse_loss";
  static constexpr std::string_view kName = "MseLossBackward0";
  static Tensor value(const Tensor& x, const Tensor& t, double) { return square(sub(x, t)); }
  static Tensor x_slope(const Tensor& x, const Tensor& t, double) { return mul(sub(x, t), 2); }
  static Tensor target_slope(const Tensor& x, const Tensor& t, double) { return mul(sub(t, x), 2); }
};

struct SmoothL1 {
  static constexpr std::string_view kOp = "smooth_l1_loss";
  static constexpr std::string_view kName = "SmoothL1LossBackward0";
  static Tensor value(const Tensor& x, const Tensor& t, double beta) {
    const Tensor distance = abs(sub(x, t));
    if (beta == 0) return distance;
    return where(lt(distance, beta), div(mul(square(distance), 0.5), beta),
                 sub(distance, 0.5 * beta));
  }
  static Tensor x_slope(const Tensor& x, const Tensor& t, double beta) {
    const Tensor d = sub(x, t);
    // From |d| = beta on, not only beyond, the second derivative is 0.
    return beta == 0 ? sign(d) : where(ge(abs(d), beta), sign(d), div(d, beta));
  }
  static Tensor target_slope(const Tensor& x, const Tensor& t, double beta) {
    return x_slope(t, x, beta);
  }
};

struct BinaryCrossEntropy {
  static constexpr std::string_view kOp = "binary_cross_entropy";
  static constexpr std::string_view kName = "BinaryCrossEntropyBackward0";
  static Tensor floored(const Tensor& logarithm) { return maximum(logarithm, -100.0); }
  static Tensor value(const Tensor& x, const Tensor& t, double) {
    return sub(mul(sub(t, 1), floored(log1p(neg(x)))), mul(t, floored(log(x))));
  }
  static Tensor x_slope(const Tensor& x, const Tensor& t, double) {
    return div(sub(x, t), maximum(mul(sub(1, x), x), 1e-12));
  }
  static Tensor target_slope(const Tensor& x, const Tensor&, double) {
    return sub(floored(log1p(neg(x))), floored(log(x)));
  }
};

template <typename Loss>
struct LossNode final : OpNode<2> {
  Reduction reduction = Reduction::kMean;
  Dims sizes, x_sizes, target_sizes;
  double p = 0;
  std::string_view name() const override { return Loss::kName; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    const Tensor given_x = saved(0), given_t = saved(1);
    const DType common = loss_dtype(given_x, given_t);
    const Tensor x = given_x.to(common), t = given_t.to(common);
    const Tensor g = reduction == Reduction::kMean
                         ? div(gradients[0], static_cast<double>(sizes.product()))
                         : gradients[0];
    const auto fit = [&](const Tensor& slope, const Dims& to, DType dtype) {
      return sum_to_size(mul(slope, g), to).to(dtype);
    };
    if (needs(0)) results[0] = fit(Loss::x_slope(x, t, p), x_sizes, given_x.dtype());
    if (needs(1)) results[1] = fit(Loss::target_slope(x, t, p), target_sizes, given_t.dtype());
  }
};

template <typename Loss>
Tensor loss(const Tensor& x, const Tensor& target, Reduction reduction, double p) {
  const DType dtype = loss_dtype(x, target);
  check_floating(Loss::kOp, dtype);
  Tensor y;
  Dims sizes;
  {
    const autograd::NoGrad no_grad;
    const Tensor losses = Loss::value(x.to(dtype), target.to(dtype), p);
    sizes = losses.sizes();
    y = reduced(losses, reduction);
  }
  if (auto node = record<LossNode<Loss>>(y, x, target)) {
    node->reduction = reduction;
    node->sizes = sizes;
    node->x_sizes = x.sizes();
    node->target_sizes = target.sizes();
    node->p = p;
    node->save(0, x);
    node->save(1, target);
  }
  return y;
}

}  // namespace

Tensor mse_loss(const Tensor& x, const Tensor& target, Reduction reduction) {
  LOCKSTEP_AUTOCAST(mse_loss, x, target, reduction);
  return loss<Mse>(x, target, reduction, 0);
}

Tensor l1_loss(const Tensor& x, const Tensor& target, Reduction reduction) {
  LOCKSTEP_AUTOCAST(l1_loss, x, target, reduction);
  pointwise::check_subtraction(x, target);
  const DType dtype = loss_dtype(x, target);
  return reduced(abs(sub(x.to(dtype), target.to(dtype))), reduction);
}

Tensor smooth_l1_loss(const Tensor& x, const Tensor& target, Reduction reduction, double beta) {
  LOCKSTEP_AUTOCAST(smooth_l1_loss, x, target, reduction, beta);
  check(beta >= 0, "smooth_l1_loss does not support negative values for beta.");
  return loss<SmoothL1>(x, target, reduction, beta);
}

Tensor binary_cross_entropy(const Tensor& x, const Tensor& target, const Tensor& weight,
                            Reduction reduction) {
  check<Error>(!autograd::autocast_enabled(),
               "torch.nn.functional.binary_cross_entropy and torch.nn.BCELoss are unsafe to "
               "autocast.\nMany models use a sigmoid layer right before the binary cross entropy "
               "layer.\nIn this case, combine the two layers using "
               "torch.nn.functional.binary_cross_entropy_with_logits\nor "
               "torch.nn.BCEWithLogitsLoss.  binary_cross_entropy_with_logits and BCEWithLogits "
               "are\nsafe to autocast.");
  check(x.sizes() == target.sizes(),
        "Using a target size ({}) that is different to the input size ({}) is deprecated. Please "
        "ensure they have the same size.",
        target.sizes().str(), x.sizes().str());
  check(x.dtype() == target.dtype(), "Found dtype {} but expected {}", type_name(target.dtype()),
        type_name(x.dtype()));
  if (x.numel() > 0 && x.device().is_cpu()) {
    const autograd::NoGrad no_grad;
    const bool inside = min(x).item() >= 0 && max(x).item() <= 1;
    check(inside, "all elements of input should be between 0 and 1");
  }
  if (!weight.defined()) return loss<BinaryCrossEntropy>(x, target, reduction, 0);
  const Tensor losses = mul(loss<BinaryCrossEntropy>(x, target, Reduction::kNone, 0), weight);
  return autograd::renamed(reduced(losses, reduction), BinaryCrossEntropy::kName);
}

// (1 - t) x + (1 + (w - 1) t) log(1 + exp(-x)).
Tensor binary_cross_entropy_with_logits(const Tensor& x, const Tensor& target, const Tensor& weight,
                                        const Tensor& pos_weight, Reduction reduction) {
  LOCKSTEP_AUTOCAST(binary_cross_entropy_with_logits, x, target, weight, pos_weight, reduction);
  check(x.sizes() == target.sizes(), "Target size ({}) must be the same as input size ({})",
        target.sizes().str(), x.sizes().str());
  check(is_floating(target.dtype()), "result type {} can't be cast to the desired output type {}",
        type_name(x.dtype()), type_name(target.dtype()));
  Tensor rest = softplus(neg(x), 1, 40);  // beyond 40 the correction is below the last bit
  if (pos_weight.defined()) rest = mul(add(mul(sub(pos_weight, 1), target), 1), rest);
  Tensor losses = add(mul(sub(1, target), x), rest);
  if (weight.defined()) losses = mul(losses, weight);
  return autograd::renamed(reduced(losses, reduction), "BinaryCrossEntropyWithLogitsBackward0");
}

Tensor kl_div(const Tensor& x, const Tensor& target, Reduction reduction, bool log_target) {
  LOCKSTEP_AUTOCAST(kl_div, x, target, reduction, log_target);
  if (log_target) return reduced(mul(exp(target), sub(target, x)), reduction);
  // t log(t) is 0 at 0, and so is its slope here.
  const Tensor zero = le(target, 0);
  const Tensor entropy = masked_fill(mul(target, log(masked_fill(target, zero, 1))), zero, 0);
  return reduced(sub(entropy, mul(target, x)), reduction);
}

}  // namespace lockstep
