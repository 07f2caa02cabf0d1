#include "lockstep/engine/ops/matmul.h"

#include <cmath>

#include "lockstep/engine/autograd/op_node.h"
#include "lockstep/engine/ops/autocast.h"
#include "lockstep/engine/ops/gemm_call.h"
#include "lockstep/engine/ops/pointwise.h"
#include "lockstep/engine/ops/reduce.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep {
namespace {

using autograd::OpNode;
using autograd::record;

struct MmBackward0 final : OpNode<2> {
  std::string_view name() const override { return "MmBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    const Tensor& g = gradients[0];
    if (needs(0)) results[0] = product_for_leaf(edges()[0], g, saved(1).t());
    if (needs(1)) results[1] = product_for_leaf(edges()[1], saved(0).t(), g);
  }
};

struct BmmBackward0 final : OpNode<2> {
  std::string_view name() const override { return "BmmBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    const Tensor& g = gradients[0];
    if (needs(0)) results[0] = bmm(g, saved(1).transpose(1, 2));
    if (needs(1)) results[1] = bmm(saved(0).transpose(1, 2), g);
  }
};

}  // namespace

Tensor mm(const Tensor& a, const Tensor& b) {
  LOCKSTEP_AUTOCAST(mm, a, b);
  check(a.dim() == 2, "self must be a matrix");
  check(b.dim() == 2, "mat2 must be a matrix");
  check(a.size(1) == b.size(0), "mat1 and mat2 shapes cannot be multiplied ({}x{} and {}x{})",
        a.size(0), a.size(1), b.size(0), b.size(1));
  check_pair("mm", a, b);
  const Tensor y = empty_dense({a.size(0), b.size(1)}, a.dtype(), a.device());
  Gemm(y, a, b).run();
  if (auto node = record<MmBackward0>(y, a, b)) {
    if (node->needs(1)) node->save(0, a);
    if (node->needs(0)) node->save(1, b);
  }
  return y;
}

Tensor bmm(const Tensor& a, const Tensor& b) {
  LOCKSTEP_AUTOCAST(bmm, a, b);
  check(a.dim() == 3, "batch1 must be a 3D tensor");
  check(b.dim() == 3, "batch2 must be a 3D tensor");
  check(
      a.size(0) == b.size(0) && a.size(2) == b.size(1),
      "Expected size for first two dimensions of batch2 tensor to be: [{}, {}] but got: [{}, {}].",
      a.size(0), a.size(2), b.size(0), b.size(1));
  check_pair("bmm", a, b);
  const Tensor y = empty_dense({a.size(0), a.size(1), b.size(2)}, a.dtype(), a.device());
  Gemm(y, a, b).run();
  if (auto node = record<BmmBackward0>(y, a, b)) {
    if (node->needs(1)) node->save(0, a);
    if (node->needs(0)) node->save(1, b);
  }
  return y;
}

namespace {

struct UnsafeViewBackward0 final : OpNode<1> {
  Dims sizes;
  std::string_view name() const override { return "UnsafeViewBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    results[0] = gradients[0].reshape(sizes);
  }
};

// A product of folded operands in its full shape; nobody else holds it, so it is no view.
Tensor unfolded(const Tensor& product, const Dims& sizes) {
  const Tensor y = alias_of(product, sizes, contiguous_strides(sizes), 0);
  if (auto node = record<UnsafeViewBackward0>(y, product)) node->sizes = product.sizes();
  return y;
}

struct DotBackward0 final : OpNode<2> {
  std::string_view name() const override { return "DotBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    if (needs(0)) results[0] = mul(gradients[0], saved(1));
    if (needs(1)) results[1] = mul(gradients[0], saved(0));
  }
};

struct MvBackward0 final : OpNode<2> {
  std::string_view name() const override { return "MvBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    if (needs(0)) results[0] = outer(gradients[0], saved(1));
    if (needs(1)) results[1] = mv(saved(0).t(), gradients[0]);
  }
};

template <typename NodeType>
Tensor product_with_vector(const char* name, const Tensor& a, const Tensor& b, const Dims& sizes) {
  check_pair(name, a, b);
  const Tensor y = empty_dense(sizes, a.dtype(), a.device());
  const Tensor rows = a.dim() == 1 ? a.detach().unsqueeze(0) : a.detach();
  Gemm(alias_of(y, {rows.size(0), 1}, {1, 1}, 0), rows, b.detach().unsqueeze(1)).run();
  if (auto node = record<NodeType>(y, a, b)) {
    if (node->needs(1)) node->save(0, a);
    if (node->needs(0)) node->save(1, b);
  }
  return y;
}

}  // namespace

Tensor dot(const Tensor& a, const Tensor& b) {
  LOCKSTEP_AUTOCAST(dot, a, b);
  check(a.dim() == 1 && b.dim() == 1, "1D tensors expected, but got {}D and {}D tensors", a.dim(),
        b.dim());
  check(a.dtype() == b.dtype(),
        "dot : expected both vectors to have same dtype, but found {} and {}", type_name(a.dtype()),
        type_name(b.dtype()));
  check(a.size(0) == b.size(0),
        "inconsistent tensor size, expected tensor {} and src {} to have the same number of "
        "elements, but got {} and {} elements respectively",
        a.sizes(), b.sizes(), a.size(0), b.size(0));
  return product_with_vector<DotBackward0>("dot", a, b, {});
}

Tensor mv(const Tensor& a, const Tensor& b) {
  LOCKSTEP_AUTOCAST(mv, a, b);
  check(a.dim() == 2 && b.dim() == 1, "vector + matrix @ vector expected, got 1, {}, {}", a.dim(),
        b.dim());
  check(a.size(1) == b.size(0), "size mismatch, got {}, {}x{},{}", a.size(0), a.size(0), a.size(1),
        b.size(0));
  return product_with_vector<MvBackward0>("mv", a, b, {a.size(0)});
}

Tensor matmul(const Tensor& a, const Tensor& b) {
  LOCKSTEP_AUTOCAST(matmul, a, b);
  check(a.dim() > 0 && b.dim() > 0,
        "both arguments to matmul need to be at least 1D, but they are {}D and {}D", a.dim(),
        b.dim());
  if (a.dim() == 1 && b.dim() == 1) return dot(a, b);
  if (a.dim() == 1) return matmul(a.unsqueeze(0), b).squeeze(-2);
  if (a.dim() == 2 && b.dim() == 1) return mv(a, b);
  if (b.dim() == 1) {
    Dims sizes = a.sizes();
    sizes.erase(sizes.size() - 1);
    return unfolded(mv(as_rows(a), b), sizes);
  }
  if (a.dim() == 2 && b.dim() == 2) return mm(a, b);
  if (b.dim() == 2) {
    Dims sizes = a.sizes();
    sizes[sizes.size() - 1] = b.size(1);
    return unfolded(mm(as_rows(a), b), sizes);
  }
  if (a.dim() == 3 && b.dim() == 3 && a.size(0) == b.size(0)) {
    return unfolded(bmm(a, b), {a.size(0), a.size(1), b.size(2)});
  }
  Dims lead_a(std::span(a.sizes().data(), static_cast<size_t>(a.dim() - 2)));
  Dims lead_b(std::span(b.sizes().data(), static_cast<size_t>(b.dim() - 2)));
  const Dims lead = broadcast_shapes(lead_a, lead_b);
  const auto batched = [&](const Tensor& x) {
    Dims full = lead;
    full.push_back(x.size(-2));
    full.push_back(x.size(-1));
    return x.expand(full).reshape({lead.product(), x.size(-2), x.size(-1)});
  };
  Dims out = lead;
  out.push_back(a.size(-2));
  out.push_back(b.size(-1));
  return unfolded(bmm(batched(a), batched(b)), out);
}

namespace {

struct ScaledAddmmBackward final : OpNode<2> {
  double beta = 1, alpha = 1;
  Dims c_sizes;
  std::string_view name() const override { return "AddmmBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    const Tensor& g = gradients[0];
    if (needs(0)) results[0] = mul(sum_to_size(g, c_sizes), beta);
    if (needs(1)) results[1] = mul(mm(g, saved(1).t()), alpha);
    if (needs(2)) results[2] = mul(mm(saved(0).t(), g), alpha);
  }
};

// A factor of integer matrices.
Scalar whole(const char* name, double factor) {
  check(factor == std::trunc(factor),
        "For integral input tensors, argument {} must not be a floating point number.", name);
  return static_cast<int64_t>(factor);
}

}  // namespace

Tensor addmm(const Tensor& c, const Tensor& a, const Tensor& b, double beta, double alpha) {
  LOCKSTEP_AUTOCAST(addmm, c, a, b, beta, alpha);
  check(a.dim() == 2, "mat1 must be a matrix, got {}-D tensor", a.dim());
  check(b.dim() == 2, "mat2 must be a matrix, got {}-D tensor", b.dim());
  Tensor y;
  {
    const autograd::NoGrad no_grad;
    // What has 16 bits is rounded at the end only.
    const bool half = size_of(a.dtype()) == 2 && a.dtype() == b.dtype();
    const auto wide = [&](const Tensor& t) { return half ? t.to(DType::kFloat32) : t; };
    const Tensor product = mm(wide(a), wide(b));
    const Tensor bias = wide(c).expand(product.sizes());
    const bool integers = !is_floating(a.dtype());
    const Scalar factor = integers ? whole("alpha", alpha) : Scalar(alpha);
    if (integers) whole("beta", beta);
    const Tensor scaled = alpha == 1 ? product : mul(product, factor);
    y = beta == 0 ? scaled : add_scaled(scaled, bias, beta);
    if (half) y = y.to(a.dtype());
  }
  if (auto node = record<ScaledAddmmBackward>(y, c, a, b)) {
    node->beta = beta;
    node->alpha = alpha;
    node->c_sizes = c.sizes();
    node->save(0, a);
    node->save(1, b);
  }
  return y;
}

Tensor outer(const Tensor& a, const Tensor& b) {
  check(a.dim() == 1, "outer: Expected 1-D argument self, but got {}-D", a.dim());
  check(b.dim() == 1, "outer: Expected 1-D argument vec2, but got {}-D", b.dim());
  return mul(a.unsqueeze(1), b);
}

Tensor Tensor::matmul(const Tensor& other) const { return lockstep::matmul(*this, other); }
Tensor Tensor::mm(const Tensor& other) const { return lockstep::mm(*this, other); }
Tensor Tensor::bmm(const Tensor& other) const { return lockstep::bmm(*this, other); }

}  // namespace lockstep
