#include <cmath>

#include <gtest/gtest.h>

#include "lockstep/engine/ops/ops.h"
#include "lockstep/engine/tensor/random.h"
#include "lockstep/nn/nn.h"

namespace lockstep::nn {
namespace {

TEST(Linear, ComputesAndHandlesNoBias) {
  Linear layer(2, 3, {.bias = false});
  EXPECT_FALSE(layer.bias.defined());
  EXPECT_EQ(layer.parameters().size(), 1u);
  layer.load_state_dict(
      {{"weight", from_span(std::span<const float>({1, 2, 3, 4, 5, 6}), {3, 2})}});
  EXPECT_EQ(layer(tensor({{1.0, 10.0}})).to_vector(), std::vector<double>({21, 43, 65}));
  Linear biased(2, 1);
  biased.load_state_dict({{"weight", tensor({{1.0, -1.0}})}, {"bias", tensor({0.5})}});
  EXPECT_EQ(biased(tensor({{3.0, 1.0}, {0.0, 0.0}})).to_vector(), std::vector<double>({2.5, 0.5}));
  EXPECT_EQ(biased(zeros({2, 4, 2})).sizes(), Dims({2, 4, 1}));
}

TEST(Conv2d, UsesItsParametersAndOptions) {
  Conv2d layer(2, 4, 3, {.stride = 2, .padding = 1, .groups = 2, .bias = false});
  EXPECT_FALSE(layer.bias.defined());
  const auto x = randn({2, 2, 7, 7});
  const auto expected = conv2d(x, layer.weight, {}, {{2, 2}, {1, 1}, {1, 1}, 2});
  EXPECT_EQ(layer(x).sizes(), Dims({2, 4, 4, 4}));
  EXPECT_EQ(layer(x).to_vector(), expected.to_vector());
  Conv2d biased(1, 1, 1);
  biased.load_state_dict({{"weight", full({1, 1, 1, 1}, 2.0)}, {"bias", tensor({0.5})}});
  EXPECT_EQ(biased(full({1, 1, 1, 2}, 3.0)).to_vector(), std::vector<double>({6.5, 6.5}));
}

TEST(Layers, WithoutParameters) {
  const auto x = tensor({-1.0, 0.0, 2.0});
  EXPECT_EQ(ReLU()(x).to_vector(), std::vector<double>({0, 0, 2}));
  EXPECT_NEAR(Sigmoid()(x).to_vector()[2], 1 / (1 + std::exp(-2.0)), 1e-6);
  EXPECT_NEAR(Tanh()(x).to_vector()[0], std::tanh(-1.0), 1e-6);
  EXPECT_TRUE(Identity()(x).is_same(x));
  EXPECT_EQ(Flatten()(zeros({2, 3, 4})).sizes(), Dims({2, 12}));
  EXPECT_EQ(Flatten(0, 1)(zeros({2, 3, 4})).sizes(), Dims({6, 4}));
  const auto image = arange(16).to(DType::kFloat32).view({1, 1, 4, 4});
  EXPECT_EQ(MaxPool2d(2)(image).to_vector(), std::vector<double>({5, 7, 13, 15}));
  EXPECT_EQ(AvgPool2d(2)(image).to_vector(), std::vector<double>({2.5, 4.5, 10.5, 12.5}));
}

TEST(Dropout, ZeroesInTrainingOnly) {
  manual_seed(1);
  Dropout layer(0.25);
  const auto x = ones({10'000});
  int zeroes = 0;
  for (const double v : layer(x).to_vector()) {
    if (v == 0.0) {
      ++zeroes;
    } else {
      ASSERT_NEAR(v, 1 / 0.75, 1e-6);
    }
  }
  EXPECT_NEAR(zeroes, 2500, 6 * std::sqrt(10'000 * 0.25 * 0.75));
  layer.eval();
  EXPECT_EQ(layer(x).to_vector(), x.to_vector());
}

TEST(Losses, AsModules) {
  const auto logits = tensor({{1.0, 2.0}, {0.0, -1.0}});
  const auto target = tensor({0, 1});
  EXPECT_EQ(CrossEntropyLoss()(logits, target).item(), cross_entropy(logits, target).item());
  EXPECT_EQ(CrossEntropyLoss(Reduction::kSum)(logits, target).item(),
            cross_entropy(logits, target, Reduction::kSum).item());
  EXPECT_EQ(MSELoss()(logits, zeros({2, 2})).item(), 1.5);
  EXPECT_EQ(NLLLoss(Reduction::kNone)(logits, target).to_vector(), std::vector<double>({-1, 1}));
}

}  // namespace
}  // namespace lockstep::nn
