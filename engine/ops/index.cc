#include "lockstep/engine/ops/index.h"

#include "lockstep/engine/autograd/op_node.h"
#include "lockstep/engine/backend.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep {
namespace {

using autograd::OpNode;
using autograd::record;

Tensor index_add_to_zeros(const Tensor& g, const Dims& sizes, int dim, const Tensor& index);

struct IndexSelectBackward0 final : OpNode<1> {
  int dim = 0;
  Dims sizes;
  std::string_view name() const override { return "IndexSelectBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    results[0] = index_add_to_zeros(gradients[0], sizes, dim, saved(0));
  }
};

struct IndexAddBackward0 final : OpNode<1> {
  int dim = 0;
  std::string_view name() const override { return "IndexAddBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    results[0] = index_select(gradients[0], dim, saved(0));
  }
};

Tensor index_add_to_zeros(const Tensor& g, const Dims& sizes, int dim, const Tensor& index) {
  const Tensor y = zeros(sizes, {g.dtype(), g.device()});
  backend_of(g).index_add(y, dim, index, g.detach().contiguous());
  if (auto node = record<IndexAddBackward0>(y, g)) {
    node->dim = dim;
    node->save(0, index);
  }
  return y;
}

}  // namespace

Tensor index_select(const Tensor& x, int64_t dim, const Tensor& index) {
  check(index.dim() <= 1 && index.dtype() == DType::kInt64,
        "index_select(): Index is supposed to be a vector of int64, got {} of {}",
        index.sizes().str(), name_of(index.dtype()));
  check(x.dim() > 0, "index_select() cannot be applied to a 0-dim tensor.");
  const int d = wrap_dim(dim, x.dim());
  const Tensor host = index.reshape({-1}).to(Device{}).contiguous();
  for (int64_t i = 0; i < host.numel(); ++i) {
    const int64_t at = host.data<int64_t>()[i];
    check(at >= 0 && at < x.size(d), "index out of range in self: {} for dimension {} with size {}",
          at, d, x.size(d));
  }
  Dims sizes = x.sizes();
  sizes[d] = host.numel();
  const Tensor flat_index = index.reshape({-1}).contiguous();
  const Tensor y = empty_dense(sizes, x.dtype(), x.device());
  backend_of(x).index_select(y, x.detach().contiguous(), d, flat_index);
  if (auto node = record<IndexSelectBackward0>(y, x)) {
    node->dim = d;
    node->sizes = x.sizes();
    node->save(0, flat_index);
  }
  return y;
}

}  // namespace lockstep
