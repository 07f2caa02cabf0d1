#include "lockstep/engine/ops/softmax.h"

#include "lockstep/engine/autograd/op_node.h"
#include "lockstep/engine/backend.h"
#include "lockstep/engine/ops/pointwise.h"
#include "lockstep/engine/ops/reduce.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep {
namespace {

using autograd::OpNode;
using autograd::record;

// gx = gy - exp(y) * sum(gy) over the last dimension.
struct LogSoftmaxBackward0 final : OpNode<1> {
  std::string_view name() const override { return "LogSoftmaxBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    const Tensor y = saved(0);
    const Tensor& gy = gradients[0];
    if (autograd::grad_enabled()) {
      results[0] = gy - exp(y) * sum(gy, {-1}, true);
      return;
    }
    results[0] = empty_dense(y.sizes(), y.dtype(), y.device());
    backend_of(y).log_softmax_gradient(results[0], gy.contiguous(), y);
  }
};

Tensor log_softmax_last(const Tensor& x) {
  const Tensor dense = x.contiguous();
  const Tensor y = empty_dense(x.sizes(), x.dtype(), x.device());
  backend_of(x).log_softmax(y, dense.detach());
  if (auto node = record<LogSoftmaxBackward0>(y, dense)) node->save_output(0, y);
  return y;
}

struct SoftmaxBackward0 final : OpNode<1> {
  int dim = 0;
  std::string_view name() const override { return "SoftmaxBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    const Tensor y = saved(0);
    const Tensor weighted = mul(gradients[0], y);
    results[0] = sub(weighted, mul(y, sum(weighted, {dim}, true)));
  }
};

void check_input(const char* name, const Tensor& x) {
  check(x.dtype() == DType::kFloat32 || x.dtype() == DType::kFloat64,
        "[{}] supports float32 and float64, got {}", name, name_of(x.dtype()));
}

}  // namespace

Tensor log_softmax(const Tensor& x, int64_t dim) {
  check_input("log_softmax", x);
  if (x.dim() == 0) return log_softmax_last(x.reshape({1})).reshape({});
  const int d = wrap_dim(dim, x.dim());
  if (d == x.dim() - 1) return log_softmax_last(x);
  return log_softmax_last(x.transpose(d, -1)).transpose(d, -1);
}

Tensor softmax(const Tensor& x, int64_t dim) {
  check_input("softmax", x);
  Tensor y;
  {
    const autograd::NoGrad no_grad;
    y = exp(log_softmax(x, dim));
  }
  if (auto node = record<SoftmaxBackward0>(y, x)) {
    node->dim = wrap_dim(dim, x.dim());
    node->save_output(0, y);
  }
  return y;
}

Tensor Tensor::softmax(int64_t dim) const { return lockstep::softmax(*this, dim); }
Tensor Tensor::log_softmax(int64_t dim) const { return lockstep::log_softmax(*this, dim); }

}  // namespace lockstep
