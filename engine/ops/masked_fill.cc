#include "lockstep/engine/autograd/op_node.h"
#include "lockstep/engine/autograd/view_history.h"
#include "lockstep/engine/backend.h"
#include "lockstep/engine/ops/masks.h"
#include "lockstep/engine/ops/pointwise.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/engine/tensor/overlap.h"

namespace lockstep {
namespace {

struct MaskedFillBackward0 final : autograd::OpNode<1> {
  Dims sizes;
  std::string_view label = "MaskedFillBackward0";
  std::string_view name() const override { return label; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    const Tensor& g = gradients[0];
    const Tensor mask = saved(0);
    if (needs(0)) results[0] = sum_to_size(masked_fill(g, mask, 0), sizes);
    if (needs(1)) results[1] = sum_to_size(where(mask, g, zeros_like(g)), {});
  }
};

Tensor fill_value(const Tensor& mask, const Operand& value) {
  check(mask.dtype() == DType::kBool || mask.dtype() == DType::kUInt8,
        "masked_fill only supports boolean masks, but got dtype {}", type_name(mask.dtype()));
  check_byte_mask(mask);
  const Tensor number = value.is_tensor() ? value.tensor() : Tensor();
  check(!number.defined() || number.dim() == 0,
        "masked_fill_ only supports a 0-dimensional value tensor, but got tensor with {} "
        "dimension(s).",
        number.defined() ? number.dim() : 0);
  return number;
}

// x where the mask is false, and the value as x's dtype has it where it is true.
Tensor filled(const Tensor& x, const Tensor& mask, const Operand& value) {
  const autograd::NoGrad no_grad;
  const DType dtype = x.dtype();
  if (value.is_tensor()) {
    if (!is_floating(dtype)) check_fits(value.tensor().item_scalar(), dtype);
    return where(mask, value.tensor().to(dtype), x);
  }
  Scalar number = value.scalar();
  check_fits(number, dtype);
  if (dtype == DType::kBool) {
    number = number.to<double>() != 0;
  } else if (!is_floating(dtype)) {
    number = number.to<int64_t>();
  }
  return where(mask, number, x);
}

void set_up(MaskedFillBackward0& node, const Tensor& x, const Tensor& mask, const Tensor& number) {
  node.sizes = x.sizes();
  if (number.defined()) node.label = "MaskedFillBackward1";
  node.save(0, mask);
}

const Tensor& masked_fill_in_place(const Tensor& self, const Tensor& mask, const Operand& value) {
  const Tensor number = fill_value(mask, value);
  check_no_partial_overlap(self, mask);
  autograd::check_inplace(self);
  Ptr<MaskedFillBackward0> node;
  if (autograd::grad_enabled() &&
      (self.requires_grad() || (number.defined() && number.requires_grad()))) {
    autograd::check_view_write(self);
    node = make_ptr<MaskedFillBackward0>();
    node->add_edge(autograd::gradient_edge(self));
    node->add_edge(autograd::gradient_edge(number));
    set_up(*node, self, mask, number);
  }
  {
    const autograd::NoGrad no_grad;
    const Tensor y = filled(self, mask, value);
    check(y.sizes() == self.sizes(), "output with shape {} doesn't match the broadcast shape {}",
          self.sizes(), y.sizes());
    backend_of(self).copy(self, y);
  }
  autograd::bump_version(self);
  if (node) autograd::rebase_history(self, node);
  return self;
}

}  // namespace

Tensor masked_fill(const Tensor& x, const Tensor& mask, const Operand& value) {
  const Tensor number = fill_value(mask, value);
  const Tensor y = filled(x, mask, value);
  if (auto node = autograd::record<MaskedFillBackward0>(y, x, number)) {
    set_up(*node, x, mask, number);
  }
  return y;
}

Tensor Tensor::masked_fill(const Tensor& mask, Scalar value) const {
  return lockstep::masked_fill(*this, mask, value);
}
Tensor Tensor::masked_fill(const Tensor& mask, const Tensor& value) const {
  return lockstep::masked_fill(*this, mask, value);
}
const Tensor& Tensor::masked_fill_(const Tensor& mask, Scalar value) const {
  return masked_fill_in_place(*this, mask, value);
}
const Tensor& Tensor::masked_fill_(const Tensor& mask, const Tensor& value) const {
  return masked_fill_in_place(*this, mask, value);
}

}  // namespace lockstep
