#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/engine/tensor/factory.h"
#include "lockstep/optim/optim.h"

#include "optim/golden.h"

namespace lockstep::optim {
namespace {

using Schedules = std::vector<std::unique_ptr<Schedule>>;

constexpr int kSteps = 40;

// Two groups, as groups() in golden.py.
template <typename O>
O two_groups() {
  typename O::Options first, second;
  first.lr = 0.1;
  second.lr = 0.02;
  if constexpr (std::is_same_v<O, SGD>) first.momentum = second.momentum = 0.9;
  return O(std::vector<ParamGroup<typename O::Options>>{
      {{zeros({2}, {.requires_grad = true})}, first},
      {{zeros({3}, {.requires_grad = true})}, second}});
}

template <typename... S>
Schedules list(S... schedules) {
  Schedules result;
  (result.push_back(std::move(schedules)), ...);
  return result;
}

// Row t of `golden` holds the groups' learning rates and momenta after t steps.
void expect_row(Optimizer& optimizer, const std::vector<double>& golden, int t,
                const std::string& name) {
  const auto groups = optimizer.rates();
  ASSERT_EQ(groups.size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    const size_t at = 4 * static_cast<size_t>(t) + i;
    EXPECT_DOUBLE_EQ(*groups[i].lr, golden[at]) << name << ", step " << t << ", group " << i;
    EXPECT_DOUBLE_EQ(*groups[i].momentum, golden[at + 2]) << name << ", step " << t;
  }
}

void expect_trajectory(test::Golden& golden, const std::string& name, Optimizer& optimizer,
                       const std::function<Schedules()>& make) {
  const std::vector<double> rows = golden.take(name).to_vector();
  ASSERT_EQ(rows.size(), size_t{4 * (kSteps + 1)});
  const Schedules schedules = make();
  expect_row(optimizer, rows, 0, name);
  for (int t = 1; t <= kSteps; ++t) {
    for (const auto& schedule : schedules) schedule->step();
    expect_row(optimizer, rows, t, name);
    EXPECT_EQ(schedules.back()->last_epoch(), t);
    EXPECT_EQ(schedules.back()->last_lr()[1], *optimizer.rates()[1].lr);
  }
}

TEST(Schedules, FollowPyTorch) {
  test::Golden golden("schedules.safetensors");
  const auto with = [&]<typename O>(O o, const std::string& name, auto make) {
    expect_trajectory(golden, name, o, [&] { return make(o); });
  };
  const auto sgd = [&](const std::string& name, auto make) { with(two_groups<SGD>(), name, make); };
  const auto one = [&]<typename S>(std::type_identity<S>, auto... args) {
    return [=](Optimizer& o) { return list(std::make_unique<S>(o, args...)); };
  };
  sgd("step", one(std::type_identity<StepLR>(), 3, 0.5));
  sgd("multi_step", one(std::type_identity<MultiStepLR>(), std::vector<int64_t>{9, 2, 5, 5}, 0.3));
  sgd("exponential", one(std::type_identity<ExponentialLR>(), 0.9));
  sgd("linear", one(std::type_identity<LinearLR>()));
  sgd("linear_down", one(std::type_identity<LinearLR>(), LinearLROptions{0.9, 0.2, 7}));
  sgd("lambda", one(std::type_identity<LambdaLR>(), [](int64_t t) { return std::pow(0.95, t); }));
  sgd("lambdas", one(std::type_identity<LambdaLR>(),
                     std::vector<LambdaLR::Factor>{
                         [](int64_t t) { return 1.0 / static_cast<double>(1 + t); },
                         [](int64_t t) { return std::ldexp(1.0, -static_cast<int>(t / 4)); }}));
  sgd("cosine", one(std::type_identity<CosineAnnealingLR>(), 8, 0.001));
  sgd("cosine_long", one(std::type_identity<CosineAnnealingLR>(), 40));
  sgd("warm_restarts", one(std::type_identity<CosineAnnealingWarmRestarts>(), 5));
  sgd("warm_restarts_longer",
      one(std::type_identity<CosineAnnealingWarmRestarts>(), 3, WarmRestartsOptions{2, 0.005}));
  sgd("one_cycle", one(std::type_identity<OneCycleLR>(), 0.5, kSteps));
  sgd("one_cycle_three_phase",
      one(std::type_identity<OneCycleLR>(), 0.5, kSteps,
          OneCycleOptions{.pct_start = 0.25, .anneal = Anneal::kLinear, .three_phase = true}));
  with(two_groups<Adam>(), "one_cycle_adam",
       one(std::type_identity<OneCycleLR>(), std::vector<double>{0.1, 0.2}, kSteps + 3,
           OneCycleOptions{.pct_start = 0.4,
                           .base_momentum = 0.8,
                           .max_momentum = 0.99,
                           .div_factor = 10.0,
                           .final_div_factor = 100.0}));
  sgd("one_cycle_fixed_momentum",
      one(std::type_identity<OneCycleLR>(), 0.5, kSteps, OneCycleOptions{.cycle_momentum = false}));
  sgd("chained", [](Optimizer& o) {
    return list(std::make_unique<LinearLR>(o, LinearLROptions{0.25, 1.0, 4}),
                std::make_unique<ExponentialLR>(o, 0.9), std::make_unique<StepLR>(o, 10));
  });
  sgd("warmup_cosine", [](Optimizer& o) {
    return list(std::make_unique<LinearLR>(o, LinearLROptions{0.1, 1.0, 5}),
                std::make_unique<CosineAnnealingLR>(o, 20));
  });

  const std::vector<double> metrics = golden.take("metrics").to_vector();
  ASSERT_EQ(metrics.size(), size_t{kSteps});
  const auto plateau = [&](const std::string& name, const PlateauOptions& options) {
    auto optimizer = two_groups<SGD>();
    ReduceLROnPlateau schedule(optimizer, options);
    const std::vector<double> rows = golden.take(name).to_vector();
    for (int t = 0; t < kSteps; ++t) {
      expect_row(optimizer, rows, t, name);
      schedule.step(metrics[static_cast<size_t>(t)]);
    }
    expect_row(optimizer, rows, kSteps, name);
    EXPECT_LT(schedule.last_lr()[0], 0.1) << name << " never reduced anything";
  };
  plateau("plateau", {.patience = 2});
  plateau("plateau_max", {.larger_is_better = true,
                          .factor = 0.5,
                          .patience = 1,
                          .threshold = 0.05,
                          .relative_threshold = false,
                          .cooldown = 2,
                          .min_lr = 0.01});
  plateau("plateau_eps", {.factor = 0.5, .patience = 0, .relative_threshold = false, .eps = 0.004});
  plateau("plateau_max_rel",
          {.larger_is_better = true, .factor = 0.8, .patience = 3, .threshold = 0.01});
  EXPECT_EQ(golden.left(), "");
}

TEST(Schedules, DriveTheOptimizer) {
  const Tensor p = tensor({1.0}, {.requires_grad = true});
  SGD sgd({p}, {.lr = 1.0});
  ExponentialLR schedule(sgd, 0.5);
  for (const double expected : {0.0, -0.5, -0.75}) {
    sgd.zero_grad();
    p.sum().backward();
    sgd.step();
    schedule.step();
    EXPECT_EQ(p.item(), expected);
  }
}

TEST(Schedules, RefuseWhatPyTorchRefuses) {
  const auto text_of = [](const auto& call) -> std::string {
    try {
      call();
    } catch (const ValueError& error) {
      return error.what();
    }
    return "no error";
  };
  auto sgd = two_groups<SGD>();
  EXPECT_EQ(text_of([&] { OneCycleLR(sgd, 0.1, 0); }),
            "Expected positive integer total_steps, but got 0");
  EXPECT_EQ(text_of([&] { OneCycleLR(sgd, 0.1, 5, {.pct_start = 1.5}); }),
            "Expected float between 0 and 1 pct_start, but got 1.5");
  EXPECT_EQ(text_of([&] { OneCycleLR(sgd, std::vector<double>{0.1}, 5); }),
            "expected 2 values for max_lr, got 1");
  EXPECT_EQ(text_of([&] {
              OneCycleLR schedule(sgd, 0.1, 2);
              for (int i = 0; i < 3; ++i) schedule.step();
            }),
            "Tried to step 4 times. The specified number of total steps is 2");
  auto adagrad = two_groups<Adagrad>();
  EXPECT_EQ(text_of([&] { OneCycleLR(adagrad, 0.1, 5); }),
            "optimizer must support momentum with `cycle_momentum` option enabled");
  EXPECT_EQ(text_of([&] { OneCycleLR(adagrad, 0.1, 5, {.cycle_momentum = false}); }), "no error");
  EXPECT_EQ(text_of([&] { ReduceLROnPlateau(sgd, {.factor = 1.0}); }), "Factor should be < 1.0.");
  EXPECT_EQ(text_of([&] { CosineAnnealingWarmRestarts(sgd, 0); }),
            "Expected positive integer T_0, but got 0");
  EXPECT_EQ(text_of([&] { LambdaLR(sgd, std::vector<LambdaLR::Factor>(3)); }),
            "Expected 2 lr_lambdas, but got 3");
  EXPECT_NE(text_of([&] { LinearLR(sgd, {.start_factor = 0}); }), "no error");
  EXPECT_NE(text_of([&] { StepLR(sgd, 0); }), "no error");
  EXPECT_NE(text_of([&] { CosineAnnealingLR(sgd, 0); }), "no error");
}

}  // namespace
}  // namespace lockstep::optim
