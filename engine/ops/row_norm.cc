#include "lockstep/engine/ops/row_norm.h"

#include "lockstep/engine/autograd/op_node.h"
#include "lockstep/engine/backend.h"
#include "lockstep/engine/ops/half.h"
#include "lockstep/engine/ops/pointwise.h"
#include "lockstep/engine/ops/reduce.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep {
namespace {

using autograd::OpNode;
using autograd::record;

// What is computed in, and what everything but activations is kept in.
DType wide_dtype(const Tensor& x) { return is_half(x.dtype()) ? DType::kFloat32 : x.dtype(); }

// x, or something of its shape, as the matrix that backends take.
Tensor as_matrix(const Tensor& t, int64_t columns) {
  const Tensor dense = t.contiguous();
  return alias_of(dense, {t.numel() / columns, columns}, {columns, 1}, dense.storage_offset());
}

// weight or bias as backends take them.
Tensor as_vector(const Tensor& t, DType dtype) {
  return t.defined() ? t.detach().to(dtype).contiguous().reshape({t.numel()}) : t;
}

struct RowNormBackward final : OpNode<4> {  // x, weight, mean, rstd
  RowNorm kind = RowNorm::kLayer;
  double eps = 0;
  Dims shape;
  DType bias_dtype = DType::kFloat32;
  std::string_view label;
  std::string_view name() const override { return label; }

  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    const Tensor x = saved(0), weight = saved(1);
    if (autograd::grad_enabled()) {
      apply_differentiably(gradients[0], x, weight, results);
      return;
    }
    const DType wide = wide_dtype(x);
    const int64_t columns = shape.product();
    const auto sums = [&](size_t edge) {
      if (!needs(edge)) return Tensor();
      return x.numel() > 0 ? empty_dense({columns}, wide, x.device())
                           : zeros({columns}, {wide, x.device()});
    };
    const Tensor gx = needs(0) ? empty_dense(x.sizes(), x.dtype(), x.device()) : Tensor();
    const Tensor gweight = sums(1), gbias = sums(2);
    if (x.numel() > 0) {
      backend_of(x).layer_norm_gradient(needs(0) ? as_matrix(gx, columns) : gx, gweight, gbias,
                                        as_matrix(gradients[0], columns), as_matrix(x, columns),
                                        saved(2), saved(3), as_vector(weight, wide));
    }
    results[0] = gx;
    if (gweight.defined()) results[1] = gweight.reshape(shape).to(weight.dtype());
    if (gbias.defined()) results[2] = gbias.reshape(shape).to(bias_dtype);
  }

 private:
  // The same in differentiable ops, for create_graph: mean and rstd are functions of x.
  void apply_differentiably(const Tensor& gradient, const Tensor& given, const Tensor& weight,
                            std::span<Tensor> results) {
    const Tensor x = widened(given), gy = widened(gradient);
    Dims dims;
    for (int d = 1; d <= shape.size(); ++d) dims.push_back(-d);
    const auto average = [&](const Tensor& t) { return mean(t, dims, true); };
    const Tensor centred = kind == RowNorm::kLayer ? sub(x, average(x)) : x;
    const Tensor r = rsqrt(add(average(mul(centred, centred)), eps));
    const Tensor y = mul(centred, r);
    if (needs(1)) results[1] = sum_to_size(mul(gy, y), shape).to(weight.dtype());
    if (needs(2)) results[2] = sum_to_size(gy, shape).to(bias_dtype);
    if (!needs(0)) return;
    const Tensor g = weight.defined() ? mul(gy, widened(weight)) : gy;
    Tensor rest = sub(g, mul(y, average(mul(g, y))));
    if (kind == RowNorm::kLayer) rest = sub(rest, average(g));
    results[0] = mul(rest, r).to(given.dtype());
  }
};

}  // namespace

Tensor row_norm(RowNorm kind, const Tensor& x, const Dims& shape, const Tensor& weight,
                const Tensor& bias, double eps, std::string_view name) {
  const DType wide = wide_dtype(x);
  const int64_t columns = shape.product();
  const int64_t rows = columns == 0 ? 0 : x.numel() / columns;
  const Tensor y = empty_dense(x.sizes(), x.dtype(), x.device());
  const Tensor rstd = empty_dense({rows}, wide, x.device());
  const Tensor mean = kind == RowNorm::kLayer ? empty_dense({rows}, wide, x.device()) : Tensor();
  if (x.numel() > 0) {
    const autograd::NoGrad no_grad;
    backend_of(x).layer_norm(as_matrix(y, columns), mean, rstd, as_matrix(x.detach(), columns),
                             as_vector(weight, wide), as_vector(bias, wide), eps);
  }
  if (auto node = record<RowNormBackward>(y, x, weight, bias)) {
    node->kind = kind;
    node->eps = eps;
    node->shape = shape;
    node->label = name;
    if (bias.defined()) node->bias_dtype = bias.dtype();
    node->save(0, x);
    node->save(1, weight);
    node->save(2, mean);
    node->save(3, rstd);
  }
  return y;
}

}  // namespace lockstep
