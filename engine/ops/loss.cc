#include "lockstep/engine/ops/loss.h"

#include "lockstep/engine/autograd/op_node.h"
#include "lockstep/engine/backend.h"
#include "lockstep/engine/ops/index.h"
#include "lockstep/engine/ops/pointwise.h"
#include "lockstep/engine/ops/reduce.h"
#include "lockstep/engine/ops/softmax.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep {
namespace {

using autograd::OpNode;
using autograd::record;

// For each row i of (N, C) the element index[i], and the adjoint, which puts g back there.
Tensor put_per_row(const Tensor& g, const Tensor& positions, const Dims& sizes);
Tensor take_per_row(const Tensor& x, const Tensor& positions);

struct NllLossBackward0 final : OpNode<1> {
  Dims sizes;
  std::string_view name() const override { return "NllLossBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    results[0] = put_per_row(gradients[0], saved(0), sizes);
  }
};

struct NllLossBackwardBackward0 final : OpNode<1> {
  std::string_view name() const override { return "NllLossBackwardBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    results[0] = take_per_row(gradients[0], saved(0));
  }
};

Tensor take_per_row(const Tensor& x, const Tensor& positions) {
  const Tensor y = empty_dense(positions.sizes(), x.dtype(), x.device());
  backend_of(x).index_select(y, x.detach().contiguous().view({-1}), 0, positions);
  if (auto node = record<NllLossBackward0>(y, x)) {
    node->sizes = x.sizes();
    node->save(0, positions);
  }
  return y;
}

Tensor put_per_row(const Tensor& g, const Tensor& positions, const Dims& sizes) {
  const Tensor y = zeros(sizes, {g.dtype(), g.device()});
  backend_of(g).index_add(alias_of(y, {y.numel()}, {1}, 0), 0, positions, g.detach().contiguous());
  if (auto node = record<NllLossBackwardBackward0>(y, g)) node->save(0, positions);
  return y;
}

// Row i's position in the flattened (N, C) tensor. Reads the targets on the host: they are checked.
Tensor flat_positions(const Tensor& target, int64_t classes) {
  const Tensor host = target.to(Device{}).contiguous();
  const Tensor positions = empty_dense(host.sizes(), DType::kInt64, Device{});
  const int64_t* t = host.data<int64_t>();
  int64_t* p = positions.data<int64_t>();
  for (int64_t i = 0; i < host.numel(); ++i) {
    check(t[i] >= 0 && t[i] < classes, "Target {} is out of bounds.", t[i]);
    p[i] = i * classes + t[i];
  }
  return positions.to(target.device());
}

Tensor reduced(const Tensor& losses, Reduction reduction) {
  switch (reduction) {
    case Reduction::kNone:
      return losses;
    case Reduction::kMean:
      return mean(losses);
    case Reduction::kSum:
      return sum(losses);
  }
  return losses;
}

}  // namespace

Tensor nll_loss(const Tensor& log_probabilities, const Tensor& target, Reduction reduction) {
  check(log_probabilities.dim() == 2 && target.dim() == 1,
        "[nll_loss] expects log-probabilities (N, C) and target (N), got {} and {}",
        log_probabilities.sizes().str(), target.sizes().str());
  check(log_probabilities.size(0) == target.size(0),
        "Expected input batch_size ({}) to match target batch_size ({}).",
        log_probabilities.size(0), target.size(0));
  check(target.dtype() == DType::kInt64, "[nll_loss] target must be int64, got {}",
        name_of(target.dtype()));
  const Tensor positions = flat_positions(target, log_probabilities.size(1));
  return reduced(neg(take_per_row(log_probabilities, positions)), reduction);
}

Tensor cross_entropy(const Tensor& logits, const Tensor& target, Reduction reduction) {
  check(logits.dim() == 2, "[cross_entropy] expects logits (N, C), got {}", logits.sizes().str());
  return nll_loss(log_softmax(logits, 1), target, reduction);
}

Tensor mse_loss(const Tensor& x, const Tensor& target, Reduction reduction) {
  check(x.sizes() == target.sizes(), "[mse_loss] input {} and target {} must have the same size",
        x.sizes().str(), target.sizes().str());
  return reduced(square(x - target), reduction);
}

}  // namespace lockstep
