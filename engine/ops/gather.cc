#include "lockstep/engine/ops/gather.h"

#include <algorithm>

#include "lockstep/engine/autograd/op_node.h"
#include "lockstep/engine/backend.h"
#include "lockstep/engine/index_checks.h"
#include "lockstep/engine/ops/autocast.h"
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

IndexRule rule_of(const char* op, int dim, int64_t size) {
  return {op, "index {0} is out of bounds for dimension {1} with size {2}", dim, size};
}

// A tensor without dimensions counts as a vector of one element.
int dims_of(const Tensor& t) { return std::max(t.dim(), 1); }
int64_t size_along(const Tensor& t, int dim) { return t.dim() > 0 ? t.sizes()[dim] : 1; }
Tensor as_vector(const Tensor& t) {
  return t.dim() > 0 ? t.detach() : alias_of(t, {1}, {1}, t.storage_offset());
}

}  // namespace

Tensor gather(const Tensor& x, int64_t dim, const Tensor& index) {
  const int d = wrap_dim(dim, x.dim());
  if (index.numel() > 0) {
    check(index.dtype() == DType::kInt64, "gather(): Expected dtype int64 for index");
    check(dims_of(index) == dims_of(x),
          "Index tensor must have the same number of dimensions as input tensor");
    for (int k = 0; k < index.dim(); ++k) {
      check(k == d || index.sizes()[k] <= x.sizes()[k],
            "Size does not match at dimension {} expected index {} to be smaller than self {} "
            "apart from dimension {}",
            k, index.sizes(), x.sizes(), d);
    }
    check_indices(rule_of("gather", d, size_along(x, d)), index);
  }
  const Tensor y = empty_dense(index.sizes(), x.dtype(), x.device());
  if (index.numel() > 0) {
    backend_of(x).gather(as_vector(y), as_vector(x).contiguous(), d, as_vector(index).contiguous());
  }
  if (auto node = record<GatherBackward0>(y, x)) {
    node->dim = d;
    node->sizes = x.sizes();
    node->save(0, index);
  }
  return y;
}

Tensor scatter_add(const Tensor& x, int64_t dim, const Tensor& index, const Tensor& source) {
  LOCKSTEP_AUTOCAST(scatter_add, x, dim, index, source);
  const int d = wrap_dim(dim, x.dim());
  check(index.dtype() == DType::kInt64 || index.numel() == 0,
        "scatter(): Expected dtype int64 for index");
  check(x.dtype() == source.dtype(), "scatter(): Expected self.dtype to be equal to src.dtype");
  Tensor used;  // what lies beyond the index is not
  if (index.numel() == 0) {
    used = source.reshape({-1}).narrow(0, 0, 0).reshape(index.sizes());
  } else {
    check(dims_of(index) == dims_of(x),
          "Index tensor must have the same number of dimensions as self tensor");
    check(dims_of(index) == dims_of(source),
          "Index tensor must have the same number of dimensions as src tensor");
    used = source.dim() == 0 ? source.reshape({1}) : source;
    for (int k = 0; k < index.dim(); ++k) {
      const int64_t n = index.sizes()[k];
      check((k == d || n <= x.sizes()[k]) && n <= used.sizes()[k],
            "Expected index {} to be smaller than self {} apart from dimension {} and to be "
            "smaller size than src {}",
            index.sizes(), x.sizes(), d, source.sizes());
      if (n != used.sizes()[k]) used = used.narrow(k, 0, n);
    }
    if (index.dim() == 0) used = used.narrow(0, 0, 1).reshape({});
  }
  const Tensor y = empty_dense(x.sizes(), x.dtype(), x.device());
  backend_of(x).copy(y, x);
  if (index.numel() > 0) {
    check_indices(rule_of("scatter_add", d, size_along(x, d)), index, y);
    backend_of(x).scatter_add(as_vector(y), d, as_vector(index).contiguous(),
                              as_vector(used).contiguous());
  }
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
