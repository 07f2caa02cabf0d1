// Rows of the activations and other later pointwise ops, in the form of op_cases_pointwise.cc,
// which includes this where ROW is defined.

// Standard normal distribution and density, for gelu.
inline double normal_below(double x) { return 0.5 * std::erfc(-x * M_SQRT1_2); }
inline double normal_density(double x) { return std::exp(-0.5 * x * x) * 0.39894228040143267794; }
inline double logistic(double x) { return 1 / (1 + std::exp(-x)); }
inline double gelu_argument(double x) {
  return std::sqrt(2 / M_PI) * (x + 0.044715 * std::pow(x, 3));
}
inline double gelu_tanh_slope(double x) {
  const double t = std::tanh(gelu_argument(x));
  return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * std::sqrt(2 / M_PI) * (1 + 3 * 0.044715 * x * x);
}

ROW(rsqrt, rsqrt(x[0]), 1 / std::sqrt(x[0]), true, kPositive)
ROW(log1p, log1p(x[0]), std::log1p(x[0]), true, {-0.75, 3})
ROW(expm1, expm1(x[0]), std::expm1(x[0]), true, kAny)
ROW(tan, tan(x[0]), std::tan(x[0]), true, {-1, 1})
ROW(atan, atan(x[0]), std::atan(x[0]), true, kAny)
ROW(erf, erf(x[0]), std::erf(x[0]), true, kAny)
ROW(gelu_erf, gelu_erf(x[0]), x[0] * normal_below(x[0]), true, kAny)
ROW(gelu_tanh, gelu_tanh(x[0]), 0.5 * x[0] * (1 + std::tanh(gelu_argument(x[0]))), true, kAny)
ROW(silu, silu(x[0]), x[0] * logistic(x[0]), true, {-4, 4})
ROW(softplus, softplus(x[0], 1.5, 2),
    x[0] * 1.5 > 2 ? x[0] : std::log1p(std::exp(1.5 * x[0])) / 1.5, true, kAny)
ROW(leaky_relu, leaky_relu(x[0], 0.1), x[0] > 0 ? x[0] : 0.1 * x[0], true, kAny)
ROW(elu, elu(x[0], 0.5), x[0] > 0 ? x[0] : 0.5 * std::expm1(x[0]), true, kAny)
ROW(hardtanh, hardtanh(x[0], -1, 0.5), std::clamp(x[0], -1.0, 0.5), true, kAny)
ROW(pow_tensor, pow_tensor(x[0], x[1]), std::pow(x[0], x[1]), true, kPositive, kAny)
ROW(gelu_erf_backward, gelu_erf_backward(x[0], x[1]),
    x[0] * (normal_below(x[1]) + x[1] * normal_density(x[1])), true, kAny, kAny)
ROW(gelu_tanh_backward, gelu_tanh_backward(x[0], x[1]), x[0] * gelu_tanh_slope(x[1]), true, kAny,
    kAny)
ROW(silu_backward, silu_backward(x[0], x[1]),
    x[0] * logistic(x[1]) * (1 + x[1] * (1 - logistic(x[1]))), true, kAny, kAny)
ROW(softplus_backward, softplus_backward(x[0], x[1], 1.5, 2),
    x[1] * 1.5 > 2 ? x[0] : x[0] * logistic(1.5 * x[1]), true, kAny, kAny)
ROW(leaky_relu_backward, leaky_relu_backward(x[0], x[1], 0.1), x[1] > 0 ? x[0] : 0.1 * x[0], true,
    kAny, kAny)
ROW(elu_backward, elu_backward(x[0], x[1], 0.5), x[1] > 0 ? x[0] : 0.5 * x[0] * std::exp(x[1]),
    true, kAny, kAny)
ROW(hardtanh_backward, hardtanh_backward(x[0], x[1], -1, 0.5), x[1] > -1 && x[1] < 0.5 ? x[0] : 0,
    true, kAny, kAny)
ROW(logical_and, logical_and(x[0] > 0, x[1] > 0), x[0] > 0 && x[1] > 0, false, kAny, kAny)
ROW(logical_or, logical_or(x[0] > 0, x[1] > 0), x[0] > 0 || x[1] > 0, false, kAny, kAny)
