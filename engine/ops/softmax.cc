#include "lockstep/engine/ops/softmax.h"

#include "lockstep/engine/autograd/op_node.h"
#include "lockstep/engine/backend.h"
#include "lockstep/engine/ops/autocast.h"
#include "lockstep/engine/ops/half.h"
#include "lockstep/engine/ops/implemented.h"
#include "lockstep/engine/ops/pointwise.h"
#include "lockstep/engine/ops/reduce.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep {
namespace {

using autograd::OpNode;
using autograd::record;

// Kernels work along the last dimension of contiguous tensors.
Tensor as_rows(const Tensor& t, int dim) { return t.transpose(dim, -1).contiguous(); }

// gx = gy - exp(y) * sum(gy) along `dim`.
struct LogSoftmaxBackward0 final : OpNode<1> {
  int dim = 0;
  std::string_view name() const override { return "LogSoftmaxBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    const Tensor y = saved(0);
    const Tensor& gy = gradients[0];
    if (autograd::grad_enabled()) {
      const Tensor wide = widened(gy);
      results[0] = (wide - exp(widened(y)) * sum(wide, {dim}, true)).to(y.dtype());
      return;
    }
    const Tensor rows = as_rows(y, dim);
    const Tensor gx = empty_dense(rows.sizes(), y.dtype(), y.device());
    backend_of(y).log_softmax_gradient(gx, as_rows(gy, dim), rows);
    results[0] = gx.transpose(dim, -1);
  }
};

// gx = y * (gy - sum(gy * y)) along `dim`.
struct SoftmaxBackward0 final : OpNode<1> {
  int dim = 0;
  std::string_view name() const override { return "SoftmaxBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    const Tensor y = saved(0);
    const Tensor& gy = gradients[0];
    if (autograd::grad_enabled() || y.dim() == 0) {
      const Tensor wide = widened(y);
      const Tensor weighted = mul(widened(gy), wide);
      results[0] = sub(weighted, mul(wide, sum(weighted, {dim}, true))).to(y.dtype());
      return;
    }
    const Tensor rows = as_rows(y, dim);
    const Tensor gx = empty_dense(rows.sizes(), y.dtype(), y.device());
    backend_of(y).softmax_gradient(gx, as_rows(gy, dim), rows);
    results[0] = gx.transpose(dim, -1);
  }
};

void check_input(const char* name, const Tensor& x) { check_floating(name, x.dtype()); }

}  // namespace

Tensor log_softmax(const Tensor& x, int64_t dim) {
  LOCKSTEP_AUTOCAST(log_softmax, x, dim);
  check_input("log_softmax", x);
  if (x.dim() == 0) return log_softmax(x.reshape({1}), dim).reshape({});
  const int d = wrap_dim(dim, x.dim());
  Tensor y;
  {
    const autograd::NoGrad no_grad;
    const Tensor rows = as_rows(x, d);
    const Tensor out = empty_dense(rows.sizes(), x.dtype(), x.device());
    backend_of(x).log_softmax(out, rows);
    y = out.transpose(d, -1).detach();
  }
  if (auto node = record<LogSoftmaxBackward0>(y, x)) {
    node->dim = d;
    node->save_output(0, y);
  }
  return y;
}

Tensor softmax(const Tensor& x, int64_t dim) {
  LOCKSTEP_AUTOCAST(softmax, x, dim);
  check_input("softmax", x);
  const int d = wrap_dim(dim, x.dim());
  Tensor y;
  {
    const autograd::NoGrad no_grad;
    const Tensor rows = x.dim() == 0 ? x.reshape({1}) : as_rows(x, d);
    const Tensor out = empty_dense(rows.sizes(), x.dtype(), x.device());
    backend_of(x).softmax(out, rows);
    y = (x.dim() == 0 ? out.reshape({}) : out.transpose(d, -1)).detach();
  }
  if (auto node = record<SoftmaxBackward0>(y, x)) {
    node->dim = d;
    node->save_output(0, y);
  }
  return y;
}

Tensor Tensor::softmax(int64_t dim) const { return lockstep::softmax(*this, dim); }
Tensor Tensor::log_softmax(int64_t dim) const { return lockstep::log_softmax(*this, dim); }

}  // namespace lockstep
