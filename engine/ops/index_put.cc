#include "lockstep/engine/ops/index_put.h"

#include "lockstep/engine/autograd/op_node.h"
#include "lockstep/engine/backend.h"
#include "lockstep/engine/ops/autocast.h"
#include "lockstep/engine/ops/index.h"
#include "lockstep/engine/ops/join.h"
#include "lockstep/engine/ops/pointwise.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/engine/tensor/overlap.h"
#include "lockstep/engine/tensor/same_device.h"
#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep {
namespace {

using autograd::OpNode;

// Where in row-major order the elements lie that `indices` name, in the shape that they have; on
// the host.
Tensor places_of(const Tensor& x, std::vector<Tensor> indices) {
  const autograd::NoGrad no_grad;
  for (Tensor& each : indices) {
    if (!each.defined()) continue;
    check(each.device().is_cpu() || each.device() == x.device(),
          "indices should be either on cpu or on the same device as the indexed tensor ({})",
          x.device());
    each = each.to(Device{});
  }
  return index(arange(x.numel()).view(x.sizes()), indices);
}

// x, as a new dense tensor, with `values` (of the shape of `places`) written or added there.
Tensor put(const Tensor& x, const Tensor& places, const Tensor& values, bool accumulate) {
  const autograd::NoGrad no_grad;
  const Tensor flat = x.contiguous().view({-1}), new_values = values.contiguous().view({-1});
  const Tensor at = places.contiguous().view({-1});
  if (accumulate) return index_add(flat, 0, at.to(x.device()), new_values).view(x.sizes());
  Tensor from = arange(x.numel());
  auto* source = from.data<int64_t>();
  for (int64_t i = 0; i < at.numel(); ++i) source[at.data<int64_t>()[i]] = x.numel() + i;
  return index_select(cat({flat, new_values}), 0, from.to(x.device())).view(x.sizes());
}

struct IndexPutBackward0 final : OpNode<1> {
  bool accumulate = false;
  Dims value_sizes;
  std::string_view name() const override { return "IndexPutBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override;
};

// The place of x[indices] = values in the graph, before it is done.
Ptr<IndexPutBackward0> node_for(const Tensor& x, const Tensor& places, const Tensor& values,
                                bool accumulate) {
  if (!autograd::grad_enabled() || !(x.requires_grad() || values.requires_grad())) return nullptr;
  auto node = make_ptr<IndexPutBackward0>();
  node->add_edge(autograd::gradient_edge(x));
  node->add_edge(autograd::gradient_edge(values));
  node->accumulate = accumulate;
  node->value_sizes = values.sizes();
  node->save(0, places);
  return node;
}

Tensor put_recorded(const Tensor& x, const Tensor& places, const Tensor& values, bool accumulate) {
  const Tensor y = put(x, places, values.expand(places.sizes()), accumulate);
  if (auto node = node_for(x, places, values, accumulate)) autograd::set_history(y, node);
  return y;
}

void IndexPutBackward0::apply(std::span<Tensor> gradients, std::span<Tensor> results) {
  const Tensor& g = gradients[0];
  const Tensor places = saved(0);
  if (needs(0)) {
    const Tensor zero = zeros({}, {g.dtype(), g.device()});
    results[0] = accumulate ? g : put_recorded(g, places, zero, false);
  }
  if (needs(1)) {
    const Tensor picked = index(g.reshape({-1}), {places.to(g.device())});
    results[1] = sum_to_size(picked, value_sizes);
  }
}

void check_values(const Tensor& x, const Tensor& values, const Tensor& places) {
  check_on_device("index_put", x.device(), values);
  check(x.dtype() == values.dtype(),
        "Index put requires the source and destination dtypes match, got {} for the destination "
        "and {} for the source.",
        type_name(x.dtype()), type_name(values.dtype()));
  const int lead = places.dim() - values.dim();
  bool fits = lead >= 0;
  for (int d = 0; fits && d < values.dim(); ++d) {
    fits = values.sizes()[d] == 1 || values.sizes()[d] == places.sizes()[d + lead];
  }
  check(fits,
        "shape mismatch: value tensor of shape {} cannot be broadcast to indexing result of shape "
        "{}",
        values.sizes(), places.sizes());
}

}  // namespace

Tensor index_put(const Tensor& x, const std::vector<Tensor>& indices, const Tensor& values,
                 bool accumulate) {
  LOCKSTEP_AUTOCAST(index_put, x, indices, values, accumulate);
  const Tensor places = places_of(x, indices);
  check_values(x, values, places);
  return put_recorded(x, places, values, accumulate);
}

Tensor Tensor::index_put(const std::vector<Tensor>& indices, const Tensor& values,
                         bool accumulate) const {
  return lockstep::index_put(*this, indices, values, accumulate);
}

const Tensor& Tensor::index_put_(const std::vector<Tensor>& indices, const Tensor& values,
                                 bool accumulate) const {
  const Tensor places = places_of(*this, indices);
  check_values(*this, values, places);
  check_no_overlap(*this, values);
  autograd::check_inplace(*this);
  const auto node = node_for(*this, places, values, accumulate);
  if (node) autograd::check_view_write(*this);
  backend_of(*this).copy(*this,
                         put(detach(), places, values.detach().expand(places.sizes()), accumulate));
  autograd::bump_version(*this);
  if (node) autograd::rebase_history(*this, node);
  return *this;
}

}  // namespace lockstep
