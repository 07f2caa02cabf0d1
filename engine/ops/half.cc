#include "lockstep/engine/ops/half.h"

#include "lockstep/engine/autograd/op_node.h"

namespace lockstep {
namespace {

struct NarrowedBackward final : autograd::OpNode<1> {
  DType dtype = DType::kFloat32;
  std::string_view label;
  std::string_view name() const override { return label; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    results[0] = gradients[0].to(dtype);
  }
};

}  // namespace

Tensor narrowed(const Tensor& y, DType dtype, std::string_view name) {
  Tensor narrow;
  {
    const autograd::NoGrad no_grad;
    narrow = y.to(dtype);
  }
  if (auto node = autograd::record<NarrowedBackward>(narrow, y)) {
    node->dtype = y.dtype();
    node->label = name;
  }
  return narrow;
}

}  // namespace lockstep
