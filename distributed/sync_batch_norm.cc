#include "lockstep/distributed/sync_batch_norm.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <utility>
#include <vector>

#include "lockstep/distributed/collective.h"
#include "lockstep/distributed/layer_exchange.h"
#include "lockstep/engine/autograd/op_node.h"
#include "lockstep/engine/backend.h"
#include "lockstep/engine/ops/half.h"
#include "lockstep/engine/ops/layout.h"
#include "lockstep/engine/ops/pointwise.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"

namespace lockstep::distributed {
namespace {

using autograd::OpNode;
using autograd::record;
using Pass = LayerExchange::Pass;

// What a rank wants of the others in backward.
enum class Wants : uint8_t { kNothing, kOwnGradients, kInputGradient };

Tensor per_channel(const std::vector<double>& values, const Tensor& x) {
  return from_span<double>(values, {std::ssize(values)}).to(x.dtype()).to(x.device());
}

// y_i = w r (x_i - mean) + b with r = 1 / sqrt(var + eps), statistics over the M elements of a
// channel on all ranks. With d_i = x_i - mean:
//   gw = r sum(gy d)    gb = sum(gy)    gx = w r (gy - sum(gy) / M - d r^2 sum(gy d) / M).
// Sums over a rank's own elements are its part of gw and gb, and what it sends; gx takes the sums
// over all ranks.
struct SyncBatchNormBackward0 final : OpNode<4> {
  double eps = 0.0;
  double count = 0.0;      // M
  bool exchanges = false;  // some rank wants the gradient of its x
  std::shared_ptr<LayerExchange> layers;
  size_t layer = 0;
  std::string_view name() const override { return "SyncBatchNormBackward0"; }

  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    check<Error>(!autograd::grad_enabled(),
                 "[sync_batch_norm] the backward of {} has no derivative of its own, which "
                 "create_graph asks for; use nn::BatchNorm where double backward is needed",
                 layers->name(layer));
    const Tensor x = saved(0), mean = saved(1), var = saved(2), weight = saved(3);
    const Tensor gy = like_layout(gradients[0], x);
    const Tensor gw = empty({x.size(1)}, {x.dtype(), x.device()});
    const Tensor gb = empty({x.size(1)}, {x.dtype(), x.device()});
    Backend& backend = backend_of(x);
    backend.batch_norm_gradient({}, gw, gb, gy, x, mean, var, weight, eps, false);
    if (needs(1)) results[1] = gw;
    if (needs(2)) results[2] = gb;
    if (!exchanges) return;

    std::vector<double> sums = gb.to_vector();
    const std::vector<double> more = gw.to_vector();
    sums.insert(sums.end(), more.begin(), more.end());
    const size_t length = sums.size();
    const std::vector<double> all = layers->gather(layer, Pass::kBackward, std::move(sums));
    if (!needs(0)) return;
    const size_t channels = length / 2;
    std::vector<double> shift(channels);  // sum(gy) / M
    std::vector<double> slope(channels);  // r sum(gy d) / M
    for (size_t at = 0; at < all.size(); at += length) {
      for (size_t c = 0; c < channels; ++c) {
        shift[c] += all[at + c] / count;
        slope[c] += all[at + channels + c] / count;
      }
    }
    // gx in two affine maps: (gy - shift) w r, and (x - mean) w' r with w' = w r slope.
    const std::vector<double> variance = var.to_vector();
    const std::vector<double> w =
        weight.defined() ? weight.to_vector() : std::vector<double>(channels, 1.0);
    for (size_t c = 0; c < channels; ++c) slope[c] *= w[c] / std::sqrt(variance[c] + eps);
    const Tensor gx = empty_like(x);
    backend.batch_norm(gx, gy, per_channel(shift, x), var, weight, {}, eps);
    const Tensor along = empty_like(x);
    backend.batch_norm(along, x, mean, var, per_channel(slope, x), {}, eps);
    gx.sub_(along);
    results[0] = gx;
  }
};

// Mean and sum of squared deviations of several batches, one after the other (Chan, Golub, LeVeque:
// "Updating formulae and a pairwise algorithm for computing sample variances", 1979).
struct Moments {
  double count = 0.0;
  std::vector<double> mean, squares;

  explicit Moments(size_t channels) : mean(channels), squares(channels) {}
  void take(double n, std::span<const double> means, std::span<const double> variances) {
    if (n == 0.0) return;
    const double total = count + n;
    for (size_t c = 0; c < mean.size(); ++c) {
      const double delta = means[c] - mean[c];
      mean[c] += delta * (n / total);
      squares[c] += variances[c] * n + delta * delta * (count * n / total);
    }
    count = total;
  }
};

}  // namespace

SyncBatchNorm::SyncBatchNorm(int64_t features, std::shared_ptr<ProcessGroup> group, Options options)
    : nn::BatchNorm(features, options),
      group_(std::move(group)),
      options_(options),
      features_(features) {
  if (group_->size() == 1) return;
  layers_ = LayerExchange::of(group_);
  layer_ = layers_->add_layer("");
  set_name(fmt::format("number {}", layer_));
}

void SyncBatchNorm::set_name(std::string name) {
  if (layers_) layers_->set_name(layer_, "SyncBatchNorm " + std::move(name));
}

void SyncBatchNorm::check_input(const Tensor& x) const {
  check(x.dim() >= 2, "expected at least 2D input (got {}D input)", x.dim());
  check(x.size(1) == features_ && is_floating(x.dtype()),
        "[sync_batch_norm] expects {} channels of a floating dtype, got {} of {}", features_,
        x.sizes().str(), lockstep::name_of(x.dtype()));
}

Tensor SyncBatchNorm::forward(const Tensor& input) {
  if (!is_training() || !layers_) return BatchNorm::forward(input);
  check_input(input);
  if (!is_half(input.dtype())) return normalise(input, weight, bias);
  const Tensor y = normalise(widened(input), widened(weight), widened(bias));
  return narrowed(y, input.dtype(), "SyncBatchNormBackward0");
}

Tensor SyncBatchNorm::normalise(const Tensor& input, const Tensor& w, const Tensor& b) {
  const auto fits = [&](const Tensor& t) { return !t.defined() || t.dtype() == input.dtype(); };
  check(fits(w) && fits(b) && fits(running_mean) && fits(running_var),
        "[sync_batch_norm] the input is {}; parameters and running statistics must be, too",
        lockstep::name_of(input.dtype()));
  const Tensor x = input.dim() == 4 ? any_dense_layout(input) : input.contiguous();
  Backend& backend = backend_of(x);
  const auto channels = static_cast<size_t>(features_);
  const int64_t own = features_ > 0 ? x.numel() / features_ : 0;

  // Each rank sends: how many elements a channel has, what it wants, means, variances.
  std::vector<double> mine(2 + 2 * channels);
  const bool records =
      autograd::grad_enabled() && (x.requires_grad() || w.requires_grad() || b.requires_grad());
  const Wants wants = !records            ? Wants::kNothing
                      : x.requires_grad() ? Wants::kInputGradient
                                          : Wants::kOwnGradients;
  mine[0] = static_cast<double>(own);
  mine[1] = static_cast<double>(wants);
  if (own > 0) {
    const Tensor mean = empty({features_}, {x.dtype(), x.device()});
    const Tensor var = empty({features_}, {x.dtype(), x.device()});
    backend.batch_statistics(mean, var, x.detach());
    const auto means = mean.to_vector();
    const auto variances = var.to_vector();
    std::copy(means.begin(), means.end(), mine.begin() + 2);
    std::copy(variances.begin(), variances.end(),
              mine.begin() + 2 + static_cast<std::ptrdiff_t>(channels));
  }
  const size_t length = mine.size();
  const std::vector<double> all = layers_->gather(layer_, Pass::kForward, std::move(mine));

  Moments moments(channels);
  std::vector<int> without_graph;
  bool exchanges = false;
  for (int r = 0; r < group_->size(); ++r) {
    const std::span<const double> theirs(&all[static_cast<size_t>(r) * length], length);
    moments.take(theirs[0], theirs.subspan(2, channels), theirs.subspan(2 + channels, channels));
    if (theirs[1] == static_cast<double>(Wants::kNothing)) without_graph.push_back(r);
    exchanges = exchanges || theirs[1] == static_cast<double>(Wants::kInputGradient);
  }
  check<DistributedError>(
      !exchanges || without_graph.empty(),
      "[sync_batch_norm] {} record no graph in {} and would not take part in its backward, which "
      "other ranks need: use the same grad mode and requires_grad on all of them",
      name_ranks(without_graph), layers_->name(layer_));
  check(moments.count > 1.0,
        "Expected more than 1 value per channel when training, got input size {} and {} values on "
        "all ranks",
        x.sizes().str(), moments.count);
  for (double& square : moments.squares) square /= moments.count;
  const Tensor mean = per_channel(moments.mean, x);
  const Tensor var = per_channel(moments.squares, x);
  update_running(mean, var, moments.count);

  const Tensor y = empty_like(x);
  const auto plain = [](const Tensor& t) { return t.defined() ? t.detach().contiguous() : t; };
  backend.batch_norm(y, x.detach(), mean, var, plain(w), plain(b), options_.eps);
  if (auto node = record<SyncBatchNormBackward0>(y, x, w, b)) {
    node->eps = options_.eps;
    node->count = moments.count;
    node->exchanges = exchanges;
    node->layers = layers_;
    node->layer = layer_;
    node->save(0, x);
    node->save(1, mean);
    node->save(2, var);
    node->save(3, w);
  }
  return y;
}

void SyncBatchNorm::update_running(const Tensor& mean, const Tensor& var, double count) {
  if (!running_mean.defined()) return;
  const autograd::NoGrad no_grad;
  num_batches_tracked.add_(1);
  const double momentum = options_.momentum ? *options_.momentum : 1.0 / num_batches_tracked.item();
  running_mean.mul_(1 - momentum).add_(mean, momentum);
  running_var.mul_(1 - momentum).add_(var, momentum * (count / (count - 1)));
}

}  // namespace lockstep::distributed
