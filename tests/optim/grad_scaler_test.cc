#include "lockstep/optim/grad_scaler.h"

#include <limits>

#include <gtest/gtest.h>

#include "lockstep/engine/ops/ops.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/optim/sgd.h"

#include "engine/throws.h"

namespace lockstep::optim {
namespace {

using lockstep::testing::error_of;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

TEST(LossScale, BacksOffAtOnceAndGrowsAfterAnInterval) {
  LossScale scale({.init_scale = 8.0, .growth_interval = 3});
  const bool found[] = {false, false, true, false, false, false, false, false, true, true, false};
  const double values[] = {8, 8, 4, 4, 4, 8, 8, 8, 4, 2, 2};
  for (size_t i = 0; i < std::size(found); ++i) {
    scale.update(found[i]);
    EXPECT_EQ(scale.value(), values[i]) << i;
  }
  EXPECT_EQ(scale.growth_tracker(), 1);
  // What would not be finite is not taken.
  LossScale large({.init_scale = 0x1p127, .growth_interval = 1});
  large.update(false);
  EXPECT_EQ(large.value(), 0x1p127);
  EXPECT_EQ(large.growth_tracker(), 0);
  EXPECT_EQ(LossScale().value(), 65536.0);
  EXPECT_EQ(LossScale().options().growth_interval, 2000);
  EXPECT_EQ(error_of([] { LossScale({.growth_factor = 1.0}); }),
            "The growth factor must be > 1.0.");
  EXPECT_EQ(error_of([] { LossScale({.backoff_factor = 1.0}); }),
            "The backoff factor must be < 1.0.");
}

struct Fixture : ::testing::Test {
  Tensor w = tensor({1.0, 2.0}, {.requires_grad = true});
  SGD sgd{std::vector<Tensor>{w}, {.lr = 0.5}};
  GradScaler scaler{{.init_scale = 4.0, .growth_interval = 2}};
  // Gradients (factor, 3).
  void backward(double factor) {
    sgd.zero_grad();
    scaler.scale((w * tensor({factor, 3.0})).sum()).backward();
  }
};
using GradScalerTest = Fixture;

TEST_F(GradScalerTest, StepsWithUnscaledGradients) {
  backward(1.0);
  EXPECT_EQ(w.grad().to_vector(), (std::vector<double>{4, 12}));
  EXPECT_TRUE(scaler.step(sgd));
  EXPECT_EQ(w.grad().to_vector(), (std::vector<double>{1, 3}));
  EXPECT_EQ(w.to_vector(), (std::vector<double>{0.5, 0.5}));
  scaler.update();
  EXPECT_EQ(scaler.get_scale(), 4.0);
  backward(1.0);
  scaler.unscale_(sgd);
  EXPECT_EQ(w.grad().to_vector(), (std::vector<double>{1, 3}));
  EXPECT_TRUE(scaler.step(sgd));
  EXPECT_EQ(w.grad().to_vector(), (std::vector<double>{1, 3}));
  scaler.update();
  EXPECT_EQ(scaler.get_scale(), 8.0);
  scaler.update(3.0);
  EXPECT_EQ(scaler.get_scale(), 3.0);
}

TEST_F(GradScalerTest, SkipsWhatIsNotFinite) {
  scaler.scale(w);
  for (const double bad : {kInfinity, -kInfinity, kNan, 2e38}) {  // four times that is infinite
    scaler.update(4.0);
    backward(bad);
    EXPECT_FALSE(scaler.step(sgd)) << bad;
    EXPECT_EQ(w.to_vector(), (std::vector<double>{1, 2}));
    scaler.update();
    EXPECT_EQ(scaler.get_scale(), 2.0) << bad;
  }
  // Large but finite, though its square is not.
  scaler.update(1.0);
  backward(1e38);
  EXPECT_TRUE(scaler.step(sgd));
  const Tensor v = tensor({1.0}, {.requires_grad = true, .dtype = DType::kFloat64});
  SGD other(std::vector<Tensor>{v}, {.lr = 1e-200});
  scaler.scale(v * 1e200).backward();
  EXPECT_TRUE(scaler.step(other));
}

TEST_F(GradScalerTest, OneOverflowOfSeveralOptimizersCountsForAll) {
  const Tensor v = tensor({1.0}, {.requires_grad = true});
  SGD other(std::vector<Tensor>{v}, {.lr = 0.5});
  backward(kInfinity);
  scaler.scale(v.sum()).backward();
  EXPECT_FALSE(scaler.step(sgd));
  EXPECT_TRUE(scaler.step(other));
  EXPECT_EQ(v.item(), 0.5);
  scaler.update();
  EXPECT_EQ(scaler.get_scale(), 2.0);
}

TEST_F(GradScalerTest, WrongOrdersHavePyTorchsTexts) {
  const std::string fix =
      " but _scale is None.  This may indicate your script did not use scaler.scale(loss or "
      "outputs) earlier in the iteration.";
  EXPECT_EQ(error_of([&] { scaler.unscale_(sgd); }), "Attempted unscale_" + fix);
  EXPECT_EQ(error_of([&] { scaler.step(sgd); }), "Attempted step" + fix);
  EXPECT_EQ(error_of([&] { scaler.update(); }), "Attempted update" + fix);
  backward(1.0);
  EXPECT_EQ(error_of([&] { scaler.update(); }), "No inf checks were recorded prior to update.");
  scaler.unscale_(sgd);
  EXPECT_EQ(error_of([&] { scaler.unscale_(sgd); }),
            "unscale_() has already been called on this optimizer since the last update().");
  scaler.step(sgd);
  EXPECT_EQ(error_of([&] { scaler.unscale_(sgd); }), "unscale_() is being called after step().");
  EXPECT_EQ(error_of([&] { scaler.step(sgd); }),
            "step() has already been called since the last update().");
  scaler.update();
  sgd.zero_grad();
  EXPECT_EQ(error_of([&] { scaler.step(sgd); }), "No inf checks were recorded for this optimizer.");
}

TEST_F(GradScalerTest, StateGoesToAnother) {
  backward(1.0);
  scaler.step(sgd);
  scaler.update();
  const auto state = scaler.state_dict();
  EXPECT_EQ(state, (std::map<std::string, double>{{"scale", 4.0},
                                                  {"growth_factor", 2.0},
                                                  {"backoff_factor", 0.5},
                                                  {"growth_interval", 2.0},
                                                  {"_growth_tracker", 1.0}}));
  GradScaler other;
  other.load_state_dict(state);
  EXPECT_EQ(other.state_dict(), state);
  EXPECT_EQ(error_of([&] { other.load_state_dict({}); }),
            "The source state dict is empty, possibly because it was saved from a disabled "
            "instance of GradScaler.");
  EXPECT_EQ(error_of([&] {
              other.load_state_dict({{"scale", 1.0}});
            }),
            "[grad_scaler] the state dict has no \"growth_factor\"");
  EXPECT_EQ(other.state_dict(), state);
}

TEST_F(GradScalerTest, DisabledItDoesNothing) {
  GradScaler off({}, false);
  const Tensor loss = (w * 3.0).sum();
  EXPECT_TRUE(off.scale(loss).is_same(loss));
  loss.backward();
  off.unscale_(sgd);
  EXPECT_TRUE(off.step(sgd));
  off.update();
  EXPECT_EQ(w.to_vector(), (std::vector<double>{-0.5, 0.5}));
  EXPECT_EQ(off.get_scale(), 1.0);
  EXPECT_TRUE(off.state_dict().empty());
  EXPECT_FALSE(off.is_enabled());
}

}  // namespace
}  // namespace lockstep::optim
