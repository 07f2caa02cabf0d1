#include "lockstep/optim/clip.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "lockstep/engine/tensor/factory.h"

#include "golden/golden.h"

namespace lockstep::optim {
namespace {

using nlohmann::json;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

Tensor parameter(const Tensor& gradient) {
  const auto p = zeros(gradient.sizes(), {gradient.dtype()}).requires_grad_();
  p.set_grad(gradient);
  return p;
}

Tensor parameter(const std::vector<double>& gradient, DType dtype = DType::kFloat64) {
  return parameter(
      from_span(std::span(gradient), {static_cast<int64_t>(gradient.size())}).to(dtype).clone());
}

TEST(Clip, IsPyTorchs) {
  const golden::File golden("optim_golden.safetensors");
  const json& tests = golden.cases().at("clip");
  ASSERT_EQ(tests.size(), 5u);
  for (const auto& test : tests) {
    std::vector<Tensor> parameters;
    for (const auto& g : golden.cases().at("grads").at(3)) {
      parameters.push_back(g.is_null() ? zeros({2}, {DType::kFloat64}).requires_grad_()
                                       : parameter(golden.tensor(g)));
    }
    if (test.contains("max_norm")) {
      const double norm = clip_grad_norm_(parameters, test.at("max_norm"));
      EXPECT_NEAR(norm, test.at("norm").get<double>(), 1e-12 * norm);
    } else {
      clip_grad_value_(parameters, test.at("limit"));
    }
    for (size_t i = 0; i < parameters.size(); ++i) {
      const json& expected = test.at("grads").at(i);
      ASSERT_EQ(parameters[i].grad().defined(), !expected.is_null());
      if (expected.is_null()) continue;
      golden::expect_close(parameters[i].grad().to_vector(), golden.numbers(expected), 1e-13, 0.0,
                           test.dump());
    }
  }
}

TEST(Clip, NormRunsOverAllParametersAndDtypes) {
  const auto a = parameter({3.0, 0.0}, DType::kFloat32);
  const auto b = parameter({0.0, 4.0}, DType::kFloat64);
  const Tensor grad = a.grad();
  EXPECT_DOUBLE_EQ(clip_grad_norm_({a, b}, 1.0), 5.0);
  EXPECT_TRUE(grad.is_same(a.grad())) << "scaled in place";
  EXPECT_NEAR(a.grad().to_vector()[0], 0.6, 1e-6);
  EXPECT_NEAR(b.grad().to_vector()[1], 0.8, 1e-6);
}

TEST(Clip, NormOfManyElementsIsAccurate) {
  constexpr int64_t kCount = 1'000'003;
  const auto p = zeros({kCount}).requires_grad_();
  p.set_grad(full({kCount}, 0.1));
  const double expected = std::sqrt(static_cast<double>(kCount)) * static_cast<double>(0.1f);
  EXPECT_NEAR(clip_grad_norm_({p}, 1e9), expected, 1e-6 * expected);
  EXPECT_EQ(p.grad().to_vector()[kCount - 1], static_cast<double>(0.1f));
}

TEST(Clip, WithoutGradientsTheNormIsZero) {
  EXPECT_EQ(clip_grad_norm_({ones({2}).requires_grad_()}, 1.0), 0.0);
  EXPECT_EQ(clip_grad_norm_({}, 1.0), 0.0);
}

TEST(Clip, NonFiniteNorms) {
  const auto p = parameter({kInfinity, 1.0});
  EXPECT_THROW(clip_grad_norm_({p}, 1.0, true), Error);
  EXPECT_EQ(p.grad().to_vector()[1], 1.0) << "an error changes nothing";
  EXPECT_EQ(clip_grad_norm_({p}, 1.0), kInfinity);
  EXPECT_EQ(p.grad().to_vector()[1], 0.0);  // 1 / inf
  const auto q = parameter({std::nan(""), 1.0});
  EXPECT_TRUE(std::isnan(clip_grad_norm_({q}, 1.0)));
  EXPECT_TRUE(std::isnan(q.grad().to_vector()[1])) << "a NaN spreads, as PyTorch's does";
}

TEST(Clip, ValueClampsBothSides) {
  const auto p = parameter({-2.0, -0.25, 0.0, 0.5, 3.0}, DType::kFloat32);
  clip_grad_value_({p, ones({1}).requires_grad_()}, 0.5);
  EXPECT_EQ(p.grad().to_vector(), std::vector<double>({-0.5, -0.25, 0.0, 0.5, 0.5}));
  EXPECT_THROW(clip_grad_value_({p}, -1.0), ValueError);
}

}  // namespace
}  // namespace lockstep::optim
