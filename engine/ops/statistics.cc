#include "lockstep/engine/ops/statistics.h"

#include <cmath>
#include <limits>

#include "lockstep/engine/autograd/op_node.h"
#include "lockstep/engine/ops/autocast.h"
#include "lockstep/engine/ops/extreme.h"
#include "lockstep/engine/ops/pointwise.h"
#include "lockstep/engine/ops/reduce.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep {
namespace {

using autograd::OpNode;
using autograd::record;

// The result with the reduced dimensions as size 1, whether or not they were kept.
Dims kept_sizes(const Tensor& x, const Dims& dims) {
  Dims sizes = dims.empty() ? Dims::filled(x.dim(), 1) : x.sizes();
  for (int64_t d : dims) {
    if (x.dim() > 0) sizes[wrap_dim(d, x.dim())] = 1;
  }
  return sizes;
}

Dims dropped_sizes(const Tensor& x, const Dims& dims) {
  Dims sizes;
  if (dims.empty()) return sizes;
  const Dims kept = kept_sizes(x, dims);
  for (int d = 0; d < x.dim(); ++d) {
    bool reduced = false;
    for (int64_t wanted : dims) reduced = reduced || wrap_dim(wanted, x.dim()) == d;
    if (!reduced) sizes.push_back(kept[d]);
  }
  return sizes;
}

struct ReduceNode : OpNode<2> {
  Dims dims, kept;
};

// d var / d x = 2 (x - mean) / (n - correction). With no more elements than the correction, PyTorch
// has infinity for what all elements give, and goes by the formula along dimensions.
Tensor variance_gradient(const Tensor& g, const Tensor& x, const Dims& dims, double degrees) {
  if (degrees <= 0 && (dims.empty() || x.dim() == 0)) {
    constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
    constexpr double kInfinity = std::numeric_limits<double>::infinity();
    return mul(g, where(eq(x, mean(x)), kNan, kInfinity));
  }
  return mul(mul(g, 2 / degrees), sub(x, mean(x, dims, true)));
}

struct VarBackward0 final : ReduceNode {
  double degrees = 1;
  std::string_view name() const override { return "VarBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    results[0] = variance_gradient(gradients[0].reshape(kept), saved(0), dims, degrees);
  }
};

struct StdBackward0 final : ReduceNode {
  double degrees = 1;
  std::string_view name() const override { return "StdBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    const Tensor y = saved(1).reshape(kept);
    const Tensor g = masked_fill(div(gradients[0].reshape(kept), mul(y, 2)), eq(y, 0), 0);
    results[0] = variance_gradient(g, saved(0), dims, degrees);
  }
};

struct LogsumexpBackward0 final : ReduceNode {
  std::string_view name() const override { return "LogsumexpBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    results[0] = mul(gradients[0].reshape(kept), exp(sub(saved(0), saved(1).reshape(kept))));
  }
};

struct VectorNormBackward final : ReduceNode {
  double p = 2;
  std::string_view name() const override { return "LinalgVectorNormBackward0"; }
  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    const Tensor x = saved(0), y = saved(1).reshape(kept);
    const Tensor g = gradients[0].reshape(kept);
    if (p == 0) {
      results[0] = zeros_like(x);
    } else if (p == 1) {
      results[0] = mul(g, sign(x));
    } else if (p == 2) {
      results[0] = mul(g, masked_fill(div(x, y), eq(y, 0), 0));
    } else if (std::isinf(p)) {  // ties share
      const Tensor hit = eq(abs(x), y).to(x.dtype());
      results[0] = mul(mul(sign(x), hit), div(g, sum(hit, dims, true)));
    } else {
      // 0 at zeros. They are masked before the powers too, whose own derivatives are infinite
      // there.
      const auto power = [](const Tensor& t, double exponent) {
        const Tensor zero = eq(t, 0);
        return masked_fill(pow(masked_fill(t, zero, 1), exponent), zero, 0);
      };
      results[0] = mul(mul(sign(x), power(abs(x), p - 1)), mul(g, power(y, 1 - p)));
    }
  }
};

// The extreme over several dimensions, which keep size 1; no gradient.
Tensor extreme_over(const Tensor& x, const Dims& dims, bool largest) {
  if (dims.empty()) {
    const Tensor y = largest ? max(x) : min(x);
    return y.reshape(Dims::filled(x.dim(), 1));
  }
  Tensor y = x;
  for (int64_t d : dims) y = (largest ? max(y, d, true) : min(y, d, true)).values;
  return y;
}

double count_over(const Tensor& x, const Dims& kept) {
  const int64_t outputs = kept.product();
  return outputs == 0 ? 0 : static_cast<double>(x.numel()) / static_cast<double>(outputs);
}

template <typename NodeType>
Tensor variance(const Tensor& x, const Dims& dims, int64_t correction, bool keepdim, bool root) {
  check(is_floating(x.dtype()), "std and var only support floating point and complex dtypes");
  const Dims kept = kept_sizes(x, dims);
  const double degrees = count_over(x, kept) - static_cast<double>(correction);
  Tensor y;
  {
    const autograd::NoGrad no_grad;
    const autograd::NoAutocast no_autocast;
    y = div(sum(square(sub(x, mean(x, dims, true))), dims, true), std::max(0.0, degrees));
    if (root) y = sqrt(y);
    if (!keepdim) y = y.reshape(dropped_sizes(x, dims)).detach();
  }
  if (auto node = record<NodeType>(y, x)) {
    node->dims = dims;
    node->kept = kept;
    node->degrees = degrees;
    node->save(0, x);
    if (root) node->save_output(1, y);
  }
  return y;
}

}  // namespace

Tensor var(const Tensor& x, const Dims& dims, int64_t correction, bool keepdim) {
  return variance<VarBackward0>(x, dims, correction, keepdim, false);
}
Tensor std(const Tensor& x, const Dims& dims, int64_t correction, bool keepdim) {
  return variance<StdBackward0>(x, dims, correction, keepdim, true);
}

Tensor logsumexp(const Tensor& x, const Dims& dims, bool keepdim) {
  LOCKSTEP_AUTOCAST(logsumexp, x, dims, keepdim);
  if (!is_floating(x.dtype())) return logsumexp(x.to(DType::kFloat32), dims, keepdim);
  const Dims kept = kept_sizes(x, dims);
  Tensor y;
  {
    const autograd::NoGrad no_grad;
    if (x.numel() == 0) {
      y = full(kept, -std::numeric_limits<double>::infinity(), {x.dtype(), x.device()});
    } else {
      Tensor largest = extreme_over(x, dims, true);
      largest = masked_fill(largest, eq(abs(largest), std::numeric_limits<double>::infinity()), 0);
      y = add(log(sum(exp(sub(x, largest)), dims, true)), largest);
    }
    if (!keepdim) y = y.reshape(dropped_sizes(x, dims)).detach();
  }
  if (auto node = record<LogsumexpBackward0>(y, x)) {
    node->dims = dims;
    node->kept = kept;
    node->save(0, x);
    node->save_output(1, y);
  }
  return y;
}

Tensor norm(const Tensor& x, double p, const Dims& dims, bool keepdim) {
  LOCKSTEP_AUTOCAST(norm, x, p, dims, keepdim);
  check(is_floating(x.dtype()),
        "linalg.vector_norm: Expected a floating point or complex tensor as input. Got {}",
        type_name(x.dtype()));
  Tensor y;
  {
    const autograd::NoGrad no_grad;
    if (std::isinf(p)) {
      check(
          x.numel() > 0,
          "linalg.vector_norm cannot compute the {} norm on an empty tensor because the operation "
          "does not have an identity",
          p);
      y = extreme_over(abs(x), dims, p > 0);
    } else if (p == 0) {
      y = sum(ne(x, 0).to(x.dtype()), dims, true);
    } else if (p == 1) {
      y = sum(abs(x), dims, true);
    } else if (p == 2) {
      y = sqrt(sum(square(x), dims, true));
    } else {
      y = pow(sum(pow(abs(x), p), dims, true), 1 / p);
    }
    if (!keepdim) y = y.reshape(dropped_sizes(x, dims)).detach();
  }
  if (auto node = record<VectorNormBackward>(y, x)) {
    node->dims = dims;
    node->kept = kept_sizes(x, dims);
    node->p = p;
    node->save(0, x);
    node->save_output(1, y);
  }
  return y;
}

Tensor Tensor::var(const Dims& dims, int64_t correction, bool keepdim) const {
  return lockstep::var(*this, dims, correction, keepdim);
}
Tensor Tensor::std(const Dims& dims, int64_t correction, bool keepdim) const {
  return lockstep::std(*this, dims, correction, keepdim);
}
Tensor Tensor::logsumexp(const Dims& dims, bool keepdim) const {
  return lockstep::logsumexp(*this, dims, keepdim);
}
Tensor Tensor::norm(double p, const Dims& dims, bool keepdim) const {
  return lockstep::norm(*this, p, dims, keepdim);
}

}  // namespace lockstep
