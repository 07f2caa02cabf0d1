#include "lockstep/engine/ops/masks.h"

#include "lockstep/engine/autograd/op_node.h"
#include "lockstep/engine/ops/pointwise.h"
#include "lockstep/engine/ops/positions.h"
#include "lockstep/engine/ops/reduce.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep {
namespace {

struct TriangleBackward final : autograd::OpNode<1> {
  bool lower = true;
  int64_t diagonal = 0;
  std::string_view name() const override { return lower ? "TrilBackward0" : "TriuBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    results[0] = lower ? tril(gradients[0], diagonal) : triu(gradients[0], diagonal);
  }
};

Tensor triangle(const Tensor& x, int64_t diagonal, bool lower) {
  check(x.dim() >= 2, "{}: input tensor must have at least 2 dimensions", lower ? "tril" : "triu");
  Tensor y;
  {
    const autograd::NoGrad no_grad;
    const Tensor rows = positions(x.size(-2), x.device()).unsqueeze(1);
    const Tensor above = sub(positions(x.size(-1), x.device()), rows);
    y = masked_fill(x, lower ? gt(above, diagonal) : lt(above, diagonal), 0);
  }
  if (auto node = autograd::record<TriangleBackward>(y, x)) {
    node->lower = lower;
    node->diagonal = diagonal;
  }
  return y;
}

}  // namespace

Tensor tril(const Tensor& x, int64_t diagonal) { return triangle(x, diagonal, true); }
Tensor triu(const Tensor& x, int64_t diagonal) { return triangle(x, diagonal, false); }

void check_byte_mask(const Tensor& mask) {
  if (mask.dtype() != DType::kUInt8 || mask.numel() == 0) return;
  check(max(mask).item<int64_t>() <= 1, "Mask tensor can take 0 and 1 values only");
}

Tensor Tensor::tril(int64_t diagonal) const { return lockstep::tril(*this, diagonal); }
Tensor Tensor::triu(int64_t diagonal) const { return lockstep::triu(*this, diagonal); }

}  // namespace lockstep
