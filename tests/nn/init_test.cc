#include "lockstep/nn/init.h"

#include <algorithm>
#include <cmath>

#include <gtest/gtest.h>

#include "lockstep/engine/ops/ops.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/engine/tensor/random.h"
#include "lockstep/nn/nn.h"

namespace lockstep::nn {
namespace {

struct Statistics {
  double mean = 0.0, deviation = 0.0, least = 0.0, most = 0.0;
};

Statistics statistics_of(const Tensor& t) {
  const auto values = t.to_vector();
  Statistics s;
  const auto n = static_cast<double>(values.size());
  for (const double v : values) s.mean += v / n;
  for (const double v : values) s.deviation += (v - s.mean) * (v - s.mean) / n;
  s.deviation = std::sqrt(s.deviation);
  s.least = *std::min_element(values.begin(), values.end());
  s.most = *std::max_element(values.begin(), values.end());
  return s;
}

// All within [-bound, bound], nearly filling it, with the mean and spread of a uniform
// distribution. Six standard errors: the seed is fixed, a correct generator passes.
void expect_uniform(const Tensor& t, double bound, const char* what) {
  const Statistics s = statistics_of(t);
  const double n = static_cast<double>(t.numel());
  EXPECT_GE(s.least, -bound) << what;
  EXPECT_LE(s.most, bound) << what;
  EXPECT_LT(s.least, -bound * (1 - 20.0 / n)) << what;
  EXPECT_GT(s.most, bound * (1 - 20.0 / n)) << what;
  EXPECT_NEAR(s.mean, 0.0, 6 * bound / std::sqrt(3 * n)) << what;
  EXPECT_NEAR(s.deviation, bound / std::sqrt(3.0), 6 * bound / std::sqrt(n)) << what;
}

TEST(Init, LinearIsPyTorchsUniform) {
  manual_seed(1);
  const Linear layer(400, 300);
  expect_uniform(layer.weight, 1 / std::sqrt(400.0), "weight");
  expect_uniform(layer.bias, 1 / std::sqrt(400.0), "bias");
}

TEST(Init, Conv2dIsPyTorchsUniform) {
  manual_seed(1);
  const Conv2d layer(16, 96, 5, {.groups = 2});
  EXPECT_EQ(layer.weight.sizes(), Dims({96, 8, 5, 5}));
  expect_uniform(layer.weight, 1 / std::sqrt(8.0 * 25), "weight");
  expect_uniform(layer.bias, 1 / std::sqrt(8.0 * 25), "bias");
}

TEST(Init, KaimingAndXavier) {
  manual_seed(2);
  const auto w = empty({200, 30, 3, 3});
  init::kaiming_uniform_(w);
  expect_uniform(w, std::sqrt(6.0 / 270), "kaiming_uniform_");
  init::xavier_uniform_(w, 2.0);
  expect_uniform(w, 2 * std::sqrt(6.0 / (270 + 1800)), "xavier_uniform_");
  init::kaiming_normal_(w, 0.5);
  const Statistics s = statistics_of(w);
  const double deviation = std::sqrt(2.0 / (1.25 * 270));
  EXPECT_NEAR(s.deviation, deviation, 0.02 * deviation);
  EXPECT_NEAR(s.mean, 0.0, 0.02 * deviation);
  EXPECT_GT(s.most, 3.5 * deviation);
}

TEST(Init, OtherConvolutionsArePyTorchsUniform) {
  manual_seed(1);
  const Conv1d line(16, 96, 5, {.groups = 2});
  expect_uniform(line.weight, 1 / std::sqrt(8.0 * 5), "Conv1d weight");
  expect_uniform(line.bias, 1 / std::sqrt(8.0 * 5), "Conv1d bias");
  const ConvTranspose2d transposed(16, 96, {5, 3}, {.groups = 2});
  EXPECT_EQ(transposed.weight.sizes(), Dims({16, 48, 5, 3}));
  expect_uniform(transposed.weight, 1 / std::sqrt(48.0 * 15), "ConvTranspose2d weight");
  expect_uniform(transposed.bias, 1 / std::sqrt(48.0 * 15), "ConvTranspose2d bias");
}

// PyTorch's table.
TEST(Init, Gains) {
  for (const char* linear : {"linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d",
                             "conv_transpose2d", "conv_transpose3d", "sigmoid"}) {
    EXPECT_EQ(init::calculate_gain(linear), 1.0) << linear;
  }
  EXPECT_DOUBLE_EQ(init::calculate_gain("tanh"), 1.6666666666666667);
  EXPECT_DOUBLE_EQ(init::calculate_gain("selu"), 0.75);
  EXPECT_DOUBLE_EQ(init::calculate_gain("relu"), 1.4142135623730951);
  EXPECT_DOUBLE_EQ(init::calculate_gain("leaky_relu"), 1.4141428569978354);
  EXPECT_DOUBLE_EQ(init::calculate_gain("leaky_relu", 0.2), 1.3867504905630728);
}

TEST(Init, KaimingModesAndXavierNormal) {
  manual_seed(4);
  const auto w = empty({200, 30, 3, 3});
  EXPECT_EQ(init::fan_in(w), 270);
  EXPECT_EQ(init::fan_out(w), 1800);
  init::kaiming_uniform_(w, 0.0, init::FanMode::kFanOut, "relu");
  expect_uniform(w, std::sqrt(6.0 / 1800), "kaiming_uniform_");
  init::kaiming_uniform_(w, 0.0, init::FanMode::kFanIn, "tanh");
  expect_uniform(w, 5.0 / 3 * std::sqrt(3.0 / 270), "kaiming_uniform_ of tanh");
  init::kaiming_normal_(w, 0.0, init::FanMode::kFanOut, "linear");
  EXPECT_NEAR(statistics_of(w).deviation, std::sqrt(1.0 / 1800), 0.02 * std::sqrt(1.0 / 1800));
  init::xavier_normal_(w, 3.0);
  const double deviation = 3 * std::sqrt(2.0 / 2070);
  EXPECT_NEAR(statistics_of(w).deviation, deviation, 0.02 * deviation);
  EXPECT_NEAR(statistics_of(w).mean, 0.0, 0.02 * deviation);
}

// The share of values below a point, against the truncated distribution function.
TEST(Init, TruncatedNormal) {
  manual_seed(5);
  constexpr int64_t kCount = 40'000;
  const auto phi = [](double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); };
  struct Case {
    double mean, std, least, most;
  };
  for (const Case& c :
       {Case{0, 1, -2, 2}, Case{1, 2, -2, 2}, Case{0, 0.02, -2, 2}, Case{3, 1, -1, 1}}) {
    const auto t = empty({kCount}, {DType::kFloat64});
    init::trunc_normal_(t, c.mean, c.std, c.least, c.most);
    const auto values = t.to_vector();
    const double low = phi((c.least - c.mean) / c.std), high = phi((c.most - c.mean) / c.std);
    for (const double z : {-1.5, -0.5, 0.0, 0.25, 1.0, 1.75}) {
      const double x = std::clamp(c.mean + c.std * z, c.least, c.most);
      const double wanted = (phi((x - c.mean) / c.std) - low) / (high - low);
      const auto below =
          std::count_if(values.begin(), values.end(), [&](double v) { return v <= x; });
      EXPECT_NEAR(static_cast<double>(below) / kCount, wanted,
                  6 * std::sqrt(wanted * (1 - wanted) / kCount) + 1e-12)
          << "mean " << c.mean << " std " << c.std << " at " << x;
    }
    EXPECT_GE(statistics_of(t).least, c.least);
    EXPECT_LE(statistics_of(t).most, c.most);
  }
  // The distribution function takes each value back to the uniform number that it came from.
  const auto uniform = empty({1000}, {DType::kFloat64}), back = empty({1000}, {DType::kFloat64});
  manual_seed(6);
  uniform.uniform_(phi(-3), phi(2));
  manual_seed(6);
  init::trunc_normal_(back, 0.0, 1.0, -3.0, 2.0);
  for (size_t i = 0; i < 1000; ++i) {
    EXPECT_NEAR(phi(back.to_vector()[i]), uniform.to_vector()[i], 1e-14) << i;
  }
  const auto narrow = empty({1000});
  init::trunc_normal_(narrow, 0.0, 1.0, 20.0, 21.0);  // beyond what erf can tell apart
  EXPECT_GE(statistics_of(narrow).least, 20.0);
  EXPECT_LE(statistics_of(narrow).most, 21.0);
}

TEST(Init, Orthogonal) {
  manual_seed(6);
  for (const Dims& sizes : {Dims{20, 7}, Dims{7, 20}, Dims{12, 12}, Dims{6, 2, 3, 2}, Dims{5, 1}}) {
    const auto w = empty(sizes, {DType::kFloat64});
    init::orthogonal_(w, 3.0);
    const auto m = w.reshape({sizes[0], -1});
    const bool tall = m.size(0) > m.size(1);
    const auto product = tall ? mm(m.t(), m) : mm(m, m.t());
    const auto difference = product - eye(product.size(0), {DType::kFloat64}) * 9.0;
    EXPECT_LT(max(abs(difference)).item(), 1e-13) << sizes.str();
  }
  // No direction is preferred: signs come out even.
  int positive = 0;
  for (int i = 0; i < 400; ++i) {
    const auto w = empty({2, 2});
    init::orthogonal_(w);
    positive += w.to_vector()[0] > 0 ? 1 : 0;
  }
  EXPECT_NEAR(positive, 200, 60);
}

TEST(Init, EyeOnesZeros) {
  const Linear layer(3, 2);
  init::eye_(layer.weight);
  EXPECT_EQ(layer.weight.to_vector(), std::vector<double>({1, 0, 0, 0, 1, 0}));
  init::ones_(layer.bias);
  EXPECT_EQ(layer.bias.to_vector(), std::vector<double>({1, 1}));
  init::zeros_(layer.bias);
  EXPECT_EQ(layer.bias.to_vector(), std::vector<double>({0, 0}));
}

TEST(Init, NormalUniformConstant) {
  manual_seed(3);
  const auto t = empty({50'000}, {DType::kFloat64});
  init::normal_(t, 2.0, 0.5);
  EXPECT_NEAR(statistics_of(t).mean, 2.0, 0.02);
  EXPECT_NEAR(statistics_of(t).deviation, 0.5, 0.01);
  init::uniform_(t, 1.0, 3.0);
  EXPECT_NEAR(statistics_of(t).mean, 2.0, 0.02);
  EXPECT_GE(statistics_of(t).least, 1.0);
  EXPECT_LT(statistics_of(t).most, 3.0);
  init::constant_(t, 4.0);
  EXPECT_EQ(statistics_of(t).least, 4.0);
  EXPECT_EQ(statistics_of(t).most, 4.0);
}

TEST(Init, WorksOnParametersAndDependsOnTheSeedOnly) {
  manual_seed(7);
  const Linear a(5, 4);
  const Linear other(5, 4);
  manual_seed(7);
  const Linear b(5, 4);
  EXPECT_EQ(a.weight.to_vector(), b.weight.to_vector());
  EXPECT_EQ(a.bias.to_vector(), b.bias.to_vector());
  EXPECT_NE(a.weight.to_vector(), other.weight.to_vector());
  init::constant_(a.weight, 1.0);  // a leaf that requires grad
  EXPECT_TRUE(a.weight.is_leaf());
}

TEST(Init, EdgeCases) {
  const Linear empty_input(0, 3);
  EXPECT_EQ(empty_input.bias.to_vector(), std::vector<double>(3, 0.0));
  EXPECT_THROW(init::fan_in(zeros({3})), ValueError);
  EXPECT_THROW(Linear(-1, 3), ValueError);
  EXPECT_THROW(Conv2d(3, 4, 3, {.groups = 2}), ValueError);
  EXPECT_THROW(Conv2d(0, 4, 3), ValueError);
}

}  // namespace
}  // namespace lockstep::nn
