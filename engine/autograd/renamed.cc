#include "lockstep/engine/autograd/renamed.h"

#include "lockstep/engine/autograd/op_node.h"
#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep::autograd {
namespace {

struct RenamedBackward final : OpNode<1> {
  std::string_view label;
  std::string_view name() const override { return label; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    results[0] = gradients[0];
  }
};

}  // namespace

Tensor renamed(const Tensor& y, std::string_view label) {
  const bool recorded = grad_enabled() && y.requires_grad();
  if (!recorded && !y.impl()->base) return y;
  const Tensor same = y.detach();
  if (recorded) record<RenamedBackward>(same, y)->label = label;
  return same;
}

}  // namespace lockstep::autograd
