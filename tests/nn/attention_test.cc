#include "lockstep/nn/attention.h"

#include <cmath>
#include <string>

#include "lockstep/engine/tensor/random.h"
#include "lockstep/nn/nn.h"

#include "module_golden.h"

namespace lockstep::nn {
namespace {

class AttentionGolden : public testing::TestWithParam<DType> {};

TEST_P(AttentionGolden, MultiheadAttentionIsPyTorchs) {
  int cases = 0;
  for (const json& test : golden_modules().cases()) {
    if (test.at("module") != "MultiheadAttention") continue;
    ++cases;
    const json& o = test.at("options");
    MultiheadAttention::Options options;
    options.bias = o.value("bias", true);
    options.batch_first = o.value("batch_first", false);
    if (o.contains("kdim")) options.kdim = o.at("kdim").get<int64_t>();
    if (o.contains("vdim")) options.vdim = o.at("vdim").get<int64_t>();
    MultiheadAttention module(o.at("args")[0], o.at("args")[1], options);
    MultiheadAttention::ForwardOptions call;
    call.need_weights = o.at("call").value("need_weights", true);
    call.average_attn_weights = o.at("call").value("average_attn_weights", true);
    call.masks.causal = o.at("call").value("causal", false);
    const auto forward = [&](const std::vector<Tensor>& x) -> std::vector<Tensor> {
      call.masks.attn_mask = x.at(3);
      call.masks.key_padding_mask = x.at(4);
      const AttentionOutput y = module(x[0], x[1], x[2], call);
      EXPECT_EQ(y.weights.defined(), call.need_weights);
      if (!call.need_weights) return {y.output};
      return {y.output, y.weights};
    };
    check_golden(test, module, forward, GetParam());
  }
  EXPECT_GE(cases, 15);
}

TEST_P(AttentionGolden, TransformerEncoderLayerIsPyTorchs) {
  int cases = 0;
  for (const json& test : golden_modules().cases()) {
    if (test.at("module") != "TransformerEncoderLayer") continue;
    ++cases;
    const json& o = test.at("options");
    TransformerEncoderLayer::Options options;
    options.dim_feedforward = o.at("dim_feedforward");
    options.dropout = o.at("dropout");
    options.activation = o.value("activation", options.activation);
    options.layer_norm_eps = o.value("layer_norm_eps", options.layer_norm_eps);
    options.batch_first = o.value("batch_first", false);
    options.norm_first = o.value("norm_first", false);
    TransformerEncoderLayer layer(o.at("args")[0], o.at("args")[1], options);
    const auto forward = [&](const std::vector<Tensor>& x) -> std::vector<Tensor> {
      return {layer(x.at(0), {.attn_mask = x.at(1), .key_padding_mask = x.at(2)})};
    };
    check_golden(test, layer, forward, GetParam());
  }
  EXPECT_EQ(cases, 4);
}

INSTANTIATE_TEST_SUITE_P(DTypes, AttentionGolden, testing::Values(DType::kFloat64, DType::kFloat32),
                         [](const auto& info) { return std::string(name_of(info.param)); });

TEST(MultiheadAttention, StartsAsPyTorchs) {
  manual_seed(1);
  const MultiheadAttention module(32, 4);
  const double bound = std::sqrt(6.0 / (32 + 96));
  EXPECT_LE(max(module.in_proj_weight).item(), bound);
  EXPECT_GT(max(module.in_proj_weight).item(), 0.98 * bound);
  EXPECT_LE(max(module.out_proj.weight).item(), 1 / std::sqrt(32.0));
  EXPECT_EQ(module.in_proj_bias.to_vector(), std::vector<double>(96, 0.0));
  EXPECT_EQ(module.out_proj.bias.to_vector(), std::vector<double>(32, 0.0));
  EXPECT_EQ(MultiheadAttention(4, 2, {.bias = false}).parameters().size(), 2u);
}

TEST(MultiheadAttention, DropsWeightsInTrainingOnly) {
  MultiheadAttention module(8, 2, {.dropout = 0.5});
  const auto x = randn({16, 3, 8});
  const auto zeroes = [&] {
    const auto y = module(x, x, x, {.average_attn_weights = false});
    return sum(eq(y.weights, 0)).item<int64_t>();
  };
  manual_seed(1);
  const int64_t n = 3 * 2 * 16 * 16;
  EXPECT_NEAR(static_cast<double>(zeroes()), n / 2, 6 * std::sqrt(n / 4.0));
  const auto first = module(x, x, x, {.need_weights = false}).output.to_vector();
  EXPECT_NE(module(x, x, x, {.need_weights = false}).output.to_vector(), first);
  module.eval();
  EXPECT_EQ(zeroes(), 0);
  const auto calm = module(x, x, x, {.need_weights = false}).output.to_vector();
  golden::expect_close(module(x, x, x).output.to_vector(), calm, 1e-5, 1e-6, "evaluation");
}

TEST(MultiheadAttention, HiddenKeysDoNotMatter) {
  MultiheadAttention module(8, 2, {.batch_first = true});
  const auto x = randn({1, 4, 8});
  const auto changed = x.clone();
  changed.select(1, 3).fill_(9.0);
  const MultiheadAttention::ForwardOptions causal{.masks = {.causal = true}, .need_weights = false};
  const auto a = module(x, x, x, causal).output,
             b = module(changed, changed, changed, causal).output;
  EXPECT_EQ(a.narrow(1, 0, 3).to_vector(), b.narrow(1, 0, 3).to_vector());
  EXPECT_NE(a.select(1, 3).to_vector(), b.select(1, 3).to_vector());
}

TEST(TransformerEncoderLayer, DefaultsAndDropout) {
  TransformerEncoderLayer layer(8, 2);
  EXPECT_EQ(layer.linear1.weight.sizes(), Dims({2048, 8}));
  EXPECT_EQ(layer.dropout.p, 0.1);
  const auto x = randn({3, 2, 8});
  EXPECT_NE(layer(x).to_vector(), layer(x).to_vector());
  layer.eval();
  EXPECT_EQ(layer(x).to_vector(), layer(x).to_vector());
}

}  // namespace
}  // namespace lockstep::nn
