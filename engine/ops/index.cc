#include "lockstep/engine/ops/index.h"

#include "lockstep/engine/autograd/op_node.h"
#include "lockstep/engine/autograd/renamed.h"
#include "lockstep/engine/backend.h"
#include "lockstep/engine/index_checks.h"
#include "lockstep/engine/ops/masks.h"
#include "lockstep/engine/ops/pointwise.h"
#include "lockstep/engine/ops/positions.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep {
namespace {

using autograd::OpNode;
using autograd::record;

struct IndexSelectBackward0 final : OpNode<1> {
  int dim = 0;
  Dims sizes;
  std::string_view name() const override { return "IndexSelectBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    const Tensor& g = gradients[0];
    results[0] = index_add(zeros(sizes, {g.dtype(), g.device()}), dim, saved(0), g);
  }
};

struct IndexAddBackward0 final : OpNode<1> {
  int dim = 0;
  std::string_view name() const override { return "IndexAddBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    if (needs(0)) results[0] = gradients[0];
    if (needs(1)) results[1] = index_select(gradients[0], dim, saved(0));
  }
};

// Rows of a table picked by flat positions: x.reshape({rows, width})[positions], of any shape.
struct RowsBackward : OpNode<1> {
  Dims sizes;  // of x
  int64_t rows = 0, width = 0;
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    const Tensor positions = saved(0);
    const Tensor g = gradients[0].reshape({positions.numel(), width});
    const Tensor zero = zeros({rows, width}, {g.dtype(), g.device()});
    results[0] = index_add(zero, 0, positions, g).reshape(sizes);
  }
};
struct IndexBackward0 final : RowsBackward {
  std::string_view name() const override { return "IndexBackward0"; }
};
struct MaskedSelectBackward0 final : RowsBackward {
  std::string_view name() const override { return "MaskedSelectBackward0"; }
};

template <typename NodeType>
Tensor take_rows(const Tensor& x, int64_t rows, int64_t width, const Tensor& positions,
                 const Dims& sizes) {
  const Tensor y = empty_dense(sizes, x.dtype(), x.device());
  const Tensor dense = x.detach().contiguous();
  const Tensor table = alias_of(dense, {rows, width}, {width, 1}, dense.storage_offset());
  backend_of(x).index_select(alias_of(y, {positions.numel(), width}, {width, 1}, 0), table, 0,
                             positions);
  if (auto node = record<NodeType>(y, x)) {
    node->sizes = x.sizes();
    node->rows = rows;
    node->width = width;
    node->save(0, positions);
  }
  return y;
}

struct EmbeddingBackward0 final : OpNode<1> {
  Dims sizes;
  int64_t padding = -1;
  std::string_view name() const override { return "EmbeddingBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    const Tensor positions = saved(0);
    Tensor g = gradients[0].reshape({positions.numel(), sizes[1]});
    if (padding >= 0) g = masked_fill(g, eq(positions, padding).unsqueeze(1), 0);
    results[0] = index_add(zeros(sizes, {g.dtype(), g.device()}), 0, positions, g);
  }
};

IndexRule rule_of(const char* op, int dim, int64_t size) {
  return {op, "index out of range in self: {0} for dimension {1} with size {2}", dim, size};
}

// As int64, flat and checked.
Tensor checked_index(const char* op, const Tensor& given, int dim, int64_t size) {
  check(given.dim() <= 1, "{}(): Index is supposed to be a vector", op);
  const Tensor index = given.to(DType::kInt64).reshape({-1}).contiguous();
  check_indices(rule_of(op, dim, size), index);
  return index;
}

bool names_places(const Tensor& index) {
  return index.dtype() == DType::kInt64 || index.dtype() == DType::kInt32;
}

bool is_mask(const Tensor& t) { return t.dtype() == DType::kBool || t.dtype() == DType::kUInt8; }

IndexRule place_rule(int dim, int64_t size) {
  return {.op = "index",
          .text = "index {0} is out of bounds for dimension {1} with size {2}",
          .dim = dim,
          .size = size,
          .negative = true};
}

// The place that a number without dimensions stands for.
int64_t checked_place(const Tensor& index, int dim, int64_t size) {
  const Tensor host = index.to(Device{}).to(DType::kInt64);
  check_indices(place_rule(dim, size), host);
  return host.item<int64_t>();
}

// What index() was given, masks replaced by what they select; undefined for whole dimensions. A
// mask without dimensions stands for a new one of x, of which it takes all or nothing; a number
// without dimensions selects, as it would outside index(), and its dimension goes.
std::vector<Tensor> plain_indices(Tensor& x, const std::vector<Tensor>& indices) {
  const int given_dims = x.dim();
  std::vector<Tensor> plain;
  int selected = 0;
  for (const Tensor& index : indices) {
    const int next = static_cast<int>(plain.size());
    if (!index.defined()) {
      plain.push_back(index);
    } else if (index.dim() == 0 && is_integral(index.dtype()) && !is_mask(index)) {
      check(next < x.dim(), "too many indices for tensor of dimension {}", given_dims);
      x = x.select(next, checked_place(index, next + selected++, x.size(next)));
    } else if (is_mask(index) && index.dim() == 0) {
      x = x.unsqueeze(static_cast<int64_t>(plain.size()));
      const int64_t count = index.item<bool>() ? 1 : 0;
      plain.push_back(zeros({count}, {DType::kInt64, index.device()}));
    } else if (is_mask(index)) {
      for (int d = 0; d < index.dim(); ++d) {
        const int at = static_cast<int>(plain.size()) + d;
        check(at < x.dim() && index.size(d) == x.size(at),
              "The shape of the mask {} at index {} does not match the shape of the indexed tensor "
              "{} at index {}",
              index.sizes(), d, x.sizes(), at);
      }
      const Tensor places = nonzero(index);
      for (int d = 0; d < index.dim(); ++d) plain.push_back(places.select(1, d));
    } else {
      check(index.dtype() == DType::kInt64,
            "tensors used as indices must be long, byte or bool tensors");
      plain.push_back(index);
    }
  }
  check(static_cast<int>(plain.size()) <= x.dim(), "too many indices for tensor of dimension {}",
        given_dims);
  return plain;
}

// The broadcast of `shape` with index `d`.
Dims index_shape(const Dims& shape, const std::vector<Tensor>& indices, int d) {
  try {
    return broadcast_shapes(shape, indices[static_cast<size_t>(d)].sizes());
  } catch (const ValueError&) {
    std::string all;
    for (const Tensor& index : indices) {
      if (index.defined()) all += (all.empty() ? "" : ", ") + index.sizes().str();
    }
    fail("shape mismatch: indexing tensors could not be broadcast together with shapes {}", all);
  }
}

}  // namespace

Tensor index_select(const Tensor& x, int64_t dim, const Tensor& index) {
  if (x.dim() == 0) {  // itself, if the index says so
    check(index.numel() == 1,
          "index_select(): Index to scalar can have only 1 value, got {} value(s)", index.numel());
    return autograd::renamed(index_select(x.unsqueeze(0), dim, index).squeeze(0),
                             "IndexSelectBackward0");
  }
  const int d = wrap_dim(dim, x.dim());
  check(names_places(index), "index_select(): Expected dtype int32 or int64 for index");
  const Tensor flat_index = checked_index("index_select", index, d, x.size(d));
  Dims sizes = x.sizes();
  sizes[d] = flat_index.numel();
  const Tensor y = empty_dense(sizes, x.dtype(), x.device());
  backend_of(x).index_select(y, x.detach().contiguous(), d, flat_index);
  if (auto node = record<IndexSelectBackward0>(y, x)) {
    node->dim = d;
    node->sizes = x.sizes();
    node->save(0, flat_index);
  }
  return y;
}

Tensor index_add(const Tensor& x, int64_t dim, const Tensor& index, const Tensor& source) {
  check(x.dim() == source.dim(),
        "index_add_(): self {} and source {} must have the same number of dimensions", x.sizes(),
        source.sizes());
  if (x.dim() == 0) {
    return autograd::renamed(index_add(x.unsqueeze(0), dim, index, source.unsqueeze(0)).squeeze(0),
                             "IndexAddBackward0");
  }
  check(x.dtype() == source.dtype(),
        "index_add_(): self ({}) and source ({}) must have the same scalar type",
        type_name(x.dtype()), type_name(source.dtype()));
  const int d = wrap_dim(dim, x.dim());
  check(index.numel() == source.size(d),
        "index_add_(): Number of indices ({}) should be equal to source.size(dim): ({}), for dim: "
        "{}",
        index.numel(), source.size(d), d);
  check(names_places(index), "index_add_(): Expected dtype int32/int64 for index but got: {}",
        type_name(index.dtype()));
  check(index.dim() <= 1, "index_add_(): Index is supposed to be a vector");
  const Tensor flat_index = index.to(DType::kInt64).reshape({-1}).contiguous();
  Dims expected = x.sizes();
  expected[d] = flat_index.numel();
  check(source.sizes() == expected,
        "source tensor shape must match self tensor shape, excluding the specified dimension. Got "
        "self.shape = {} source.shape = {}",
        x.sizes(), source.sizes());
  const Tensor y = empty_dense(x.sizes(), x.dtype(), x.device());
  backend_of(x).copy(y, x);
  check_indices(rule_of("index_add_", d, x.size(d)), flat_index, y);
  backend_of(x).index_add(y, d, flat_index, source.detach().contiguous());
  if (auto node = record<IndexAddBackward0>(y, x, source)) {
    node->dim = d;
    node->save(0, flat_index);
  }
  return y;
}

// The indexed dimensions go to the front, where the indices become one flat position; if they were
// neighbours, the dimensions of the result that they stand for go back to where they were.
Tensor index(const Tensor& given, const std::vector<Tensor>& indices) {
  Tensor x = given;
  std::vector<Tensor> plain = plain_indices(x, indices);
  for (Tensor& index : plain) {
    if (!index.defined() || index.device() == x.device()) continue;
    check(index.device().is_cpu(),
          "indices should be either on cpu or on the same device as the indexed tensor ({})",
          x.device());
    index = index.to(x.device());
  }
  Dims order, rest;
  int first = -1, last = -1;
  Dims shape;
  for (int d = 0; d < x.dim(); ++d) {
    const bool indexed =
        d < static_cast<int>(plain.size()) && plain[static_cast<size_t>(d)].defined();
    if (!indexed) {
      rest.push_back(d);
      continue;
    }
    if (first < 0) first = d;
    last = d;
    order.push_back(d);
    shape = index_shape(shape, plain, d);
  }
  if (order.empty()) return x;
  const int count = order.size();
  const bool neighbours = last - first + 1 == count;
  for (int64_t d : rest) order.push_back(d);
  const Tensor front = x.permute(order);
  int64_t rows = 1;
  Tensor positions, outside;
  {
    const autograd::NoGrad no_grad;
    for (int k = 0; k < count; ++k) {
      const auto dim = static_cast<size_t>(order[k]);
      const int64_t n = front.size(k);
      const Tensor checked = check_indices(place_rule(static_cast<int>(dim), n), plain[dim]);
      Tensor wrapped = where(lt(plain[dim], 0), add(plain[dim], n), plain[dim]);
      if (!checked.defined()) {  // then they must not make a flat position of somewhere else
        const Tensor here = logical_or(lt(wrapped, 0), ge(wrapped, n));
        outside = outside.defined() ? logical_or(outside, here) : here;
        wrapped = masked_fill(wrapped, here, 0);
      }
      positions = positions.defined() ? add(mul(positions, n), wrapped) : wrapped;
      rows *= n;
    }
    if (outside.defined()) positions = masked_fill(positions, outside, -1);
    positions = positions.expand(shape).reshape({-1}).contiguous();
  }
  Dims sizes = shape;
  int64_t width = 1;
  for (int k = count; k < front.dim(); ++k) {
    sizes.push_back(front.size(k));
    width *= front.size(k);
  }
  const Tensor y = take_rows<IndexBackward0>(front, rows, width, positions, sizes);
  if (!neighbours || first == 0) return y;
  Dims back;
  for (int d = 0; d < first; ++d) back.push_back(shape.size() + d);
  for (int d = 0; d < shape.size(); ++d) back.push_back(d);
  for (int d = shape.size() + first; d < y.dim(); ++d) back.push_back(d);
  return autograd::renamed(y.permute(back), "IndexBackward0");
}

Tensor nonzero(const Tensor& x) {
  const autograd::NoGrad no_grad;
  const Tensor host = ne(x, 0).to(Device{}).contiguous();
  const bool* set = host.data<bool>();
  std::vector<int64_t> places;
  int64_t count = 0;
  for (int64_t i = 0; i < host.numel(); ++i) {
    if (!set[i]) continue;
    ++count;
    int64_t rest = i;
    places.resize(places.size() + static_cast<size_t>(x.dim()));
    for (int d = 0; d < x.dim(); ++d) {
      places[places.size() - 1 - static_cast<size_t>(d)] = rest % x.size(x.dim() - 1 - d);
      rest /= x.size(x.dim() - 1 - d);
    }
  }
  return from_span<int64_t>(places, {count, x.dim()}).to(x.device());
}

Tensor masked_select(const Tensor& x, const Tensor& mask) {
  check(is_mask(mask), "masked_select: expected BoolTensor or ByteTensor for mask");
  check_byte_mask(mask);
  const Dims sizes = broadcast_shapes(x.sizes(), mask.sizes());
  const Tensor full = x.expand(sizes);
  const Tensor positions = nonzero(mask.expand(sizes).reshape({-1})).reshape({-1});
  return take_rows<MaskedSelectBackward0>(full, full.numel(), 1, positions, {positions.numel()});
}

Tensor embedding(const Tensor& indices, const Tensor& weight, int64_t padding_idx) {
  check(weight.dim() == 2, "'weight' must be 2-D");
  check(names_places(indices),
        "Expected tensor for argument #1 'indices' to have one of the following scalar types: "
        "Long, Int; but got torch.{}Tensor instead (while checking arguments for embedding)",
        type_name(indices.dtype()));
  const Tensor flat = checked_index("embedding", indices.reshape({-1}), 0, weight.size(0));
  Dims sizes = indices.sizes();
  sizes.push_back(weight.size(1));
  const Tensor y = empty_dense(sizes, weight.dtype(), weight.device());
  backend_of(weight).index_select(
      alias_of(y, {flat.numel(), weight.size(1)}, {weight.size(1), 1}, 0),
      weight.detach().contiguous(), 0, flat);
  if (auto node = record<EmbeddingBackward0>(y, weight)) {
    node->sizes = weight.sizes();
    node->padding = padding_idx;
    node->save(0, flat);
  }
  return y;
}

Tensor one_hot(const Tensor& x, int64_t classes) {
  check(x.dtype() == DType::kInt64, "one_hot is only applicable to index tensor.");
  check(x.numel() > 0 || classes > 0, "Can not infer total number of classes from empty tensor.");
  if (x.numel() > 0) {
    check(x.min().item<int64_t>() >= 0, "Class values must be non-negative.");
    const auto largest = x.max().item<int64_t>();
    if (classes == -1) classes = largest + 1;
    check(largest < classes, "Class values must be smaller than num_classes.");
  }
  return eq(x.unsqueeze(-1), positions(classes, x.device())).to(DType::kInt64);
}

Tensor Tensor::index(const std::vector<Tensor>& indices) const {
  return lockstep::index(*this, indices);
}
Tensor Tensor::index_select(int64_t dim, const Tensor& index) const {
  return lockstep::index_select(*this, dim, index);
}
Tensor Tensor::index_add(int64_t dim, const Tensor& index, const Tensor& source) const {
  return lockstep::index_add(*this, dim, index, source);
}
Tensor Tensor::masked_select(const Tensor& mask) const {
  return lockstep::masked_select(*this, mask);
}
Tensor Tensor::nonzero() const { return lockstep::nonzero(*this); }

}  // namespace lockstep
