#include <cmath>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/engine/tensor/factory.h"
#include "lockstep/optim/optim.h"

#include "optim/golden.h"

namespace lockstep::optim {
namespace {

// As optimizers() in golden.py. Values are of order one: an absolute tolerance is a relative one.
template <typename O>
void expect_trajectory(test::Golden& golden, const std::string& name,
                       const typename O::Options& options, const std::string& suffix,
                       const Tensor& start, const Tensor& grads) {
  const Tensor wanted = golden.take(name + "." + suffix);
  ASSERT_EQ(wanted.sizes(), grads.sizes());
  const double tolerance = suffix == "f32" ? 5e-7 : 1e-14;
  const Tensor p = start[0].clone().requires_grad_(), q = start[1].clone().requires_grad_();
  O optimizer({p, q}, options);
  for (int64_t t = 0; t < wanted.size(0); ++t) {
    p.set_grad(grads[t][0].clone());
    q.set_grad(t % 2 ? grads[t][1].clone() : Tensor());
    optimizer.step();
    for (int64_t i = 0; i < 2; ++i) {
      const auto got = (i == 0 ? p : q).to_vector(), want = wanted[t][i].to_vector();
      for (size_t j = 0; j < want.size(); ++j) {
        EXPECT_NEAR(got[j], want[j], tolerance * std::max(1.0, std::fabs(want[j])))
            << name << "." << suffix << ", update " << t << ", parameter " << i << ", element "
            << j;
      }
    }
  }
}

TEST(Optimizers, FollowPyTorch) {
  test::Golden golden("optimizers.safetensors");
  for (const std::string suffix : {"f32", "f64"}) {
    const Tensor start = golden.take("start." + suffix), grads = golden.take("grads." + suffix);
    const auto follow = [&]<typename O>(std::type_identity<O>, const std::string& name,
                                        const typename O::Options& options) {
      expect_trajectory<O>(golden, name, options, suffix, start, grads);
    };
    constexpr std::type_identity<SGD> kSgd;
    constexpr std::type_identity<Adam> kAdam;
    constexpr std::type_identity<RMSprop> kRmsprop;
    constexpr std::type_identity<Adagrad> kAdagrad;
    follow(kSgd, "sgd", {.lr = 0.1});
    follow(kSgd, "sgd_momentum",
           {.lr = 0.1, .momentum = 0.9, .dampening = 0.3, .weight_decay = 0.05});
    follow(kSgd, "sgd_nesterov", {.lr = 0.1, .momentum = 0.8, .nesterov = true, .maximize = true});
    follow(kAdam, "adam", {});
    follow(kAdam, "adam_amsgrad",
           {.lr = 0.05, .beta1 = 0.7, .beta2 = 0.9, .weight_decay = 0.1, .amsgrad = true});
    follow(std::type_identity<AdamW>(), "adamw", {.lr = 0.02});
    follow(kRmsprop, "rmsprop", {});
    follow(kRmsprop, "rmsprop_momentum",
           {.lr = 0.03, .alpha = 0.9, .eps = 1e-4, .weight_decay = 0.1, .momentum = 0.5});
    follow(kRmsprop, "rmsprop_centered", {.lr = 0.02, .alpha = 0.8, .centered = true});
    follow(kRmsprop, "rmsprop_all",
           {.lr = 0.02, .alpha = 0.8, .momentum = 0.7, .centered = true, .maximize = true});
    follow(kAdagrad, "adagrad", {});
    follow(kAdagrad, "adagrad_decay",
           {.lr = 0.1,
            .lr_decay = 0.2,
            .weight_decay = 0.1,
            .initial_accumulator_value = 0.3,
            .eps = 1e-3});
    follow(kAdagrad, "adagrad_maximize", {.lr = 0.1, .maximize = true});
  }
  EXPECT_EQ(golden.left(), "");
}

TEST(Optimizers, RefuseWhatPyTorchRefuses) {
  const auto text_of = [](const auto& call) -> std::string {
    try {
      call();
    } catch (const ValueError& error) {
      return error.what();
    }
    return "no error";
  };
  const Tensor p = tensor({1.0}, {.requires_grad = true});
  const std::string empty = "optimizer got an empty parameter list";
  EXPECT_EQ(text_of([] { RMSprop(std::vector<Tensor>{}); }), empty);
  EXPECT_EQ(text_of([] { Adagrad(std::vector<Tensor>{}); }), empty);
  EXPECT_EQ(text_of([] { RMSprop(std::vector<ParamGroup<RmspropOptions>>{}); }), empty);
  EXPECT_EQ(text_of([&] { RMSprop({p}, {.lr = -1}); }), "Invalid learning rate: -1");
  EXPECT_EQ(text_of([&] { RMSprop({p}, {.alpha = -1}); }), "Invalid alpha value: -1");
  EXPECT_EQ(text_of([&] { RMSprop({p}, {.momentum = -1}); }), "Invalid momentum value: -1");
  EXPECT_EQ(text_of([&] { Adagrad({p}, {.lr_decay = -1}); }), "Invalid lr_decay value: -1");
  EXPECT_EQ(text_of([&] { Adagrad({p}, {.eps = -1}); }), "Invalid epsilon value: -1");
}

// What autograd saved before an update must be noticed as changed after it.
TEST(Optimizers, CountAsWritesInPlace) {
  const auto version_after_step = [](auto make) {
    const Tensor p = tensor({1.0}, {.requires_grad = true});
    auto optimizer = make(p);
    p.sum().backward();
    const uint32_t before = p.version();
    optimizer.step();
    return p.version() - before;
  };
  EXPECT_GT(version_after_step([](const Tensor& p) { return SGD({p}); }), 0u);
  EXPECT_GT(version_after_step([](const Tensor& p) { return Adam({p}); }), 0u);
  EXPECT_GT(version_after_step([](const Tensor& p) { return RMSprop({p}); }), 0u);
  EXPECT_GT(version_after_step([](const Tensor& p) { return Adagrad({p}); }), 0u);
}

}  // namespace
}  // namespace lockstep::optim
