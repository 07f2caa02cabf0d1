#include "lockstep/nn/init.h"

#include <algorithm>
#include <cmath>

#include <gtest/gtest.h>

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
