#include "lockstep/engine/autograd/gradcheck.h"

#include <algorithm>
#include <cmath>

#include "lockstep/engine/autograd/backward.h"
#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/backend.h"
#include "lockstep/engine/ops/pointwise.h"
#include "lockstep/engine/ops/reduce.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/engine/tensor/philox.h"
#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep::autograd {
namespace {

// Fresh leaves with the inputs' values, so that nothing of the caller's graph takes part.
std::vector<Tensor> as_leaves(const std::vector<Tensor>& inputs) {
  std::vector<Tensor> leaves;
  for (const Tensor& input : inputs) {
    const bool wanted = input.defined() && input.requires_grad();
    check(!wanted || input.dtype() == DType::kFloat64,
          "[gradcheck] inputs that require grad must be float64, got {}",
          wanted ? name_of(input.dtype()) : "");
    leaves.push_back(input.defined() ? input.detach().clone() : input);
    if (wanted) leaves.back().requires_grad_();
  }
  return leaves;
}

Tensor evaluate(const DifferentiableFunction& function, const std::vector<Tensor>& inputs) {
  const NoGrad no_grad;
  // A copy: the result of a view would follow the inputs when they are changed.
  return function(inputs).detach().contiguous().clone();
}

// Row i: the gradient of output element i with respect to `input`, flattened.
std::vector<std::vector<double>> analytical(const Tensor& output, const Tensor& input) {
  std::vector<std::vector<double>> rows;
  for (int64_t i = 0; i < output.numel(); ++i) {
    std::vector<double> one(static_cast<size_t>(output.numel()));
    one[static_cast<size_t>(i)] = 1.0;
    const Tensor shaped =
        from_span<double>(one, output.sizes(), {DType::kFloat64, output.device()});
    const auto g = grad(std::span(&output, 1), std::span(&input, 1), std::span(&shaped, 1),
                        {.retain_graph = true, .allow_unused = true});
    rows.push_back(g[0].defined() ? g[0].to_vector()
                                  : std::vector<double>(static_cast<size_t>(input.numel()), 0.0));
  }
  return rows;
}

}  // namespace

void gradcheck(const DifferentiableFunction& function, const std::vector<Tensor>& inputs,
               GradcheckOptions options) {
  check(
      std::any_of(inputs.begin(), inputs.end(), [](const Tensor& x) { return x.requires_grad(); }),
      "gradcheck expects at least one input tensor to require gradient, but none of the them "
      "have requires_grad=True.");
  const std::vector<Tensor> leaves = as_leaves(inputs);
  const Tensor output = function(leaves);
  check(output.defined() && output.dtype() == DType::kFloat64,
        "[gradcheck] the function must return a float64 tensor");
  for (size_t k = 0; k < leaves.size(); ++k) {
    const Tensor& x = leaves[k];
    if (!x.defined() || !x.requires_grad()) continue;
    const auto jacobian = output.requires_grad()
                              ? analytical(output, x)
                              : std::vector<std::vector<double>>(
                                    static_cast<size_t>(output.numel()),
                                    std::vector<double>(static_cast<size_t>(x.numel()), 0.0));
    const std::vector<double> values = x.to_vector();
    const Dims strides = x.strides();
    for (int64_t j = 0; j < x.numel(); ++j) {
      int64_t rest = j, at = x.storage_offset();  // element j in row-major order
      for (int d = x.dim() - 1; d >= 0; --d) {
        at += rest % x.sizes()[d] * strides[d];
        rest /= x.sizes()[d];
      }
      const double saved = values[static_cast<size_t>(j)];
      const Tensor element = alias_of(x, {}, {}, at);
      const auto with = [&](double value) {
        backend_of(x).fill(element, value);
        return evaluate(function, leaves).to_vector();
      };
      const std::vector<double> above = with(saved + options.eps);
      const std::vector<double> below = with(saved - options.eps);
      backend_of(x).fill(element, saved);
      for (int64_t i = 0; i < output.numel(); ++i) {
        const auto row = static_cast<size_t>(i);
        const double numerical = (above[row] - below[row]) / (2 * options.eps);
        const double exact = jacobian[static_cast<size_t>(i)][static_cast<size_t>(j)];
        check<Error>(
            std::fabs(exact - numerical) <= options.atol + options.rtol * std::fabs(numerical),
            "[gradcheck] d output[{}] / d input {}[{}]: analytical {}, numerical {}", i, k, j,
            exact, numerical);
      }
    }
  }
}

void gradgradcheck(const DifferentiableFunction& function, const std::vector<Tensor>& inputs,
                   GradcheckOptions options) {
  const Tensor sample = evaluate(function, inputs);
  const Philox philox{0x6772u, 0x6164u};
  std::vector<double> weights;
  for (int64_t i = 0; i < sample.numel(); ++i) {
    const auto words = philox(static_cast<uint32_t>(i), 0, 0, 0);
    weights.push_back(uniform_double(words[0], words[1]) - 0.5);
  }
  const Tensor seed =
      from_span<double>(weights, sample.sizes(), {DType::kFloat64, sample.device()});
  std::vector<Tensor> extended = inputs;
  extended.push_back(seed);
  extended.back().requires_grad_();
  const auto gradient = [&](const std::vector<Tensor>& all) {
    // Differentiation inside needs a graph even where the outer check only evaluates.
    const EnableGrad enable;
    std::vector<Tensor> own(all.begin(), all.end() - 1), wanted;
    for (Tensor& x : own) {
      if (!x.defined() || !is_floating(x.dtype()) || !x.requires_grad()) continue;
      wanted.push_back(x);
    }
    const Tensor output = function(own);
    const auto gradients = grad(std::span(&output, 1), wanted, std::span(&all.back(), 1),
                                {.create_graph = true, .allow_unused = true});
    // All gradients as one vector: the sum over a fixed weighting would lose entries.
    int64_t total = 0;
    for (const Tensor& g : gradients) {
      if (g.defined()) total += g.numel();
    }
    const TensorOptions on_output{DType::kFloat64, output.device()};  // inputs may be elsewhere
    Tensor joined = zeros({total}, on_output);
    int64_t at = 0;
    for (const Tensor& g : gradients) {
      if (!g.defined()) continue;
      const Tensor rows = eye(total, on_output).narrow(0, at, g.numel());
      joined = joined + sum(g.to(output.device()).reshape({-1, 1}) * rows, {0});
      at += g.numel();
    }
    return joined;
  };
  gradcheck(gradient, extended, options);
}

}  // namespace lockstep::autograd
