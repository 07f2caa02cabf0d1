#include "lockstep/engine/ops/extreme.h"

#include "lockstep/engine/autograd/op_node.h"
#include "lockstep/engine/backend.h"
#include "lockstep/engine/ops/gather.h"
#include "lockstep/engine/ops/pointwise.h"
#include "lockstep/engine/ops/reduce.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep {
namespace {

using autograd::OpNode;
using autograd::record;

// Values that were taken from along `dim` at saved indices: their gradient goes back there.
struct PickBackward final : OpNode<1> {
  int dim = 0;
  bool squeezed = false;
  Dims sizes;
  std::string_view label;
  std::string_view name() const override { return label; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    Tensor g = gradients[0];
    Tensor index = saved(0);
    if (squeezed) {
      g = g.unsqueeze(dim);
      index = index.unsqueeze(dim);
    }
    results[0] = scatter_to_zeros(g, sizes, dim, index);
  }
};

void record_pick(const Tensor& x, const ValuesAndIndices& picked, int dim, bool squeezed,
                 std::string_view label) {
  if (auto node = record<PickBackward>(picked.values, x)) {
    node->dim = dim;
    node->squeezed = squeezed;
    node->sizes = x.sizes();
    node->label = label;
    node->save(0, picked.indices);
  }
}

Tensor without(const Tensor& t, int dim) {
  Dims sizes = t.sizes();
  sizes.erase(dim);
  return alias_of(t, sizes, contiguous_strides(sizes), t.storage_offset());
}

ValuesAndIndices extreme(const Tensor& x, int64_t dim, bool keepdim, bool largest,
                         std::string_view label) {
  const int d = wrap_dim(dim, x.dim());
  Dims sizes = x.sizes();
  if (x.dim() > 0) {
    check(sizes[d] > 0, "{}(): Expected reduction dim {} to have non-zero size.",
          largest ? "max" : "min", d);
    sizes[d] = 1;
  }
  ValuesAndIndices y{empty_dense(sizes, x.dtype(), x.device()),
                     empty_dense(sizes, DType::kInt64, x.device())};
  if (y.values.numel() > 0) backend_of(x).extreme(y.values, y.indices, x.detach(), d, largest);
  const bool squeezed = !keepdim && x.dim() > 0;
  if (squeezed) y = {without(y.values, d), without(y.indices, d)};
  record_pick(x, y, d, squeezed, label);
  return y;
}

ValuesAndIndices sorted(const Tensor& x, int dim, bool descending) {
  const Tensor dense = x.detach().contiguous();
  ValuesAndIndices y{empty_dense(x.sizes(), x.dtype(), x.device()),
                     empty_dense(x.sizes(), DType::kInt64, x.device())};
  if (x.numel() > 0) backend_of(x).sort(y.values, y.indices, dense, dim, descending);
  return y;
}

}  // namespace

ValuesAndIndices max(const Tensor& x, int64_t dim, bool keepdim) {
  return extreme(x, dim, keepdim, true, "MaxBackward0");
}
ValuesAndIndices min(const Tensor& x, int64_t dim, bool keepdim) {
  return extreme(x, dim, keepdim, false, "MinBackward0");
}

Tensor max(const Tensor& a, const Tensor& b) { return maximum(a, b); }
Tensor min(const Tensor& a, const Tensor& b) { return minimum(a, b); }

Tensor argmax(const Tensor& x) {
  check(x.numel() > 0, "argmax(): Expected reduction dim to be specified for input.numel() == 0.");
  return argmax(x.detach().reshape({-1}), 0);
}
Tensor argmin(const Tensor& x) {
  check(x.numel() > 0, "argmin(): Expected reduction dim to be specified for input.numel() == 0.");
  return argmin(x.detach().reshape({-1}), 0);
}
Tensor argmin(const Tensor& x, int64_t dim, bool keepdim) {
  const int d = wrap_dim(dim, x.dim());
  check(x.dim() == 0 || x.size(d) > 0, "argmin(): Expected reduction dim {} to have non-zero size.",
        d);
  return min(x.detach(), dim, keepdim).indices;
}

ValuesAndIndices sort(const Tensor& x, int64_t dim, bool descending) {
  const int d = wrap_dim(dim, x.dim());
  const ValuesAndIndices y = sorted(x, d, descending);
  record_pick(x, y, d, false, "SortBackward0");
  return y;
}

Tensor argsort(const Tensor& x, int64_t dim, bool descending) {
  return sort(x.detach(), dim, descending).indices;
}

ValuesAndIndices topk(const Tensor& x, int64_t k, int64_t dim, bool largest) {
  const int d = wrap_dim(dim, x.dim());
  check(k >= 0 && k <= (x.dim() > 0 ? x.size(d) : 1), "selected index k out of range");
  ValuesAndIndices y = sorted(x, d, largest);
  if (x.dim() > 0) {
    y = {y.values.narrow(d, 0, k).contiguous().detach(),
         y.indices.narrow(d, 0, k).contiguous().detach()};
  }
  record_pick(x, y, d, false, "TopkBackward0");
  return y;
}

Tensor Tensor::argmax() const { return lockstep::argmax(*this); }
Tensor Tensor::argmin() const { return lockstep::argmin(*this); }
Tensor Tensor::argmin(int64_t dim, bool keepdim) const {
  return lockstep::argmin(*this, dim, keepdim);
}
ValuesAndIndices Tensor::max(int64_t dim, bool keepdim) const {
  return lockstep::max(*this, dim, keepdim);
}
ValuesAndIndices Tensor::min(int64_t dim, bool keepdim) const {
  return lockstep::min(*this, dim, keepdim);
}
ValuesAndIndices Tensor::sort(int64_t dim, bool descending) const {
  return lockstep::sort(*this, dim, descending);
}
Tensor Tensor::argsort(int64_t dim, bool descending) const {
  return lockstep::argsort(*this, dim, descending);
}
ValuesAndIndices Tensor::topk(int64_t k, int64_t dim, bool largest) const {
  return lockstep::topk(*this, k, dim, largest);
}

}  // namespace lockstep
