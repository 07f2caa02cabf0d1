// Copies, conversions and in-place arithmetic.
#include "lockstep/engine/autograd/op_node.h"
#include "lockstep/engine/backend.h"
#include "lockstep/engine/ops/host_values.h"
#include "lockstep/engine/ops/implemented.h"
#include "lockstep/engine/ops/pointwise_kernel.h"
#include "lockstep/engine/sync_debug.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/engine/tensor/overlap.h"
#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep {
namespace {

using autograd::OpNode;
using autograd::record;
using pointwise::DTypes;

struct CloneBackward0 final : OpNode<1> {
  std::string_view name() const override { return "CloneBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    results[0] = gradients[0];
  }
};

struct ToCopyBackward0 final : OpNode<1> {
  DType dtype = DType::kFloat32;
  Device device;
  std::string_view name() const override { return "ToCopyBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    results[0] = gradients[0].to(device).to(dtype);
  }
};

Tensor converted(const Tensor& x, const Tensor& y) {
  if (!is_floating(y.dtype())) return y;
  if (auto node = record<ToCopyBackward0>(y, x)) {
    node->dtype = x.dtype();
    node->device = x.device();
  }
  return y;
}

struct CopyBackwards final : OpNode<1> {
  Dims sizes;
  DType dtype = DType::kFloat32;
  std::string_view name() const override { return "CopyBackwards"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    if (needs(0)) results[0] = zeros_like(gradients[0]);
    if (needs(1)) results[1] = sum_to_size(gradients[0], sizes).to(dtype);
  }
};

// self op= other as one more node: the gradient of self passes through `scale_self`, that of other
// through `scale_other`. add_ and sub_ are linear; mul_ and div_ save what they multiply with.
struct InplaceLinear final : OpNode<1> {
  double alpha = 1;
  Dims other_sizes;
  DType other_dtype = DType::kFloat32;
  std::string_view label;
  std::string_view name() const override { return label; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    const Tensor& g = gradients[0];
    if (needs(0)) results[0] = g;
    if (needs(1)) {
      results[1] = sum_to_size(alpha == 1 ? g : mul(g, alpha), other_sizes).to(other_dtype);
    }
  }
};

struct InplaceScale final : OpNode<3> {
  bool divides = false, by_number = false;
  Scalar number = 1;
  Dims other_sizes;
  DType other_dtype = DType::kFloat32;
  std::string_view name() const override { return divides ? "DivBackward0" : "MulBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    const Tensor& g = gradients[0];
    const Tensor other = saved(0);
    if (by_number) {
      results[0] = divides ? div(g, number) : mul(g, number);
      return;
    }
    if (needs(0)) results[0] = divides ? div(g, other) : mul(g, other);
    if (needs(1)) {
      const Tensor before = saved(1);
      const Tensor full = divides ? neg(div(div(mul(g, before), other), other)) : mul(g, before);
      results[1] = sum_to_size(full, other_sizes).to(other_dtype);
    }
  }
};

void add_into(const char* name, const Tensor& self, const Operand& other, double alpha,
              std::string_view label) {
  const bool source = other.is_tensor() && other.tensor().requires_grad();
  autograd::check_inplace(self);
  Ptr<InplaceLinear> node;
  if (autograd::grad_enabled() && (self.requires_grad() || source)) {
    autograd::check_view_write(self);
    node = make_ptr<InplaceLinear>();
    node->alpha = alpha;
    node->label = label;
    node->add_edge(autograd::gradient_edge(self));
    node->add_edge(source ? autograd::gradient_edge(other.tensor()) : autograd::Edge{});
    if (source) {
      node->other_sizes = other.tensor().sizes();
      node->other_dtype = other.tensor().dtype();
    }
  }
  if (alpha == 1) {
    pointwise::binary_into(PointwiseOp::k_add, name, DTypes::kArithmetic, self, other, 0, 0);
  } else {
    pointwise::binary_into(PointwiseOp::k_add_scaled, name, DTypes::kArithmetic, self, other, alpha,
                           0);
  }
  autograd::bump_version(self);
  if (node) autograd::rebase_history(self, node);
}

void scale_into(const char* name, const Tensor& self, const Operand& other, bool divides) {
  const bool source = other.is_tensor() && other.tensor().requires_grad();
  autograd::check_inplace(self);
  Ptr<InplaceScale> node;
  if (autograd::grad_enabled() && (self.requires_grad() || source)) {
    autograd::check_view_write(self);
    node = make_ptr<InplaceScale>();
    node->divides = divides;
    node->add_edge(autograd::gradient_edge(self));
    node->add_edge(source ? autograd::gradient_edge(other.tensor()) : autograd::Edge{});
    if (other.is_tensor()) {
      // What is about to be overwritten is kept as a copy, as in y.mul_(y).
      const bool overwritten = other.tensor().impl()->storage == self.impl()->storage;
      node->save(0, overwritten ? other.tensor().clone() : other.tensor());
      if (source) {
        node->save(1, self.clone());  // in the graph: create_graph differentiates it
        node->other_sizes = other.tensor().sizes();
        node->other_dtype = other.tensor().dtype();
      }
    } else {
      node->by_number = true;
      node->number = other.scalar();
      node->save(0, Tensor());  // a number counts as saved, too
    }
  }
  pointwise::binary_into(divides ? PointwiseOp::k_div : PointwiseOp::k_mul, name,
                         divides ? DTypes::kFloating : DTypes::kArithmetic, self, other, 0, 0);
  autograd::bump_version(self);
  if (node) autograd::rebase_history(self, node);
}

// What self was before a write that does not depend on it gets a zero gradient, as in PyTorch.
struct OverwriteBackward final : OpNode<1> {
  std::string_view label;
  std::string_view name() const override { return label; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    results[0] = zeros_like(gradients[0]);
  }
};

// Before an in-place write of values that do not depend on self; `uniform`: of one value.
void overwrite(const Tensor& self, std::string_view label, bool uniform) {
  autograd::check_inplace(self, uniform);
  autograd::bump_version(self);
  if (!autograd::grad_enabled() || !self.requires_grad()) return;
  auto node = make_ptr<OverwriteBackward>();
  node->label = label;
  node->add_edge(autograd::gradient_edge(self));
  autograd::rebase_history(self, node);
}

void randomise(const char* name, const Tensor& self, RandomKind kind, double p, double q) {
  check_floating(name, self.dtype());
  overwrite(self, kind == RandomKind::kNormal ? "NormalBackward0" : "UniformBackward0", false);
  if (self.numel() == 0) return;
  const RandomKey key = next_random_key();
  const bool direct = self.is_contiguous() && size_of(self.dtype()) >= 4;
  const Tensor dense =
      direct ? self
             : empty_dense(self.sizes(),
                           self.dtype() == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32,
                           self.device());
  backend_of(self).random(dense, kind, p, q, key);
  if (!direct) backend_of(self).copy(self, dense);
}

}  // namespace

Tensor Tensor::clone() const {
  const Tensor y = empty_like(*this);
  backend_of(*this).copy(y, *this);
  record<CloneBackward0>(y, *this);
  return y;
}

Tensor Tensor::contiguous() const {
  if (is_contiguous()) return *this;
  const Tensor y = empty_dense(sizes(), dtype(), device());
  backend_of(*this).copy(y, *this);
  record<CloneBackward0>(y, *this);
  return y;
}

Tensor Tensor::to(DType wanted) const {
  if (dtype() == wanted) return *this;
  const Tensor y = !is_contiguous() && is_channels_last()
                       ? empty_channels_last(sizes(), wanted, device())
                       : empty_dense(sizes(), wanted, device());
  backend_of(*this).copy(y, *this);
  return converted(*this, y);
}

Tensor Tensor::to(Device wanted) const {
  if (device() == wanted) return *this;
  const Tensor source = contiguous();
  const Tensor y = empty_dense(sizes(), dtype(), wanted);
  const size_t bytes = static_cast<size_t>(numel()) * size_of(dtype());
  if (device().is_cpu()) {
    backend_of(y).copy_from_host(y.data_ptr(), source.data_ptr(), bytes);
    remember_host_values(y, source);
  } else if (wanted.is_cpu()) {
    const SyncCause cause("to(cpu)");
    backend_of(source).copy_to_host(y.data_ptr(), source.data_ptr(), bytes);
  } else {
    return to(Device{}).to(wanted);
  }
  return converted(*this, y);
}

const Tensor& Tensor::copy_(const Tensor& source) const {
  check(source.defined(), "[copy_] the source is undefined");
  if (source.sizes() != sizes()) {
    const Dims broadcast = broadcast_shapes(sizes(), source.sizes());
    check(broadcast == sizes(), "output with shape {} doesn't match the broadcast shape {}",
          sizes(), broadcast);
  }
  check_no_partial_overlap(*this, source);
  autograd::check_inplace(*this);
  Ptr<CopyBackwards> node;
  if (is_floating(dtype()) && autograd::grad_enabled() &&
      (requires_grad() || source.requires_grad())) {
    autograd::check_view_write(*this);
    node = make_ptr<CopyBackwards>();
    node->add_edge(autograd::gradient_edge(*this));
    node->add_edge(autograd::gradient_edge(source));
    node->sizes = source.sizes();
    node->dtype = source.dtype();
  }
  {
    const autograd::NoGrad no_grad;
    const bool shared = source.impl()->storage == impl_->storage && !source.is_same(*this);
    const Tensor local = shared ? source.clone() : source.to(device());
    backend_of(*this).copy(*this, local.sizes() == sizes() ? local : local.expand(sizes()));
  }
  autograd::bump_version(*this);
  if (node) autograd::rebase_history(*this, node);
  return *this;
}

const Tensor& Tensor::fill_(Scalar value) const {
  check_fits(value, dtype());
  overwrite(*this, "FillBackward2", true);
  backend_of(*this).fill(*this, value);
  return *this;
}

const Tensor& Tensor::zero_() const {
  overwrite(*this, "ZeroBackward0", true);
  backend_of(*this).fill(*this, 0);
  return *this;
}

const Tensor& Tensor::add_(const Tensor& other, Scalar alpha) const {
  pointwise::check_alpha(*this, other, alpha);
  add_into("add_", *this, other, alpha.to<double>(), "AddBackward0");
  return *this;
}
const Tensor& Tensor::add_(Scalar other) const {
  add_into("add_", *this, other, 1, "AddBackward0");
  return *this;
}
const Tensor& Tensor::sub_(const Tensor& other, Scalar alpha) const {
  pointwise::check_subtraction(*this, other);
  pointwise::check_alpha(*this, other, alpha);
  add_into("sub_", *this, other, -alpha.to<double>(), "SubBackward0");
  return *this;
}
const Tensor& Tensor::sub_(Scalar other) const {
  pointwise::check_subtraction(*this, other);
  add_into("sub_", *this, other, -1, "SubBackward0");
  return *this;
}
const Tensor& Tensor::mul_(const Tensor& other) const {
  scale_into("mul_", *this, other, false);
  return *this;
}
const Tensor& Tensor::mul_(Scalar other) const {
  scale_into("mul_", *this, other, false);
  return *this;
}
const Tensor& Tensor::div_(const Tensor& other) const {
  scale_into("div_", *this, other, true);
  return *this;
}
const Tensor& Tensor::div_(Scalar other) const {
  scale_into("div_", *this, other, true);
  return *this;
}
const Tensor& Tensor::uniform_(double from, double to) const {
  check(from <= to, "uniform_ expects to return a [from, to) range, but found from={} > to={}",
        from, to);
  randomise("uniform_", *this, RandomKind::kUniform, from, to);
  return *this;
}
const Tensor& Tensor::normal_(double mean, double std) const {
  check(std >= 0, "normal expects std >= 0.0, but found std {}", std);
  randomise("normal_", *this, RandomKind::kNormal, mean, std);
  return *this;
}

}  // namespace lockstep
