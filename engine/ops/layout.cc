#include "lockstep/engine/ops/layout.h"

#include "lockstep/engine/autograd/op_node.h"
#include "lockstep/engine/backend.h"
#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep {
namespace {

struct LayoutBackward final : autograd::OpNode<1> {
  std::string_view name() const override { return "CloneBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    results[0] = gradients[0];
  }
};

Tensor to_channels_last(const Tensor& x) {
  if (x.is_channels_last()) return x;
  const Tensor y = empty_channels_last(x.sizes(), x.dtype(), x.device());
  backend_of(x).copy(y, x);
  autograd::record<LayoutBackward>(y, x);
  return y;
}

}  // namespace

Tensor activation_layout(const Tensor& x) {
  return backend_of(x).prefers_channels_last() && x.dtype() == DType::kFloat32 ? to_channels_last(x)
                                                                               : x.contiguous();
}

Tensor any_dense_layout(const Tensor& x) { return x.is_channels_last() ? x : x.contiguous(); }

Tensor like_layout(const Tensor& x, const Tensor& other) {
  return other.is_channels_last() ? to_channels_last(x) : x.contiguous();
}

Tensor empty_in_layout_of(const Tensor& other, const Dims& sizes) {
  return other.is_channels_last() ? empty_channels_last(sizes, other.dtype(), other.device())
                                  : empty_dense(sizes, other.dtype(), other.device());
}

}  // namespace lockstep
