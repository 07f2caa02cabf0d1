#include "lockstep/engine/ops/split.h"

#include <algorithm>

#include "lockstep/engine/autograd/op_node.h"
#include "lockstep/engine/ops/join.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep {
namespace {

// One node for all parts: their gradients are joined once, instead of one padded tensor per part.
struct SplitNode final : autograd::OpNode<1> {
  int dim = 0;
  bool drops = false;  // unbind: the parts have lost `dim`
  std::string_view label;
  std::string_view name() const override { return label; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    const auto defined = std::find_if(gradients.begin(), gradients.end(),
                                      [](const Tensor& g) { return g.defined(); });
    std::vector<Tensor> parts;
    for (size_t i = 0; i < gradients.size(); ++i) {
      Tensor part = gradients[i];
      if (!part.defined()) part = zeros(outputs()[i].sizes, {defined->dtype(), defined->device()});
      parts.push_back(drops ? part.unsqueeze(dim) : part);
    }
    results[0] = cat(parts, dim);
  }
};

std::vector<Tensor> parts_of(const Tensor& x, const std::vector<int64_t>& lengths, int dim,
                             std::string_view label) {
  const bool drops = label == "UnbindBackward0";
  std::vector<Tensor> parts;
  Ptr<SplitNode> node;
  int64_t start = 0;
  for (int64_t length : lengths) {
    Dims sizes = x.sizes(), strides = x.strides();
    sizes[dim] = length;
    const int64_t offset = x.storage_offset() + (length > 0 ? start * strides[dim] : 0);
    if (drops) {
      sizes.erase(dim);
      strides.erase(dim);
    }
    const Tensor part = view_of(x, sizes, strides, offset);
    auto& creation = part.impl()->creation;
    if (creation == autograd::ViewCreation::kRecorded) {
      creation = autograd::ViewCreation::kOneOfSeveral;
    }
    if (node) {
      autograd::set_history(part, node);
    } else if ((node = autograd::record<SplitNode>(part, x))) {
      node->dim = dim;
      node->drops = drops;
      node->label = label;
    }
    parts.push_back(part);
    start += length;
  }
  return parts;
}

std::vector<int64_t> equal_lengths(int64_t n, int64_t size) {
  std::vector<int64_t> lengths;
  for (int64_t start = 0; start < n || lengths.empty(); start += size) {
    lengths.push_back(std::min(size, n - start));
  }
  return lengths;
}

}  // namespace

std::vector<Tensor> split(const Tensor& x, const Dims& sizes, int64_t dim) {
  check(x.dim() > 0, "split expects at least a 1-dimensional tensor");
  const int d = wrap_dim(dim, x.dim());
  std::vector<int64_t> lengths;
  int64_t total = 0;
  for (int64_t size : sizes) {
    check(size >= 0,
          "split_with_sizes expects split_sizes have only non-negative entries, but got "
          "split_sizes={}",
          sizes);
    lengths.push_back(size);
    total += size;
  }
  check(total == x.size(d),
        "split_with_sizes expects split_sizes to sum exactly to {} (input tensor's size at "
        "dimension {}), but got split_sizes={}",
        x.size(d), d, sizes);
  return parts_of(x, lengths, d, "SplitWithSizesBackward0");
}

std::vector<Tensor> split(const Tensor& x, int64_t size, int64_t dim) {
  check(x.dim() > 0, "split expects at least a 1-dimensional tensor");
  check(size >= 0, "split expects split_size be non-negative, but got split_size={}", size);
  const int d = wrap_dim(dim, x.dim());
  const int64_t n = x.size(d);
  check(size > 0 || n == 0,
        "split_size can only be 0 if dimension size is 0, but got dimension size of {}", n);
  return parts_of(x, equal_lengths(n, size), d, "SplitBackward0");
}

std::vector<Tensor> chunk(const Tensor& x, int64_t chunks, int64_t dim) {
  check(x.dim() > 0, "chunk expects at least a 1-dimensional tensor");
  check(chunks > 0, "chunk expects `chunks` to be greater than 0, got: {}", chunks);
  const int d = wrap_dim(dim, x.dim());
  const int64_t n = x.size(d);
  if (n > 0) return parts_of(x, equal_lengths(n, (n + chunks - 1) / chunks), d, "SplitBackward0");
  const std::vector<int64_t> none(static_cast<size_t>(chunks), 0);
  return parts_of(x, none, d, "SplitWithSizesBackward0");
}

std::vector<Tensor> unbind(const Tensor& x, int64_t dim) {
  check(x.dim() > 0, "Dimension specified as {} but tensor has no dimensions", dim);
  const int d = wrap_dim(dim, x.dim());
  const std::vector<int64_t> ones(static_cast<size_t>(x.size(d)), 1);
  return parts_of(x, ones, d, "UnbindBackward0");
}

Tensor movedim(const Tensor& x, const Dims& source, const Dims& destination) {
  return x.movedim(source, destination);
}

std::vector<Tensor> Tensor::split(int64_t size, int64_t dim) const {
  return lockstep::split(*this, size, dim);
}
std::vector<Tensor> Tensor::split(const Dims& sizes, int64_t dim) const {
  return lockstep::split(*this, sizes, dim);
}
std::vector<Tensor> Tensor::chunk(int64_t chunks, int64_t dim) const {
  return lockstep::chunk(*this, chunks, dim);
}
std::vector<Tensor> Tensor::unbind(int64_t dim) const { return lockstep::unbind(*this, dim); }

}  // namespace lockstep
