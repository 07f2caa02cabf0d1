#include <cmath>

#include <gtest/gtest.h>

#include "lockstep/engine/ops/ops.h"
#include "lockstep/engine/tensor/random.h"
#include "lockstep/nn/nn.h"

namespace lockstep::nn {
namespace {

TEST(Embedding, LooksUpAndSpreadsGradients) {
  Embedding layer(4, 2, {.padding_idx = -3});
  EXPECT_EQ(layer.weight.select(0, 1).to_vector(), std::vector<double>({0, 0}));
  EXPECT_NE(layer.weight.select(0, 0).to_vector(), std::vector<double>({0, 0}));
  layer.load_state_dict({{"weight", arange(8).to(DType::kFloat32).view({4, 2})}});
  const auto indices = from_span(std::span<const int64_t>({3, 1, 3, 0}), {2, 2});
  const auto y = layer(indices);
  EXPECT_EQ(y.sizes(), Dims({2, 2, 2}));
  EXPECT_EQ(y.to_vector(), std::vector<double>({6, 7, 2, 3, 6, 7, 0, 1}));
  sum(y).backward();
  EXPECT_EQ(layer.weight.grad().to_vector(), std::vector<double>({1, 1, 0, 0, 0, 0, 2, 2}));
}

TEST(Embedding, StartsNormal) {
  manual_seed(1);
  const Embedding layer(200, 50);
  EXPECT_NEAR(mean(layer.weight).item(), 0.0, 0.05);
  EXPECT_NEAR(std(layer.weight).item(), 1.0, 0.05);
}

TEST(Embedding, RefusesBadIndices) {
  EXPECT_THROW(Embedding(4, 2, {.padding_idx = 4}), ValueError);
  EXPECT_THROW(Embedding(4, 2, {.padding_idx = -5}), ValueError);
  EXPECT_THROW(Embedding(-1, 2), ValueError);
  Embedding layer(4, 2);
  EXPECT_THROW(layer(tensor({4})), ValueError);
  EXPECT_THROW(layer(tensor({1.0})), ValueError);
}

TEST(LayerNorm, IsTheFormula) {
  LayerNorm layer(4);
  layer.load_state_dict({{"weight", full({4}, 2.0)}, {"bias", full({4}, 0.5)}});
  const auto y = layer(tensor({{1.0, 2.0, 3.0, 4.0}, {-8.0, 0.0, 0.0, 8.0}})).to_vector();
  const double first = 1 / std::sqrt(1.25 + 1e-5), second = 1 / std::sqrt(32 + 1e-5);
  const std::vector<double> expected = {
      -1.5 * first, -0.5 * first, 0.5 * first, 1.5 * first, -8 * second, 0, 0, 8 * second};
  for (size_t i = 0; i < 8; ++i) EXPECT_NEAR(y[i], 2 * expected[i] + 0.5, 1e-5) << i;
}

TEST(LayerNorm, ParametersFollowTheOptions) {
  EXPECT_EQ(LayerNorm({2, 3}).weight.sizes(), Dims({2, 3}));
  EXPECT_EQ(LayerNorm({2, 3}).parameters().size(), 2u);
  EXPECT_EQ(LayerNorm(3, {.elementwise_affine = false}).parameters().size(), 0u);
  EXPECT_EQ(LayerNorm(3, {.bias = false}).parameters().size(), 1u);
  EXPECT_EQ(LayerNorm({2, 3})(randn({5, 2, 3})).sizes(), Dims({5, 2, 3}));
  EXPECT_THROW(LayerNorm(3)(zeros({3, 4})), ValueError);
  EXPECT_THROW(LayerNorm(Dims{}), ValueError);
}

}  // namespace
}  // namespace lockstep::nn
