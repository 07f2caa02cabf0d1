#include "lockstep/engine/ops/linear.h"

#include "lockstep/engine/autograd/backward.h"
#include "lockstep/engine/autograd/op_node.h"
#include "lockstep/engine/autograd/renamed.h"
#include "lockstep/engine/ops/autocast.h"
#include "lockstep/engine/ops/gemm_call.h"
#include "lockstep/engine/ops/matmul.h"
#include "lockstep/engine/ops/pointwise.h"
#include "lockstep/engine/ops/reduce.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/engine/tensor/same_device.h"
#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep {
namespace {

using autograd::OpNode;
using autograd::record;

// Where the gradient of a leaf goes: its bucket if that is possible.
Tensor place_for(const autograd::Edge& edge, const Dims& sizes, const Tensor& like) {
  const Tensor destination = autograd::gradient_destination(edge);
  return destination.defined() ? destination : empty_dense(sizes, like.dtype(), like.device());
}

Tensor bias_gradient(const autograd::Edge& edge, const Tensor& g) {
  const Tensor destination = autograd::gradient_destination(edge);
  if (!destination.defined()) return sum(g, {0});
  const int64_t n = g.size(1);
  backend_of(g).sum(alias_of(destination, {1, n}, {n, 1}, destination.storage_offset()), g);
  return destination;
}

// The gradients of y = x W^T + b from g, that of y; the node's edges are x, W, b.
void linear_gradients(const autograd::Node& node, const Tensor& g, const Tensor& x,
                      const Tensor& weight, std::span<Tensor> results) {
  const auto& edges = node.edges();
  if (node.needs(1) && node.needs(2) && !autograd::grad_enabled()) {
    results[1] = place_for(edges[1], {g.size(1), x.size(1)}, g);
    results[2] = place_for(edges[2], {g.size(1)}, g);
    Gemm product(results[1], g.t(), x);
    if (!product.run({.bias_gradient = results[2].data_ptr()})) {
      product.run();
      results[2] = bias_gradient(edges[2], g);
    }
  } else {
    if (node.needs(2)) results[2] = bias_gradient(edges[2], g);
    if (node.needs(1)) results[1] = product_for_leaf(edges[1], g.t(), x);
  }
  if (node.needs(0)) results[0] = mm(g, weight);
}

struct AddmmBackward0 final : OpNode<2> {  // saves x, W
  std::string_view name() const override { return "AddmmBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    const Tensor x = needs(1) ? saved(0) : Tensor(), weight = needs(0) ? saved(1) : Tensor();
    linear_gradients(*this, gradients[0], x, weight, results);
  }
};

struct LinearGeluBackward0 final : OpNode<4> {  // saves x, W, b, and what the GELU is taken of
  std::string_view name() const override { return "LinearGeluBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    const Tensor x = saved(0), weight = saved(1);
    const Tensor h = autograd::grad_enabled() ? linear(x, weight, saved(2)) : saved(3);
    linear_gradients(*this, gelu_tanh_backward(gradients[0], h), x, weight, results);
  }
};

// Of a weight without rows or a bias that broadcasts: what PyTorch makes it of, with their texts.
Tensor composed_linear(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  const Tensor transposed = weight.t();
  if (x.dim() < 2) return add(matmul(x, transposed), bias);
  const Tensor y = addmm(bias, as_rows(x), transposed);
  Dims sizes = x.sizes();
  sizes[sizes.size() - 1] = weight.size(0);
  return x.dim() == 2 ? y : y.reshape(sizes);
}

bool is_one_product(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  return weight.dim() == 2 && x.dim() > 0 && bias.dim() == 1 && bias.size(0) == weight.size(0);
}

void check_operands(const char* name, const Tensor& x, const Tensor& weight, const Tensor& bias) {
  int64_t rows = 1;
  for (int d = 0; d + 1 < x.dim(); ++d) rows *= x.sizes()[d];
  check(x.size(-1) == weight.size(1), "mat1 and mat2 shapes cannot be multiplied ({}x{} and {}x{})",
        rows, x.size(-1), weight.size(1), weight.size(0));
  check_pair(name, x, weight);
  check(bias.dtype() == x.dtype(), "self and mat2 must have the same dtype");
  check_on_device(name, x.device(), bias);
}

// `op` of x's rows, in x's shape.
template <typename Op>
Tensor of_rows(const Tensor& x, int64_t out, const Op& op) {
  Dims sizes = x.sizes();
  sizes[sizes.size() - 1] = out;
  return op(as_rows(x)).reshape(sizes);
}

bool is_packed(const Tensor& bias) { return bias.size(0) <= 1 || bias.stride(0) == 1; }

}  // namespace

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  LOCKSTEP_AUTOCAST(linear, x, weight, bias);
  if (!bias.defined()) return matmul(x, weight.t());
  if (!is_one_product(x, weight, bias)) return composed_linear(x, weight, bias);
  check_operands("linear", x, weight, bias);
  if (x.dim() != 2) {
    const Tensor y =
        of_rows(x, weight.size(0), [&](const Tensor& rows) { return linear(rows, weight, bias); });
    return x.dim() == 1 ? autograd::renamed(y, "AddBackward0") : y;
  }
  const Tensor y = empty_dense({x.size(0), weight.size(0)}, x.dtype(), x.device());
  Gemm product(y, x.detach(), weight.detach().t());
  if (!is_packed(bias) || !product.run({.bias = bias.data_ptr()})) {
    backend_of(y).copy(y, alias_of(bias, y.sizes(), {0, bias.stride(0)}, bias.storage_offset()));
    product.run(true);
  }
  if (auto node = record<AddmmBackward0>(y, x, weight, bias)) {
    if (node->needs(1)) node->save(0, x);
    if (node->needs(0)) node->save(1, weight);
  }
  return y;
}

namespace {

struct Activated {
  Tensor y, pre_activation;
};

Activated activated(const Tensor& x, const Tensor& weight, const Tensor& bias, bool keep) {
  const autograd::NoGrad no_grad;
  const int64_t rows = x.size(0), out = weight.size(0), pitch = (out + 7) / 8 * 8;
  if (is_packed(bias)) {
    Activated result;
    result.y = empty_dense({rows, out}, x.dtype(), x.device());
    GemmEpilogue epilogue{.bias = bias.data_ptr(), .gelu = true};
    if (keep) {
      const Tensor padded = empty_dense({rows, pitch}, x.dtype(), x.device());
      result.pre_activation = padded.narrow(1, 0, out);
      epilogue.pre_activation = padded.data_ptr();
      epilogue.pre_activation_ld = pitch;
    }
    if (Gemm(result.y, x, weight.t()).run(epilogue)) return result;
  }
  const Tensor h = linear(x, weight, bias);
  return {gelu(h, "tanh"), h};
}

}  // namespace

Tensor linear_gelu(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  LOCKSTEP_AUTOCAST(linear_gelu, x, weight, bias);
  if (!bias.defined() || !is_one_product(x, weight, bias) || !is_floating(x.dtype())) {
    return gelu(linear(x, weight, bias), "tanh");
  }
  check_operands("linear_gelu", x, weight, bias);
  if (x.dim() != 2) {
    return of_rows(x, weight.size(0),
                   [&](const Tensor& rows) { return linear_gelu(rows, weight, bias); });
  }
  const bool keep = autograd::grad_enabled() &&
                    (x.requires_grad() || weight.requires_grad() || bias.requires_grad());
  const auto [y, pre_activation] = activated(x, weight, bias, keep);
  if (auto node = record<LinearGeluBackward0>(y, x, weight, bias)) {
    node->save(0, x);
    node->save(1, weight);
    node->save(2, bias);
    node->save(3, pre_activation);
  }
  return y;
}

}  // namespace lockstep
