#include "lockstep/engine/ops/gather.h"

#include "lockstep/engine/autograd/op_node.h"
#include "lockstep/engine/backend.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep {
namespace {

using autograd::OpNode;
using autograd::record;

struct GatherBackward0 final : OpNode<1> {
  int dim = 0;
  Dims sizes;
  std::string_view name() const override { return "GatherBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    results[0] = scatter_to_zeros(gradients[0], sizes, dim, saved(0));
  }
};

struct ScatterAddBackward0 final : OpNode<1> {
  int dim = 0;
  std::string_view name() const override { return "ScatterAddBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    if (needs(0)) results[0] = gradients[0];
    if (needs(1)) results[1] = gather(gradients[0], dim, saved(0));
  }
};

// Reads the indices on the host.
void check_indices(const Tensor& index, int dim, int64_t size) {
  const Tensor host = index.to(Device{}).contiguous();
  const int64_t* at = host.data<int64_t>();
  for (int64_t i = 0; i < host.numel(); ++i) {
    check(at[i] >= 0 && at[i] < size, "index {} is out of bounds for dimension {} with size {}",
          at[i], dim, size);
  }
}

}  // namespace

Tensor gather(const Tensor& x, int64_t dim, const Tensor& index) {
  check(index.dtype() == DType::kInt64, "gather(): Expected dtype int64 for index");
  check(index.dim() == x.dim(),
        "Index tensor must have the same number of dimensions as input tensor");
  const int d = wrap_dim(dim, x.dim());
  for (int k = 0; k < index.dim(); ++k) {
    check(k == d || index.sizes()[k] <= x.sizes()[k],
          "Size does not match at dimension {} expected index {} to be smaller than self {} apart "
          "from dimension {}",
          k, index.sizes().str(), x.sizes().str(), d);
  }
  check_indices(index, d, x.dim() > 0 ? x.size(d) : 1);
  const Tensor dense_index = index.contiguous();
  const Tensor y = empty_dense(index.sizes(), x.dtype(), x.device());
  backend_of(x).gather(y, x.detach().contiguous(), d, dense_index);
  if (auto node = record<GatherBackward0>(y, x)) {
    node->dim = d;
    node->sizes = x.sizes();
    node->save(0, index);
  }
  return y;
}

Tensor scatter_add(const Tensor& x, int64_t dim, const Tensor& index, const Tensor& source) {
  check(index.dtype() == DType::kInt64, "scatter(): Expected dtype int64 for index");
  check(x.dtype() == source.dtype(), "scatter(): Expected self.dtype to be equal to src.dtype");
  check(index.dim() == x.dim() && index.dim() == source.dim(),
        "Index tensor must have the same number of dimensions as self tensor");
  const int d = wrap_dim(dim, x.dim());
  for (int k = 0; k < index.dim(); ++k) {
    check((k == d || index.sizes()[k] <= x.sizes()[k]) && index.sizes()[k] <= source.sizes()[k],
          "Expected index {} to be smaller than self {} apart from dimension {} and to be smaller "
          "size than src {}",
          index.sizes().str(), x.sizes().str(), d, source.sizes().str());
  }
  check_indices(index, d, x.dim() > 0 ? x.size(d) : 1);
  Tensor used = source;  // what lies beyond the index is not
  for (int k = 0; k < index.dim(); ++k) {
    if (index.sizes()[k] != used.sizes()[k]) used = used.narrow(k, 0, index.sizes()[k]);
  }
  const Tensor y = empty_dense(x.sizes(), x.dtype(), x.device());
  backend_of(x).copy(y, x);
  backend_of(x).scatter_add(y, d, index.contiguous(), used.detach().contiguous());
  if (auto node = record<ScatterAddBackward0>(y, x, used)) {
    node->dim = d;
    node->save(0, index);
  }
  return y;
}

Tensor scatter_to_zeros(const Tensor& g, const Dims& sizes, int dim, const Tensor& index) {
  return scatter_add(zeros(sizes, {g.dtype(), g.device()}), dim, index, g);
}

Tensor Tensor::gather(int64_t dim, const Tensor& index) const {
  return lockstep::gather(*this, dim, index);
}
Tensor Tensor::scatter_add(int64_t dim, const Tensor& index, const Tensor& source) const {
  return lockstep::scatter_add(*this, dim, index, source);
}

}  // namespace lockstep
