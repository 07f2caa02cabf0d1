// Views: other sizes and strides over the same storage.
#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "lockstep/engine/autograd/op_node.h"
#include "lockstep/engine/backend.h"
#include "lockstep/engine/ops/pointwise.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep {
namespace {

using autograd::OpNode;
using autograd::record;

// Resolves a -1 in `sizes` so that the product is `numel`.
Dims infer_sizes(const Dims& sizes, int64_t numel) {
  Dims result = sizes;
  int inferred = -1;
  int64_t known = 1;
  for (int d = 0; d < sizes.size(); ++d) {
    if (sizes[d] == -1) {
      check(inferred < 0, "only one dimension can be inferred");
      inferred = d;
    } else {
      check(sizes[d] >= 0, "invalid shape dimension {}", sizes[d]);
      known *= sizes[d];
    }
  }
  check(inferred < 0 || known != 0 || numel != 0,
        "cannot reshape tensor of 0 elements into shape {} because the unspecified dimension size "
        "-1 can be any value and is ambiguous",
        sizes);
  const bool fits = inferred < 0 ? known == numel : known != 0 && numel % known == 0;
  check(fits, "shape '{}' is invalid for input of size {}", sizes, numel);
  if (inferred >= 0) result[inferred] = numel / known;
  return result;
}

// Strides that show `x` with other sizes without moving anything, if there are any: each run of
// dimensions that lies evenly in memory is cut anew.
std::optional<Dims> view_strides(const Tensor& x, const Dims& sizes) {
  if (x.numel() == 0 || x.dim() == 0) return contiguous_strides(sizes);
  Dims strides = Dims::filled(sizes.size(), 1);
  int target = sizes.size() - 1;
  int64_t run = 1, filled = 1;
  const Dims& from = x.sizes();
  const Dims& from_strides = x.strides();
  int64_t base = x.dim() > 0 ? from_strides.back() : 1;
  for (int d = x.dim() - 1; d >= 0; --d) {
    run *= from[d];
    const bool run_ends = d == 0 || (from[d - 1] != 1 && from_strides[d - 1] != run * base);
    if (!run_ends) continue;
    while (target >= 0 && (filled < run || sizes[target] == 1)) {
      strides[target] = filled * base;
      filled *= sizes[target];
      --target;
    }
    if (filled != run) return std::nullopt;
    if (d > 0) {
      base = from_strides[d - 1];
      run = filled = 1;
    }
  }
  return target == -1 ? std::optional(strides) : std::nullopt;
}

struct ViewBackward0 final : OpNode<1> {
  Dims sizes;
  std::string_view label = "ViewBackward0";
  std::string_view name() const override { return label; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    results[0] = gradients[0].reshape(sizes);
  }
};

struct PermuteBackward0 final : OpNode<1> {
  Dims inverse;
  std::string_view label = "PermuteBackward0";
  std::string_view name() const override { return label; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    results[0] = gradients[0].permute(inverse);
  }
};

struct UnsqueezeBackward0 final : OpNode<1> {
  int dim = 0;
  std::string_view name() const override { return "UnsqueezeBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    results[0] = gradients[0].squeeze(dim);
  }
};

struct ExpandBackward0 final : OpNode<1> {
  Dims sizes;
  std::string_view name() const override { return "ExpandBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    results[0] = sum_to_size(gradients[0], sizes);
  }
};

// A slice of one dimension: every step-th index from start, `length` of them; or the index `start`
// alone, whose dimension goes.
struct Slice {
  int dim = 0;
  int64_t start = 0, step = 1, length = 0;
  bool drops = false;

  Tensor of(const Tensor& x) const {
    Dims sizes = x.sizes(), strides = x.strides();
    sizes[dim] = length;
    strides[dim] *= step;
    if (drops) {
      sizes.erase(dim);
      strides.erase(dim);
    }
    return view_of(x, sizes, strides,
                   x.storage_offset() + (length > 0 ? start * x.strides()[dim] : 0));
  }
};

Tensor embed(const Tensor& g, const Dims& sizes, const Slice& slice);

struct SliceBackward0 final : OpNode<1> {
  Dims sizes;
  Slice slice;
  std::string_view name() const override {
    return slice.drops ? "SelectBackward0" : "SliceBackward0";
  }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    results[0] = embed(gradients[0], sizes, slice);
  }
};

Tensor take_slice(const Tensor& x, const Slice& slice) {
  const Tensor y = slice.of(x);
  if (auto node = record<SliceBackward0>(y, x)) {
    node->sizes = x.sizes();
    node->slice = slice;
  }
  return y;
}

struct EmbedBackward0 final : OpNode<1> {
  Slice slice;
  std::string_view name() const override { return "EmbedBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    results[0] = take_slice(gradients[0], slice);
  }
};

// The adjoint of a slice: g in its place, zeros elsewhere.
Tensor embed(const Tensor& g, const Dims& sizes, const Slice& slice) {
  const Tensor y = zeros(sizes, {g.dtype(), g.device()});
  backend_of(g).copy(slice.of(y).detach(), g);
  if (auto node = record<EmbedBackward0>(y, g)) node->slice = slice;
  return y;
}

Tensor permuted(const Tensor& x, const Dims& dims, std::string_view label) {
  const int n = x.dim();
  check(dims.size() == n,
        "permute(dims): number of dimensions in the tensor input does not match "
        "the length of the desired ordering of dimensions i.e. input.dim() = {} is not equal to "
        "len(dims) = {}",
        n, dims.size());
  Dims sizes = x.sizes(), strides = x.strides(), inverse = Dims::filled(n, -1);
  for (int d = 0; d < n; ++d) {
    const int from = wrap_dim(dims[d], n);
    check(inverse[from] < 0, "permute(dims): duplicate dims are not allowed.");
    inverse[from] = d;
    sizes[d] = x.sizes()[from];
    strides[d] = x.strides()[from];
  }
  const Tensor y = view_of(x, sizes, strides, x.storage_offset());
  if (auto node = record<PermuteBackward0>(y, x)) {
    node->inverse = inverse;
    node->label = label;
  }
  return y;
}

Tensor viewed(const Tensor& x, const Dims& sizes, const Dims& strides,
              std::string_view label = "ViewBackward0") {
  const Tensor y = view_of(x, sizes, strides, x.storage_offset());
  if (auto node = record<ViewBackward0>(y, x)) {
    node->sizes = x.sizes();
    node->label = label;
  }
  return y;
}

}  // namespace

Tensor view_of(const Tensor& source, const Dims& sizes, const Dims& strides, int64_t offset) {
  Tensor y = alias_of(source, sizes, strides, offset);
  TensorImpl& view = *y.impl();
  view.base = source.impl()->base ? source.impl()->base : Ptr<TensorImpl>(source.impl());
  source.impl()->sync_with_base();
  view.seen_epoch = view.base->autograd ? view.base->autograd->history_epoch : 0;
  view.inference = source.impl()->inference;
  using autograd::ViewCreation;
  view.creation = source.impl()->base ? source.impl()->creation : ViewCreation::kRecorded;
  if (view.creation == ViewCreation::kRecorded && !autograd::grad_enabled()) {
    view.creation =
        autograd::inference_mode_enabled() ? ViewCreation::kInferenceMode : ViewCreation::kNoGrad;
  }
  return y;
}

Tensor Tensor::view(const Dims& wanted) const {
  const Dims sizes = infer_sizes(wanted, numel());
  const auto strides = view_strides(*this, sizes);
  check(strides.has_value(),
        "view size is not compatible with input tensor's size and stride (at least one dimension "
        "spans across two contiguous subspaces). Use .reshape(...) instead.");
  return viewed(*this, sizes, *strides);
}

Tensor Tensor::reshape(const Dims& wanted) const {
  const Dims sizes = infer_sizes(wanted, numel());
  if (const auto strides = view_strides(*this, sizes)) return viewed(*this, sizes, *strides);
  const Tensor dense = contiguous();
  return viewed(dense, sizes, contiguous_strides(sizes), "UnsafeViewBackward0");
}

Tensor Tensor::flatten(int64_t start_dim, int64_t end_dim) const {
  const int start = wrap_dim(start_dim, dim()), end = wrap_dim(end_dim, dim());
  check(start <= end, "flatten() has invalid args: start_dim cannot come after end_dim");
  if (dim() == 0) return reshape({1});
  if (start == end) return *this;
  Dims sizes;
  for (int d = 0; d < dim(); ++d) {
    if (d > start && d <= end) {
      sizes[sizes.size() - 1] *= this->sizes()[d];
    } else {
      sizes.push_back(this->sizes()[d]);
    }
  }
  return reshape(sizes);
}

Tensor Tensor::permute(const Dims& dims) const { return permuted(*this, dims, "PermuteBackward0"); }

Tensor Tensor::transpose(int64_t dim0, int64_t dim1) const {
  Dims order;
  for (int d = 0; d < dim(); ++d) order.push_back(d);
  const int first = wrap_dim(dim0, dim()), second = wrap_dim(dim1, dim());
  if (dim() > 0) std::swap(order[first], order[second]);
  return permuted(*this, order, "TransposeBackward0");
}

Tensor Tensor::t() const {
  check(dim() <= 2, "t() expects a tensor with <= 2 dimensions, but self is {}D", dim());
  const Dims order = dim() == 2 ? Dims{1, 0} : Dims::filled(dim(), 0);
  return permuted(*this, order, "TBackward0");
}

Tensor Tensor::movedim(const Dims& source, const Dims& destination) const {
  check(source.size() == destination.size(),
        "movedim: Invalid source or destination dims: source ({} dims) should contain the same "
        "number of dims as destination ({} dims)",
        source, destination);
  Dims order = Dims::filled(dim(), -1);
  std::array<bool, kMaxDims> moved{};
  for (int i = 0; i < source.size(); ++i) {
    const int from = wrap_dim(source[i], dim()), to = wrap_dim(destination[i], dim());
    check(!std::exchange(moved[static_cast<size_t>(from)], true),
          "movedim: repeated dim in `source` ({})", source);
    check(order[to] < 0, "movedim: repeated dim in `destination` ({})", destination);
    order[to] = from;
  }
  int next = 0;
  for (int d = 0; d < dim(); ++d) {
    if (order[d] >= 0) continue;
    while (moved[static_cast<size_t>(next)]) ++next;
    order[d] = next++;
  }
  return permute(order);
}

Tensor Tensor::squeeze() const {
  Dims sizes, strides;
  for (int d = 0; d < dim(); ++d) {
    if (this->sizes()[d] == 1) continue;
    sizes.push_back(this->sizes()[d]);
    strides.push_back(this->strides()[d]);
  }
  return viewed(*this, sizes, strides, "SqueezeBackward0");
}

Tensor Tensor::squeeze(int64_t wanted) const {
  const int d = wrap_dim(wanted, dim());
  Dims sizes = this->sizes(), strides = this->strides();
  const bool removes = dim() > 0 && sizes[d] == 1;
  if (removes) {
    sizes.erase(d);
    strides.erase(d);
  }
  return viewed(*this, sizes, strides, "SqueezeBackward1");
}

Tensor Tensor::unsqueeze(int64_t wanted) const {
  const int d = wrap_dim(wanted, dim() + 1);
  Dims sizes = this->sizes(), strides = this->strides();
  strides.insert(d, d < dim() ? sizes[d] * strides[d] : 1);
  sizes.insert(d, 1);
  const Tensor y = view_of(*this, sizes, strides, storage_offset());
  if (auto node = record<UnsqueezeBackward0>(y, *this)) node->dim = d;
  return y;
}

Tensor Tensor::expand(const Dims& wanted) const {
  const int lead = wanted.size() - dim();
  check(lead >= 0,
        "expand(torch.{}Tensor{{{}}}, size={}): the number of sizes provided ({}) must be greater "
        "or equal to the number of dimensions in the tensor ({})",
        type_name(dtype()), this->sizes(), wanted, wanted.size(), dim());
  Dims sizes = wanted, strides = Dims::filled(wanted.size(), 0);
  for (int d = 0; d < wanted.size(); ++d) {
    const int64_t have = d < lead ? 1 : this->sizes()[d - lead];
    check(wanted[d] >= -1, "invalid shape dimension {}", wanted[d]);
    if (wanted[d] == -1) {
      check(d >= lead,
            "The expanded size of the tensor (-1) isn't allowed in a leading, non-existing "
            "dimension {}",
            d);
      sizes[d] = have;
    }
    check(sizes[d] == have || have == 1,
          "The expanded size of the tensor ({}) must match the existing size ({}) at non-singleton "
          "dimension {}.  Target sizes: {}.  Tensor sizes: {}",
          sizes[d], have, d, wanted, this->sizes());
    if (sizes[d] == have && d >= lead) strides[d] = this->strides()[d - lead];
  }
  const Tensor y = view_of(*this, sizes, strides, storage_offset());
  if (auto node = record<ExpandBackward0>(y, *this)) node->sizes = this->sizes();
  return y;
}

Tensor Tensor::narrow(int64_t dim, int64_t start, int64_t length) const {
  const int d = wrap_dim(dim, this->dim());
  check(this->dim() > 0, "narrow() cannot be applied to a 0-dim tensor.");
  const int64_t n = size(d);
  check(start >= -n && start <= n,
        "Dimension out of range (expected to be in range of [{}, {}], but got {})", -n, n - 1,
        start);
  if (start < 0) start += n;
  check(length >= 0 && length <= n - start, "start ({}) + length ({}) exceeds dimension size ({}).",
        start, length, n);
  return take_slice(*this, {d, start, 1, length});
}

Tensor Tensor::slice(int64_t dim, int64_t start, int64_t end, int64_t step) const {
  check(this->dim() > 0, "slice() cannot be applied to a 0-dim tensor.");
  check(step > 0, "slice step must be positive");
  const int d = wrap_dim(dim, this->dim());
  const int64_t n = size(d);
  start = std::clamp<int64_t>(start < 0 ? start + n : start, 0, n);
  end = std::clamp<int64_t>(end < 0 ? end + n : end, start, n);
  return take_slice(*this, {d, start, step, (end - start + step - 1) / step});
}

Tensor Tensor::select(int64_t dim, int64_t index) const {
  check(this->dim() > 0, "select() cannot be applied to a 0-dim tensor.");
  const int d = wrap_dim(dim, this->dim());
  const int64_t n = size(d);
  check(index >= -n && index < n,
        "select(): index {} out of range for tensor of size {} at dimension {}", index, sizes(), d);
  return take_slice(*this, {d, index < 0 ? index + n : index, 1, 1, true});
}

}  // namespace lockstep
