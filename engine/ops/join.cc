#include "lockstep/engine/ops/join.h"

#include <array>
#include <utility>

#include "lockstep/engine/autograd/op_node.h"
#include "lockstep/engine/backend.h"
#include "lockstep/engine/ops/index.h"
#include "lockstep/engine/ops/positions.h"
#include "lockstep/engine/ops/reduce.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/engine/tensor/same_device.h"
#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep {
namespace {

using autograd::OpNode;
using autograd::record;

// Edge i leads to tensor i, which holds `lengths[i]` of the output along `dim`.
struct CatBackward0 final : OpNode<1> {
  int dim = 0;
  std::vector<int64_t> lengths;  // -1: an empty tensor that was skipped
  std::vector<DType> dtypes;
  std::string_view name() const override { return "CatBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    int64_t start = 0;
    for (size_t i = 0; i < lengths.size(); ++i) {
      if (needs(i)) {
        results[i] = lengths[i] < 0 ? zeros({0}, {dtypes[i], gradients[0].device()})
                                    : gradients[0].narrow(dim, start, lengths[i]).to(dtypes[i]);
      }
      start += std::max<int64_t>(lengths[i], 0);
    }
  }
};

struct StackBackward0 final : OpNode<1> {
  int dim = 0;
  std::vector<DType> dtypes;
  std::string_view name() const override { return "StackBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    for (size_t i = 0; i < dtypes.size(); ++i) {
      if (needs(i)) {
        results[i] = gradients[0].select(dim, static_cast<int64_t>(i)).to(dtypes[i]);
      }
    }
  }
};

struct RepeatBackward0 final : OpNode<1> {
  Dims repeats, sizes;
  std::string_view name() const override { return "RepeatBackward0"; }
  // One dimension at a time: (before, repeats, size, after), summed over the repeats.
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    Tensor g = gradients[0];
    const int lead = repeats.size() - sizes.size();
    for (int d = 0; d < repeats.size(); ++d) {
      if (repeats[d] == 1) continue;
      const int64_t size = d < lead ? 1 : sizes[d - lead];
      Dims narrow = g.sizes();
      narrow[d] = size;
      int64_t before = 1, after = 1;
      for (int k = 0; k < d; ++k) before *= narrow[k];
      for (int k = d + 1; k < narrow.size(); ++k) after *= narrow[k];
      g = sum(g.reshape({before, repeats[d], size, after}), {1}).reshape(narrow);
    }
    results[0] = g.reshape(sizes);
  }
};

struct FlipBackward0 final : OpNode<1> {
  Dims dims;
  std::string_view name() const override { return "FlipBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    results[0] = flip(gradients[0], dims);
  }
};

// Null unless something needs a gradient; else a node with an edge to each tensor.
template <typename NodeType>
Ptr<NodeType> record_all(const Tensor& y, const std::vector<Tensor>& tensors) {
  bool wanted = false;
  for (const Tensor& t : tensors) wanted = wanted || t.requires_grad();
  if (!wanted || !autograd::grad_enabled()) return nullptr;
  auto node = make_ptr<NodeType>();
  for (const Tensor& t : tensors) {
    node->add_edge(autograd::gradient_edge(t));
    node->dtypes.push_back(t.dtype());
  }
  autograd::set_history(y, node);
  return node;
}

bool is_skipped(const Tensor& t) { return t.dim() == 1 && t.numel() == 0; }

}  // namespace

Tensor cat(const std::vector<Tensor>& tensors, int64_t dim) {
  check(!tensors.empty(), "torch.cat(): expected a non-empty list of Tensors");
  DType dtype = tensors[0].dtype();
  const Tensor* shape = nullptr;
  for (size_t i = 0; i < tensors.size(); ++i) {
    check(tensors[i].dim() > 0, "zero-dimensional tensor (at position {}) cannot be concatenated",
          i);
    dtype = promote(dtype, tensors[i].dtype());
    if (!shape && !is_skipped(tensors[i])) shape = &tensors[i];
  }
  Dims sizes = shape ? shape->sizes() : Dims{0};
  const int d = wrap_dim(dim, sizes.size());
  std::vector<int64_t> lengths;
  int64_t total = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const Tensor& t = tensors[i];
    if (is_skipped(t)) {
      lengths.push_back(-1);
      continue;
    }
    check(t.dim() == sizes.size(), "Tensors must have same number of dimensions: got {} and {}",
          sizes.size(), t.dim());
    for (int k = 0; k < sizes.size(); ++k) {
      check(k == d || t.sizes()[k] == sizes[k],
            "Sizes of tensors must match except in dimension {}. Expected size {} but got size {} "
            "for tensor number {} in the list.",
            d, sizes[k], t.sizes()[k], i);
    }
    check_on_device("cat", tensors[0].device(), t);
    lengths.push_back(t.size(d));
    total += t.size(d);
  }
  sizes[d] = total;
  const Tensor y = empty_dense(sizes, dtype, tensors[0].device());
  int64_t start = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (lengths[i] <= 0) continue;
    Dims part = sizes;
    part[d] = lengths[i];
    backend_of(y).copy(alias_of(y, part, y.strides(), start * y.strides()[d]), tensors[i]);
    start += lengths[i];
  }
  if (auto node = record_all<CatBackward0>(y, tensors)) {
    node->dim = d;
    node->lengths = std::move(lengths);
  }
  return y;
}

Tensor stack(const std::vector<Tensor>& tensors, int64_t dim) {
  check(!tensors.empty(), "stack expects a non-empty TensorList");
  const int d = wrap_dim(dim, tensors[0].dim() + 1);
  std::vector<Tensor> rows;
  for (size_t i = 0; i < tensors.size(); ++i) {
    check(tensors[i].sizes() == tensors[0].sizes(),
          "stack expects each tensor to be equal size, but got {} at entry 0 and {} at entry {}",
          tensors[0].sizes(), tensors[i].sizes(), i);
    rows.push_back(tensors[i].detach().unsqueeze(d));
  }
  const Tensor y = cat(rows, d);
  if (auto node = record_all<StackBackward0>(y, tensors)) node->dim = d;
  return y;
}

Tensor repeat(const Tensor& x, const Dims& repeats) {
  const int lead = repeats.size() - x.dim();
  check(lead >= 0,
        "Number of dimensions of repeat dims can not be smaller than number of dimensions of "
        "tensor");
  Dims padded = Dims::filled(lead, 1);
  for (int64_t n : x.sizes()) padded.push_back(n);
  Tensor y = x.detach().reshape(padded);
  for (int d = repeats.size() - 1; d >= 0; --d) {
    check(repeats[d] >= 0, "Trying to create tensor with negative dimension {}",
          repeats[d] * padded[d]);
    if (repeats[d] == 1) continue;
    if (repeats[d] == 0) {
      y = y.narrow(d, 0, 0);
    } else {
      y = cat(std::vector<Tensor>(static_cast<size_t>(repeats[d]), y), d);
    }
  }
  y = y.clone().contiguous().detach();
  if (auto node = record<RepeatBackward0>(y, x)) {
    node->repeats = repeats;
    node->sizes = x.sizes();
  }
  return y;
}

Tensor flip(const Tensor& x, const Dims& dims) {
  Tensor y = x.detach();
  std::array<bool, kMaxDims> done{};
  for (int64_t wanted : dims) {
    const auto d = static_cast<size_t>(wrap_dim(wanted, x.dim()));
    check(!std::exchange(done[d], true), "dim {} appears multiple times in the list of dims", d);
    const int64_t n = x.dim() > 0 ? x.size(wanted) : 1;
    if (n <= 1) continue;
    y = index_select(y, wanted, sub(n - 1, positions(n, x.device())));
  }
  if (y.impl()->storage == x.impl()->storage) y = y.clone();  // nothing to turn round
  if (auto node = record<FlipBackward0>(y, x)) node->dims = dims;
  return y;
}

Tensor Tensor::repeat(const Dims& repeats) const { return lockstep::repeat(*this, repeats); }
Tensor Tensor::flip(const Dims& dims) const { return lockstep::flip(*this, dims); }

}  // namespace lockstep
