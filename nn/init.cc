#include "lockstep/nn/init.h"

#include <algorithm>
#include <cmath>

#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/ops/matmul.h"
#include "lockstep/engine/ops/pointwise.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"

namespace lockstep::nn::init {
namespace {

double normal_cdf(double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); }

// Solves erf(x) = y, |y| < 1: a guess good to 2e-3 (Winitzki, 2008), then Halley's steps, each of
// which triples the number of correct digits.
double inverse_erf(double y) {
  constexpr double kPi = 3.141592653589793;
  constexpr double a = 0.147;
  const double logarithm = std::log1p(-y * y);
  const double b = 2 / (kPi * a) + logarithm / 2;
  double x = std::copysign(std::sqrt(std::sqrt(b * b - logarithm / a) - b), y);
  for (int i = 0; i < 3; ++i) {
    const double step = (std::erf(x) - y) / (2 / std::sqrt(kPi) * std::exp(-x * x));
    x -= step / (1 + x * step);
  }
  return x;
}

double fan(const Tensor& weight, FanMode mode) {
  return static_cast<double>(mode == FanMode::kFanIn ? fan_in(weight) : fan_out(weight));
}

// The deviation that Glorot's initialisers give.
double xavier_deviation(const Tensor& weight, double gain) {
  return gain * std::sqrt(2.0 / static_cast<double>(fan_in(weight) + fan_out(weight)));
}

void check_weight(const Tensor& weight) {
  check(weight.dim() >= 2,
        "Fan in and fan out can not be computed for tensor with fewer than 2 dimensions: got {}",
        weight.sizes().str());
}

}  // namespace

void uniform_(const Tensor& t, double from, double to) {
  const autograd::NoGrad no_grad;
  t.uniform_(from, to);
}

void normal_(const Tensor& t, double mean, double std) {
  const autograd::NoGrad no_grad;
  t.normal_(mean, std);
}

void trunc_normal_(const Tensor& t, double mean, double std, double least, double most) {
  check(std > 0 && least < most, "[trunc_normal_] std {} must be positive and [{}, {}] an interval",
        std, least, most);
  const autograd::NoGrad no_grad;
  const Tensor values = empty(t.sizes(), {DType::kFloat64});
  // Uniform between the values of the distribution function at both ends, scaled to erf's range.
  values.uniform_(2 * normal_cdf((least - mean) / std) - 1,
                  2 * normal_cdf((most - mean) / std) - 1);
  auto* v = values.data<double>();
  for (int64_t i = 0; i < values.numel(); ++i) {
    // Where erf has run out of digits, the end of the interval is what is meant.
    const double x = v[i] <= -1  ? least
                     : v[i] >= 1 ? most
                                 : mean + std * std::sqrt(2.0) * inverse_erf(v[i]);
    v[i] = std::clamp(x, least, most);
  }
  t.copy_(values);
}

void constant_(const Tensor& t, double value) {
  const autograd::NoGrad no_grad;
  t.fill_(value);
}

void ones_(const Tensor& t) { constant_(t, 1); }

void zeros_(const Tensor& t) { constant_(t, 0); }

void eye_(const Tensor& t) {
  check(t.dim() == 2, "Only tensors with 2 dimensions are supported: got {}", t.sizes().str());
  const autograd::NoGrad no_grad;
  const Tensor square = eye(std::max(t.size(0), t.size(1)), {.device = t.device()});
  t.copy_(square.narrow(0, 0, t.size(0)).narrow(1, 0, t.size(1)));
}

// Gram and Schmidt's process on rows of normal numbers, whose directions favour none. Projecting
// twice keeps it exact to rounding.
void orthogonal_(const Tensor& weight, double gain) {
  check(weight.dim() >= 2, "Only tensors with 2 or more dimensions are supported: got {}",
        weight.sizes().str());
  if (weight.numel() == 0) return;
  const autograd::NoGrad no_grad;
  const int64_t rows = weight.size(0), columns = weight.numel() / rows;
  const Tensor basis =
      randn({std::min(rows, columns), std::max(rows, columns)}, {DType::kFloat64, weight.device()});
  for (int64_t i = 0; i < basis.size(0); ++i) {
    const Tensor row = basis.select(0, i);
    for (int pass = 0; i > 0 && pass < 2; ++pass) {
      const Tensor before = basis.narrow(0, 0, i);
      row.sub_(matmul(matmul(before, row), before));
    }
    row.div_(row.norm());
  }
  weight.copy_(mul(rows < columns ? basis : basis.t(), gain).reshape(weight.sizes()));
}

int64_t fan_in(const Tensor& weight) {
  check_weight(weight);
  int64_t fan = 1;
  for (int d = 1; d < weight.dim(); ++d) fan *= weight.sizes()[d];
  return fan;
}

int64_t fan_out(const Tensor& weight) {
  check_weight(weight);
  int64_t fan = weight.size(0);
  for (int d = 2; d < weight.dim(); ++d) fan *= weight.sizes()[d];
  return fan;
}

double calculate_gain(std::string_view nonlinearity, double parameter) {
  for (const std::string_view linear : {"linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d",
                                        "conv_transpose2d", "conv_transpose3d", "sigmoid"}) {
    if (nonlinearity == linear) return 1;
  }
  if (nonlinearity == "tanh") return 5.0 / 3;
  if (nonlinearity == "selu") return 3.0 / 4;
  if (nonlinearity == "relu") return std::sqrt(2.0);
  check(nonlinearity == "leaky_relu", "Unsupported nonlinearity {}", nonlinearity);
  return std::sqrt(2.0 / (1 + parameter * parameter));
}

void kaiming_uniform_(const Tensor& weight, double a, FanMode mode, std::string_view nonlinearity) {
  const double gain = calculate_gain(nonlinearity, a);
  if (weight.numel() == 0) return;
  const double bound = gain * std::sqrt(3.0 / fan(weight, mode));
  uniform_(weight, -bound, bound);
}

void kaiming_normal_(const Tensor& weight, double a, FanMode mode, std::string_view nonlinearity) {
  const double gain = calculate_gain(nonlinearity, a);
  if (weight.numel() == 0) return;
  normal_(weight, 0.0, gain / std::sqrt(fan(weight, mode)));
}

void xavier_uniform_(const Tensor& weight, double gain) {
  if (weight.numel() == 0) return;
  const double bound = std::sqrt(3.0) * xavier_deviation(weight, gain);
  uniform_(weight, -bound, bound);
}

void xavier_normal_(const Tensor& weight, double gain) {
  if (weight.numel() == 0) return;
  normal_(weight, 0.0, xavier_deviation(weight, gain));
}

}  // namespace lockstep::nn::init
