#include "lockstep/engine/ops/product.h"

#include "lockstep/engine/autograd/op_node.h"
#include "lockstep/engine/backend.h"
#include "lockstep/engine/ops/autocast.h"
#include "lockstep/engine/ops/join.h"
#include "lockstep/engine/ops/pointwise.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep {
namespace {

using autograd::OpNode;
using autograd::record;

// The last dimension's even and odd elements.
Tensor evens(const Tensor& x) { return x.slice(-1, 0, x.size(-1), 2); }
Tensor odds(const Tensor& x) { return x.slice(-1, 1, x.size(-1), 2); }

// Products of neighbours, of those, and so on up to one; the last dimension is filled up with ones
// to a power of two. levels[0] is x so filled.
std::vector<Tensor> product_levels(const Tensor& x) {
  int64_t length = 1;
  while (length < x.size(-1)) length *= 2;
  Tensor level = x;
  if (length > x.size(-1)) {
    Dims fill = x.sizes();
    fill[x.dim() - 1] = length - x.size(-1);
    level = cat({x, ones(fill, {x.dtype(), x.device()})}, -1);
  }
  std::vector<Tensor> levels = {level};
  while (levels.back().size(-1) > 1) {
    levels.push_back(mul(evens(levels.back()), odds(levels.back())));
  }
  return levels;
}

// For each element the product of the others in the last dimension, from the top of the levels
// down: the others of a node's left child are the others of the node times its right child.
Tensor product_of_others(const Tensor& x) {
  const std::vector<Tensor> levels = product_levels(x);
  Tensor others = ones_like(levels.back());
  for (size_t k = levels.size() - 1; k-- > 0;) {
    const Tensor& below = levels[k];
    others = stack({mul(others, odds(below)), mul(others, evens(below))}, -1).flatten(-2, -1);
  }
  return others.narrow(-1, 0, x.size(-1));
}

struct ProdBackward final : OpNode<1> {
  int dim = 0;
  bool keepdim = false, all = false;
  std::string_view name() const override { return all ? "ProdBackward0" : "ProdBackward1"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    const Tensor x = saved(0);
    const Tensor& g = gradients[0];
    if (x.numel() == 0) {
      results[0] = zeros_like(x);
    } else if (all || x.dim() == 0) {
      results[0] = mul(product_of_others(x.reshape({-1})).reshape(x.sizes()), g);
    } else {
      const Tensor others = product_of_others(x.transpose(dim, -1)).transpose(dim, -1);
      results[0] = mul(others, keepdim ? g : g.unsqueeze(dim));
    }
  }
};

struct CumsumBackward0 final : OpNode<1> {
  int dim = 0;
  bool reverse = false;
  std::string_view name() const override { return "CumsumBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override;
};

Tensor running_sum(const Tensor& x, int dim, bool reverse) {
  const Tensor dense = x.detach().contiguous();
  const Tensor y = empty_dense(x.sizes(), x.dtype(), x.device());
  if (x.numel() > 0) backend_of(x).cumsum(y, dense, dim, reverse);
  if (auto node = record<CumsumBackward0>(y, x)) {
    node->dim = dim;
    node->reverse = reverse;
  }
  return y;
}

void CumsumBackward0::apply(std::span<Tensor> gradients, std::span<Tensor> results) {
  results[0] = running_sum(gradients[0], dim, !reverse);
}

// Along the last dimension, which goes.
Tensor product_along_last(const Tensor& x) {
  if (x.size(-1) == 0) {
    Dims sizes = x.sizes();
    sizes.erase(x.dim() - 1);
    return ones(sizes, {x.dtype(), x.device()});
  }
  return product_levels(x).back().select(-1, 0).clone().detach();
}

Tensor widened(const Tensor& x) { return is_floating(x.dtype()) ? x : x.to(DType::kInt64); }

}  // namespace

Tensor prod(const Tensor& x) {
  LOCKSTEP_AUTOCAST(prod, x);
  Tensor y;
  {
    const autograd::NoGrad no_grad;
    y = product_along_last(widened(x.detach()).reshape({-1}));
  }
  if (auto node = record<ProdBackward>(y, x)) {
    node->all = true;
    node->save(0, x);
  }
  return y;
}

Tensor prod(const Tensor& x, int64_t dim, bool keepdim) {
  LOCKSTEP_AUTOCAST(prod, x, dim, keepdim);
  const int d = wrap_dim(dim, x.dim());
  Tensor y;
  {
    const autograd::NoGrad no_grad;
    const Tensor wide = widened(x.detach());
    if (x.dim() == 0) {
      y = wide.clone();
    } else {
      Dims order;  // `dim` last
      for (int k = 0; k < x.dim(); ++k) {
        if (k != d) order.push_back(k);
      }
      order.push_back(d);
      y = product_along_last(wide.permute(order));
      if (keepdim) y = y.unsqueeze(d).detach();
    }
  }
  if (auto node = record<ProdBackward>(y, x)) {
    node->dim = d;
    node->keepdim = keepdim || x.dim() == 0;
    node->save(0, x);
  }
  return y;
}

Tensor cumsum(const Tensor& x, int64_t dim) {
  LOCKSTEP_AUTOCAST(cumsum, x, dim);
  return running_sum(widened(x), wrap_dim(dim, x.dim()), false);
}

Tensor Tensor::prod() const { return lockstep::prod(*this); }
Tensor Tensor::prod(int64_t dim, bool keepdim) const { return lockstep::prod(*this, dim, keepdim); }
Tensor Tensor::cumsum(int64_t dim) const { return lockstep::cumsum(*this, dim); }

}  // namespace lockstep
