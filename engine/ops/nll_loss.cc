#include "lockstep/engine/ops/nll_loss.h"

#include "lockstep/engine/autograd/op_node.h"
#include "lockstep/engine/autograd/renamed.h"
#include "lockstep/engine/backend.h"
#include "lockstep/engine/index_checks.h"
#include "lockstep/engine/ops/autocast.h"
#include "lockstep/engine/ops/half.h"
#include "lockstep/engine/ops/implemented.h"
#include "lockstep/engine/ops/index.h"
#include "lockstep/engine/ops/pointwise.h"
#include "lockstep/engine/ops/positions.h"
#include "lockstep/engine/ops/reduce.h"
#include "lockstep/engine/ops/softmax.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep {
namespace {

using autograd::OpNode;
using autograd::record;

// The targets of N samples of C classes. Made on the host where that knows them, and on the device
// otherwise, where nobody waits for what it finds: there, what is none of the classes has position
// -1, so that NaN comes of it.
class Targets {
 public:
  Targets(const char* op, const Tensor& target, int64_t count, int64_t ignore_index)
      : device_(target.device()) {
    const IndexRule rule{.op = op,
                         .text = "Target {0} is out of bounds.",
                         .dim = 1,
                         .size = count,
                         .ignores = true,
                         .ignored = ignore_index};
    if (const Tensor host = check_indices(rule, target); host.defined()) {
      make_on_host(host, count, ignore_index);
      if (ignored_.defined()) ignored_ = ignored_.to(target.device());
    } else {
      make_on_device(target, count, ignore_index);
    }
  }

  // Of the target's element in the flattened (N, C), 0 where ignored.
  Tensor positions() const { return positions_.to(device_); }
  // int64 (N), 0 where ignored.
  Tensor classes() const { return classes_.to(device_); }
  // bool (N), undefined if it is known that none is.
  const Tensor& ignored() const { return ignored_; }
  // What each sample weighs; undefined for one each.
  Tensor weights(const Tensor& class_weights, DType dtype) const {
    if (!class_weights.defined() && !ignored_.defined()) return {};
    const Tensor w = class_weights.defined() ? index_select(class_weights, 0, classes())
                                             : ones(classes_.sizes(), {dtype, device_});
    return ignored_.defined() ? masked_fill(w, ignored_, 0) : w;
  }

 private:
  void make_on_host(const Tensor& host, int64_t count, int64_t ignore_index) {
    positions_ = empty_dense(host.sizes(), DType::kInt64, Device{});
    classes_ = empty_dense(host.sizes(), DType::kInt64, Device{});
    const Tensor marks = zeros(host.sizes(), {DType::kBool});
    const int64_t* t = host.data<int64_t>();
    bool any = false;
    for (int64_t i = 0; i < host.numel(); ++i) {
      const bool skip = t[i] == ignore_index;
      positions_.data<int64_t>()[i] = skip ? 0 : i * count + t[i];
      classes_.data<int64_t>()[i] = skip ? 0 : t[i];
      marks.data<bool>()[i] = skip;
      any = any || skip;
    }
    if (any) ignored_ = marks;
  }

  void make_on_device(const Tensor& target, int64_t count, int64_t ignore_index) {
    const autograd::NoGrad no_grad;
    ignored_ = eq(target, ignore_index);
    classes_ = masked_fill(target, ignored_, 0);
    const Tensor first =
        mul(lockstep::positions(target.numel(), target.device()), count);  // of each row
    const Tensor outside = logical_or(lt(classes_, 0), ge(classes_, count));
    positions_ = masked_fill(add(first, classes_), outside, -1);
    positions_ = masked_fill(positions_, ignored_, 0);
  }

  Device device_;
  Tensor positions_, classes_;  // on the host where that made them: not every loss needs them
  Tensor ignored_;
};

// What a mean over samples divides by: their number, or the sum of their weights, which stays where
// it is.
class Divisor {
 public:
  Divisor(const Tensor& weights, int64_t samples) : number_(static_cast<double>(samples)) {
    if (!weights.defined()) return;
    const Tensor total = sum(weights).detach();
    if (total.device().is_cpu()) {
      number_ = total.item();
    } else {
      there_ = total;
    }
  }
  Divisor() = default;
  Tensor operator()(const Tensor& x) const {
    return there_.defined() ? div(x, there_) : div(x, number_);
  }

 private:
  double number_ = 1;
  Tensor there_;
};

// x[position] of the flattened x, and the adjoint, which puts g back there.
Tensor take(const Tensor& x, const Tensor& positions) {
  return index_select(x.reshape({-1}), 0, positions);
}
Tensor put(const Tensor& g, const Tensor& positions, const Dims& sizes) {
  const Tensor flat = zeros({sizes.product()}, {g.dtype(), g.device()});
  return index_add(flat, 0, positions, g).reshape(sizes);
}

struct NllLossBackward0 final : OpNode<3> {
  Dims sizes;
  Divisor divisor;
  std::string_view name() const override { return "NllLossBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    const Tensor positions = saved(0), weights = saved(1), ignored = saved(2);
    Tensor g = divisor(neg(gradients[0]));
    g = weights.defined() ? mul(g, weights) : g.expand(positions.sizes());
    // Not only by their weight 0: where every sample is ignored, the divisor is 0 too.
    if (ignored.defined()) g = masked_fill(g, ignored, 0);
    results[0] = put(g, positions, sizes);
  }
};

void check_weight(const Tensor& weight, int64_t classes) {
  check(!weight.defined() || (weight.dim() == 1 && weight.size(0) == classes),
        "weight tensor should be defined either for all {} classes or no classes but got weight "
        "tensor of shape: {}",
        classes, weight.defined() ? weight.sizes().str() : "");
}

Tensor nll_of_rows(const Tensor& x, const Tensor& target, const ClassLossOptions& options) {
  const int64_t classes = x.size(1);
  check_weight(options.weight, classes);
  const Targets targets("nll_loss", target, classes, options.ignore_index);
  const Tensor positions = targets.positions();
  Tensor y, weights;
  Divisor divisor;
  {
    const autograd::NoGrad no_grad;
    weights = targets.weights(options.weight, x.dtype());
    Tensor losses =
        x.numel() > 0 ? neg(take(x, positions)) : zeros(target.sizes(), {x.dtype(), x.device()});
    if (targets.ignored().defined()) losses = masked_fill(losses, targets.ignored(), 0);
    if (weights.defined()) losses = mul(losses, weights);
    y = options.reduction == Reduction::kNone ? losses : sum(losses);
    if (options.reduction == Reduction::kMean) {
      divisor = Divisor(weights, target.numel());
      y = divisor(y);
    }
  }
  if (auto node = record<NllLossBackward0>(y, x)) {
    node->sizes = x.sizes();
    node->divisor = divisor;
    node->save(0, positions);
    node->save(1, weights);
    node->save(2, targets.ignored());
  }
  return y;
}

// Log-softmax and nll_loss in one, from the logits (N, C): what is kept for backward is the logits
// and two numbers a row, not the log-probabilities. The graph has the nodes of the two ops. The
// second one hands the gradients of the rows' losses on, broadcast over the classes, which takes no
// memory; the first makes the gradient of the logits from them.
struct FusedNllLossBackward final : OpNode<0> {
  Divisor divisor;
  Dims sizes;
  std::string_view name() const override { return "NllLossBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    results[0] = divisor(gradients[0]).expand({sizes[0]}).unsqueeze(1).expand(sizes);
  }
};

struct FusedLogSoftmaxBackward final : OpNode<4> {  // x, log_sums, target, weight
  int64_t ignore_index = 0;
  std::string_view name() const override { return "LogSoftmaxBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    const Tensor x = saved(0), target = saved(2), weight = saved(3);
    const Tensor g = gradients[0].select(1, 0);
    if (autograd::grad_enabled()) {
      results[0] = differentiably(g, x, target, weight);
      return;
    }
    const Tensor gx = empty_dense(x.sizes(), x.dtype(), x.device());
    backend_of(x).cross_entropy_gradient(gx, g.contiguous(), x.contiguous(), saved(1),
                                         target.contiguous(), weight, ignore_index);
    results[0] = gx;
  }

 private:
  // For create_graph.
  Tensor differentiably(Tensor g, const Tensor& x, const Tensor& target, const Tensor& weight) {
    const Targets targets("cross_entropy", target, x.size(1), ignore_index);
    const Tensor weights = targets.weights(weight, g.dtype());
    if (weights.defined()) g = mul(g, weights);
    if (targets.ignored().defined()) g = masked_fill(g, targets.ignored(), 0);
    const Tensor everywhere = mul(softmax(widened(x), 1), g.unsqueeze(1));
    Tensor gx = sub(everywhere, put(g, targets.positions(), x.sizes()));
    if (targets.ignored().defined()) gx = masked_fill(gx, targets.ignored().unsqueeze(1), 0);
    return gx.to(x.dtype());
  }
};

Tensor fused_cross_entropy(const Tensor& x, const Tensor& target, const ClassLossOptions& options) {
  check_floating("log_softmax", x.dtype());
  check_weight(options.weight, x.size(1));
  const Targets targets("cross_entropy", target, x.size(1), options.ignore_index);
  const DType wide = is_half(x.dtype()) ? DType::kFloat32 : x.dtype();
  const Tensor log_sums = empty_dense({x.size(0), 2}, wide, x.device());
  Tensor y, weight;
  Divisor divisor;
  {
    const autograd::NoGrad no_grad;
    if (options.weight.defined()) weight = options.weight.to(wide).contiguous();
    const Tensor losses = empty_dense({x.size(0)}, wide, x.device());
    backend_of(x).cross_entropy(losses, log_sums, x.contiguous(), target.contiguous(), weight,
                                options.ignore_index);
    y = options.reduction == Reduction::kNone ? losses : sum(losses);
    if (options.reduction == Reduction::kMean) {
      divisor = Divisor(targets.weights(weight, wide), target.numel());
      y = divisor(y);
    }
  }
  // Stands for the log-probabilities, which nobody sees: of their shape and dtype, without memory.
  const Tensor log_p = log_sums.select(1, 0).unsqueeze(1).expand(x.sizes()).detach();
  if (auto node = record<FusedLogSoftmaxBackward>(log_p, x)) {
    node->ignore_index = options.ignore_index;
    node->save(0, x);
    node->save(1, log_sums);
    node->save(2, target);
    node->save(3, weight);
  }
  if (auto node = record<FusedNllLossBackward>(y, log_p)) {
    node->divisor = divisor;
    node->sizes = x.sizes();
  }
  return y;
}

// What a loss of rows is called in PyTorch where x is an image, (N, C, H, W), or (N, C, L).
std::string_view name_for_image(const Tensor& of_rows) {
  const auto node = of_rows.grad_fn();
  if (!node) return "";
  return node->name() == "NllLossBackward0" ? "NllLoss2DBackward0" : node->name();
}

// Brings (C) and (N, C, ...) to (N, C), target along, and a loss per sample back to its shape.
template <typename Loss>
Tensor over_rows(const char* name, const Tensor& x, const Tensor& target,
                 const ClassLossOptions& options, Loss&& loss) {
  check(x.dim() >= 1, "[{}] expects (N, C, ...) or (C), got {}", name, x.sizes().str());
  check(target.dtype() == DType::kInt64, "expected scalar type Long but found {}",
        type_name(target.dtype()));
  if (x.dim() == 1) {
    check(target.dim() == 0, "[{}] expects a 0-d target for {}, got {}", name, x.sizes().str(),
          target.sizes().str());
    const Tensor y = loss(x.unsqueeze(0), target.reshape({1}));
    if (options.reduction != Reduction::kNone) return y;
    return autograd::renamed(y.reshape({}), y.grad_fn() ? y.grad_fn()->name() : "");
  }
  check(target.dim() == x.dim() - 1 && target.dim() >= 1,
        "[{}] expects log-probabilities (N, C, ...) and target (N, ...), got {} and {}", name,
        x.sizes().str(), target.sizes().str());
  check(x.size(0) == target.size(0),
        "Expected input batch_size ({}) to match target batch_size ({}).", x.size(0),
        target.size(0));
  if (x.dim() == 2) return loss(x, target);
  Dims order = {0};
  for (int d = 2; d < x.dim(); ++d) {
    order.push_back(d);
    check(x.size(d) == target.size(d - 1),
          "input and target batch or spatial sizes don't match: "
          "target {}, input {}",
          target.sizes().str(), x.sizes().str());
  }
  order.push_back(1);
  const Tensor y = loss(x.permute(order).reshape({-1, x.size(1)}), target.reshape({-1}));
  if (options.reduction != Reduction::kNone) return autograd::renamed(y, name_for_image(y));
  const Tensor losses = y.reshape(target.sizes());
  return x.dim() == 4 ? autograd::renamed(losses, name_for_image(y)) : losses;
}

// (1 - s) nll + s / C times the loss of a target spread evenly over the classes.
Tensor smoothed(const Tensor& log_p, const Tensor& target, const ClassLossOptions& options) {
  const double s = options.label_smoothing;
  const int64_t classes = log_p.size(1);
  const Targets targets("cross_entropy", target, classes, options.ignore_index);
  Tensor spread = neg(sum(options.weight.defined() ? mul(log_p, options.weight) : log_p, {1}));
  if (targets.ignored().defined()) spread = masked_fill(spread, targets.ignored(), 0);
  if (options.reduction != Reduction::kNone) spread = sum(spread);
  if (options.reduction == Reduction::kMean) {
    spread = Divisor(targets.weights(options.weight, log_p.dtype()), target.numel())(spread);
  }
  return add(mul(nll_of_rows(log_p, target, options), 1 - s),
             mul(spread, s / static_cast<double>(classes)));
}

Tensor with_probabilities(const Tensor& logits, const Tensor& target,
                          const ClassLossOptions& options) {
  check(logits.sizes() == target.sizes(),
        "[cross_entropy] probabilities must have the logits' shape {}, got {}",
        logits.sizes().str(), target.sizes().str());
  const int dim = logits.dim() == 1 ? 0 : 1;
  const int64_t classes = logits.size(dim);
  const double s = options.label_smoothing;
  const Tensor soft = s > 0 ? add(mul(target, 1 - s), s / static_cast<double>(classes)) : target;
  Tensor losses = mul(log_softmax(logits, dim), soft);
  if (options.weight.defined()) {
    Dims sizes = Dims::filled(logits.dim(), 1);
    sizes[dim] = classes;
    losses = mul(losses, options.weight.reshape(sizes));
  }
  losses = neg(sum(losses, {dim}));
  if (options.reduction == Reduction::kNone) return losses;
  const Tensor total = sum(losses);
  const int64_t rows = logits.numel() / std::max<int64_t>(classes, 1);
  return options.reduction == Reduction::kMean ? div(total, static_cast<double>(rows)) : total;
}

}  // namespace

Reduction reduction_from_name(std::string_view name) {
  if (name == "none") return Reduction::kNone;
  if (name == "mean") return Reduction::kMean;
  if (name == "sum") return Reduction::kSum;
  if (name == "batchmean") return Reduction::kBatchMean;
  fail("{} is not a valid value for reduction", name);
}

Tensor nll_loss(const Tensor& log_probabilities, const Tensor& target,
                const ClassLossOptions& options) {
  LOCKSTEP_AUTOCAST(nll_loss, log_probabilities, target, options);
  return over_rows("nll_loss", log_probabilities, target, options,
                   [&](const Tensor& x, const Tensor& t) { return nll_of_rows(x, t, options); });
}

Tensor nll_loss(const Tensor& log_probabilities, const Tensor& target, Reduction reduction) {
  return nll_loss(log_probabilities, target, ClassLossOptions{.reduction = reduction});
}

Tensor cross_entropy(const Tensor& logits, const Tensor& target, const ClassLossOptions& options) {
  LOCKSTEP_AUTOCAST(cross_entropy, logits, target, options);
  check(options.label_smoothing >= 0 && options.label_smoothing <= 1,
        "label_smoothing must be between 0.0 and 1.0. Got: {}", options.label_smoothing);
  const bool composed = is_floating(target.dtype()) || options.label_smoothing > 0;
  if (is_half(logits.dtype()) && composed) {
    ClassLossOptions wide = options;
    wide.weight = widened(options.weight);
    const Tensor loss = cross_entropy(widened(logits), widened(target), wide);
    return narrowed(loss, logits.dtype(), loss.grad_fn() ? loss.grad_fn()->name() : "");
  }
  if (is_floating(target.dtype())) return with_probabilities(logits, target, options);
  const Tensor y =
      over_rows("cross_entropy", logits, target, options, [&](const Tensor& x, const Tensor& t) {
        if (!composed && x.numel() > 0) return fused_cross_entropy(x, t, options);
        const Tensor log_p = log_softmax(widened(x), 1);
        return composed ? smoothed(log_p, t, options) : nll_of_rows(log_p, t, options);
      });
  if (!is_half(logits.dtype())) return y;
  return narrowed(y, logits.dtype(), y.grad_fn() ? y.grad_fn()->name() : "");
}

Tensor cross_entropy(const Tensor& logits, const Tensor& target, Reduction reduction) {
  return cross_entropy(logits, target, ClassLossOptions{.reduction = reduction});
}

}  // namespace lockstep
