#include <gtest/gtest.h>

#include "lockstep/engine/ops/ops.h"
#include "lockstep/nn/nn.h"

#include "golden/golden.h"

namespace lockstep::nn {
namespace {

using nlohmann::json;

const Dims kShape{4, 3, 2, 2};

BatchNorm2d::Options options_of(const json& o) {
  BatchNorm2d::Options options;
  if (o.contains("momentum")) {
    options.momentum =
        o.at("momentum").is_null() ? std::optional<double>() : o.at("momentum").get<double>();
  }
  if (o.contains("eps")) options.eps = o.at("eps");
  if (o.contains("affine")) options.affine = o.at("affine");
  if (o.contains("track_running_stats")) options.track_running_stats = o.at("track_running_stats");
  return options;
}

// Three training steps and an evaluation, in both dtypes.
void run(const golden::File& golden, const json& test, DType dtype) {
  const double rtol = dtype == DType::kFloat32 ? 2e-5 : 1e-10;
  const double atol = dtype == DType::kFloat32 ? 2e-4 : 1e-10;
  const std::string name = test.at("name");
  BatchNorm2d layer(3, options_of(test.at("options")));
  layer.to(dtype);
  const bool affine = layer.weight.defined();
  if (affine) {
    layer.load_state_dict(
        {{"weight", tensor({0.5, 1.0, -2.0})}, {"bias", tensor({0.25, 0.0, 1.0})}},
        /*strict=*/false);
  }
  const auto weights = (arange(48).to(dtype) * (1.0 / 16)).view(kShape);
  const json& inputs = golden.cases().at("inputs");
  for (size_t step = 0; step < inputs.size(); ++step) {
    const json& expected = test.at("steps").at(step);
    const auto check = [&](const char* key, const Tensor& t) {
      golden::expect_close(t.to_vector(), golden.numbers(expected.at(key)), rtol, atol,
                           name + " step " + std::to_string(step) + " " + key);
    };
    layer.train(step < 3);
    layer.zero_grad();
    const auto x = golden.tensor(inputs.at(step), dtype).requires_grad_();
    const auto y = layer(x);
    sum(y * y * weights).backward();
    check("y", y);
    check("dx", x.grad());
    EXPECT_EQ(affine, expected.contains("dweight"));
    if (affine) {
      check("dweight", layer.weight.grad());
      check("dbias", layer.bias.grad());
    }
    EXPECT_EQ(layer.running_mean.defined(), expected.contains("running_mean"));
    if (!layer.running_mean.defined()) continue;
    check("running_mean", layer.running_mean);
    check("running_var", layer.running_var);
    EXPECT_EQ(layer.num_batches_tracked.item<int64_t>(), expected.at("num_batches_tracked"));
  }
}

TEST(BatchNorm2d, IsPyTorchs) {
  const golden::File golden("nn_golden.safetensors");
  const json& tests = golden.cases().at("batch_norms");
  ASSERT_EQ(tests.size(), 5u);
  for (const auto& test : tests) {
    run(golden, test, DType::kFloat64);
    run(golden, test, DType::kFloat32);
  }
}

TEST(BatchNorm2d, ParametersAndBuffers) {
  const BatchNorm2d layer(2);
  EXPECT_EQ(layer.named_parameters().size(), 2u);
  EXPECT_EQ(layer.named_buffers().size(), 3u);
  EXPECT_EQ(layer.weight.to_vector(), std::vector<double>({1, 1}));
  EXPECT_EQ(layer.bias.to_vector(), std::vector<double>({0, 0}));
  EXPECT_EQ(layer.running_mean.to_vector(), std::vector<double>({0, 0}));
  EXPECT_EQ(layer.running_var.to_vector(), std::vector<double>({1, 1}));
  EXPECT_EQ(layer.num_batches_tracked.dtype(), DType::kInt64);
  EXPECT_EQ(layer.num_batches_tracked.dim(), 0);
}

TEST(BatchNorm2d, EvaluationChangesNothing) {
  BatchNorm2d layer(3);
  layer.eval();
  const auto x = randn({2, 3, 4, 4});
  layer(x);
  EXPECT_EQ(layer.running_mean.to_vector(), std::vector<double>(3, 0.0));
  EXPECT_EQ(layer.num_batches_tracked.item<int64_t>(), 0);
}

TEST(BatchNorm2d, RefusesOtherThanFourDimensions) {
  BatchNorm2d layer(3);
  try {
    layer(zeros({2, 3}));
    ADD_FAILURE() << "no error";
  } catch (const ValueError& error) {
    EXPECT_EQ(std::string(error.what()), "expected 4D input (got 2D input)");
  }
}

}  // namespace
}  // namespace lockstep::nn
