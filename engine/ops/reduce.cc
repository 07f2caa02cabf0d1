#include "lockstep/engine/ops/reduce.h"

#include <array>
#include <cmath>

#include "lockstep/engine/autograd/op_node.h"
#include "lockstep/engine/backend.h"
#include "lockstep/engine/ops/autocast.h"
#include "lockstep/engine/ops/pointwise.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep {
namespace {

using autograd::OpNode;
using autograd::record;

// Which dimensions `dims` names; an empty list means all of them.
std::array<bool, kMaxDims> reduced_dims(const Tensor& x, const Dims& dims) {
  std::array<bool, kMaxDims> reduced{};
  for (int64_t d : dims) {
    const int wrapped = wrap_dim(d, x.dim());
    check(!reduced[static_cast<size_t>(wrapped)],
          "dim {} appears multiple times in the list of dims", wrapped);
    reduced[static_cast<size_t>(wrapped)] = true;
  }
  if (dims.empty()) reduced.fill(true);
  return reduced;
}

Dims kept_sizes(const Tensor& x, const std::array<bool, kMaxDims>& reduced) {
  Dims sizes = x.sizes();
  for (int d = 0; d < x.dim(); ++d) {
    if (reduced[static_cast<size_t>(d)]) sizes[d] = 1;
  }
  return sizes;
}

Dims dropped_sizes(const Tensor& x, const std::array<bool, kMaxDims>& reduced) {
  Dims sizes;
  for (int d = 0; d < x.dim(); ++d) {
    if (!reduced[static_cast<size_t>(d)]) sizes.push_back(x.sizes()[d]);
  }
  return sizes;
}

struct SumBackward final : OpNode<1> {
  Dims kept, full;
  double divisor = 1;
  DType dtype = DType::kFloat32;
  std::string_view label;
  std::string_view name() const override { return label; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    Tensor g = gradients[0].reshape(kept);
    if (divisor != 1) g = div(g, divisor);
    if (g.dtype() != dtype) g = g.to(dtype);
    results[0] = g.expand(full);
  }
};

// The sum or mean over the marked dimensions.
Tensor reduce(const Tensor& x, const std::array<bool, kMaxDims>& reduced, bool keepdim,
              bool is_mean, std::string_view label) {
  const Dims kept = kept_sizes(x, reduced);
  const int64_t count = kept.product() == 0 ? 0 : x.numel() / kept.product();
  DType compute = x.dtype();
  if (!is_floating(compute)) compute = DType::kInt64;
  if (compute == DType::kBFloat16 || compute == DType::kFloat16) compute = DType::kFloat32;
  Tensor y;
  {
    const autograd::NoGrad no_grad;
    const Tensor source = x.to(compute);
    const Tensor wide = empty_dense(kept, compute, x.device());
    backend_of(x).sum(wide, source);
    if (is_mean) wide.div_(static_cast<double>(count));
    const Tensor narrow = is_floating(x.dtype()) ? wide.to(x.dtype()) : wide;
    y = alias_of(narrow, keepdim ? kept : dropped_sizes(x, reduced),
                 contiguous_strides(keepdim ? kept : dropped_sizes(x, reduced)), 0);
  }
  if (auto node = record<SumBackward>(y, x)) {
    node->kept = kept;
    node->full = x.sizes();
    node->divisor = is_mean ? static_cast<double>(count) : 1.0;
    node->dtype = x.dtype();
    node->label = label;
  }
  return y;
}

struct ExtremeBackward1 final : OpNode<2> {
  std::string_view label;
  std::string_view name() const override { return label; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    const Tensor x = saved(0);
    const Tensor y = saved(1);
    const bool nan = std::isnan(y.to(DType::kFloat64).item());  // of which all NaNs have a share
    const Tensor mask = nan ? ne(x, x) : eq(x, y);
    // Selected, not multiplied: an infinite gradient concerns the extremes only.
    results[0] = where(mask, div(gradients[0], sum(mask.to(x.dtype()))), 0);
  }
};

Tensor extreme_of_all(const Tensor& x, bool largest) {
  const char* name = largest ? "max" : "min";
  check(
      x.numel() > 0,
      "{}(): Expected reduction dim to be specified for input.numel() == 0. Specify the reduction "
      "dim with the 'dim' argument.",
      name);
  Tensor y = empty_dense({}, x.dtype(), x.device());
  {
    const autograd::NoGrad no_grad;
    const Tensor flat = x.detach().contiguous().view({-1});
    const Tensor index = empty_dense({1}, DType::kInt64, x.device());
    backend_of(x).extreme(alias_of(y, {1}, {1}, 0), index, flat, 0, largest);
  }
  if (auto node = record<ExtremeBackward1>(y, x)) {
    node->label = largest ? "MaxBackward1" : "MinBackward1";
    node->save(0, x);
    node->save_output(1, y);
  }
  return y;
}

struct NormBackward0 final : OpNode<2> {
  std::string_view name() const override { return "LinalgVectorNormBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    const Tensor x = saved(0);
    const Tensor y = saved(1);
    // At the origin the subgradient 0, as in PyTorch.
    results[0] = mul(gradients[0], where(eq(y, 0), zeros_like(x), div(x, y)));
  }
};

}  // namespace

Tensor sum(const Tensor& x) {
  LOCKSTEP_AUTOCAST(sum, x);
  return reduce(x, reduced_dims(x, {}), false, false, "SumBackward0");
}

Tensor sum(const Tensor& x, const Dims& dims, bool keepdim) {
  LOCKSTEP_AUTOCAST(sum, x, dims, keepdim);
  return reduce(x, reduced_dims(x, dims), keepdim, false, "SumBackward1");
}

Tensor mean(const Tensor& x) { return mean(x, {}, false); }

Tensor mean(const Tensor& x, const Dims& dims, bool keepdim) {
  check(is_floating(x.dtype()),
        "mean(): could not infer output dtype. Input dtype must be either a floating point or "
        "complex dtype. Got: {}",
        type_name(x.dtype()));
  return reduce(x, reduced_dims(x, dims), keepdim, true,
                dims.empty() ? "MeanBackward0" : "MeanBackward1");
}

Tensor max(const Tensor& x) { return extreme_of_all(x, true); }
Tensor min(const Tensor& x) { return extreme_of_all(x, false); }

Tensor argmax(const Tensor& x, int64_t dim, bool keepdim) {
  const int d = wrap_dim(dim, x.dim());
  Dims sizes = x.sizes();
  if (x.dim() > 0) {
    check(sizes[d] > 0, "argmax(): Expected reduction dim {} to have non-zero size.", d);
    sizes[d] = 1;
  }
  const Tensor values = empty_dense(sizes, x.dtype(), x.device());
  const Tensor indices = empty_dense(sizes, DType::kInt64, x.device());
  backend_of(x).extreme(values, indices, x.detach(), d, true);
  return keepdim || x.dim() == 0 ? indices : indices.squeeze(d);
}

Tensor norm(const Tensor& x) {
  LOCKSTEP_AUTOCAST(norm, x);
  Tensor y;
  {
    const autograd::NoGrad no_grad;
    y = sqrt(sum(square(x)));
  }
  if (auto node = record<NormBackward0>(y, x)) {
    node->save(0, x);
    node->save_output(1, y);
  }
  return y;
}

Tensor sum_to_size(const Tensor& gradient, const Dims& sizes) {
  if (gradient.sizes() == sizes) return gradient;
  const int lead = gradient.dim() - sizes.size();
  Dims dims;
  for (int d = 0; d < gradient.dim(); ++d) {
    if (d < lead || (sizes[d - lead] == 1 && gradient.sizes()[d] != 1)) dims.push_back(d);
  }
  const Tensor y = dims.empty() ? gradient : sum(gradient, dims, true);
  return y.sizes() == sizes ? y : y.reshape(sizes);
}

Tensor Tensor::sum() const { return lockstep::sum(*this); }
Tensor Tensor::sum(const Dims& dims, bool keepdim) const {
  return lockstep::sum(*this, dims, keepdim);
}
Tensor Tensor::mean() const { return lockstep::mean(*this); }
Tensor Tensor::mean(const Dims& dims, bool keepdim) const {
  return lockstep::mean(*this, dims, keepdim);
}
Tensor Tensor::max() const { return lockstep::max(*this); }
Tensor Tensor::min() const { return lockstep::min(*this); }
Tensor Tensor::argmax(int64_t dim, bool keepdim) const {
  return lockstep::argmax(*this, dim, keepdim);
}
Tensor Tensor::norm() const { return lockstep::norm(*this); }

}  // namespace lockstep
