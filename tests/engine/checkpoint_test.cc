// Activation checkpointing: the gradients of the plain function, with the same random numbers.
#include "lockstep/engine/autograd/checkpoint.h"

#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/engine/autograd/backward.h"
#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/autograd/gradcheck.h"
#include "lockstep/engine/ops/ops.h"
#include "lockstep/engine/tensor/memory.h"
#include "lockstep/engine/tensor/random.h"

#include "engine/throws.h"

namespace lockstep {
namespace {

using lockstep::testing::error_of;

Tensor leaf(const Dims& sizes) {
  return randn(sizes, {.dtype = DType::kFloat64, .requires_grad = true});
}

TEST(Checkpoint, GivesTheSameGradientsWithTheSameRandomNumbers) {
  manual_seed(3);
  const Tensor w = leaf({4, 4}), x = leaf({2, 4});
  int calls = 0;
  const auto function = [&](const std::vector<Tensor>& in) {
    ++calls;
    return dropout(relu(matmul(tanh(matmul(in[0], w)), w)), 0.5, true);
  };
  const RandomState state = random_state();
  function({x}).sum().backward();
  const auto plain_w = w.grad().to_vector(), plain_x = x.grad().to_vector();
  const Tensor next = rand({2});
  w.set_grad({});
  x.set_grad({});
  set_random_state(state);
  int accumulated = 0;
  const auto counter = w.register_post_accumulate_grad_hook([&](const Tensor&) { ++accumulated; });
  const Tensor y = autograd::checkpoint(function, {x});
  EXPECT_EQ(calls, 2);
  y.sum().backward();
  EXPECT_EQ(calls, 3);
  EXPECT_EQ(accumulated, 1);
  EXPECT_EQ(w.grad().to_vector(), plain_w);
  EXPECT_EQ(x.grad().to_vector(), plain_x);
  EXPECT_EQ(rand({2}).to_vector(), next.to_vector());  // backward left the generator alone
}

TEST(Checkpoint, NoticesAnotherComputation) {
  const Tensor x = tensor({1.0}, {.requires_grad = true});
  bool first = true;
  const Tensor y = autograd::checkpoint(
      [&](const std::vector<Tensor>& in) {
        const Tensor once = exp(in[0]);
        return std::exchange(first, false) ? exp(once) : once;
      },
      {x});
  EXPECT_NE(error_of([&] { y.backward(); }).find("it must compute the same thing both times"),
            std::string::npos);
}

// What a function gives, plain and checkpointed, from the same generator: its result, the gradients
// of its inputs and the next random number.
using Function = autograd::CheckpointedFunction;
std::vector<std::vector<double>> outcome(const Function& function, std::vector<Tensor> inputs,
                                         bool checkpointed) {
  for (Tensor& x : inputs) x = x.detach().clone().requires_grad_(x.requires_grad());
  manual_seed(11);
  const Tensor y = checkpointed ? autograd::checkpoint(function, inputs) : function(inputs);
  y.sum().backward();
  std::vector<std::vector<double>> all = {y.to_vector()};
  for (const Tensor& x : inputs) {
    all.push_back(x.grad().defined() ? x.grad().to_vector() : std::vector<double>{});
  }
  all.push_back(rand({2}).to_vector());
  return all;
}

Tensor layer(const Tensor& x) { return dropout(tanh(x * x), 0.5, true); }

TEST(Checkpoint, Nests) {
  int inner_calls = 0, outer_calls = 0;
  const Function inner = [&](const std::vector<Tensor>& in) {
    ++inner_calls;
    return layer(layer(in[0]));
  };
  const Function plain = [&](const std::vector<Tensor>& in) {
    return layer(inner({layer(in[0])}) * in[0]);
  };
  const Function nested = [&](const std::vector<Tensor>& in) {
    ++outer_calls;
    return layer(autograd::checkpoint(inner, {layer(in[0])}) * in[0]);
  };
  const std::vector<Tensor> inputs = {leaf({6})};
  const auto expected = outcome(plain, inputs, false);
  inner_calls = outer_calls = 0;
  EXPECT_EQ(outcome(nested, inputs, true), expected);
  EXPECT_EQ(outer_calls, 2);
  EXPECT_EQ(inner_calls, 3);  // in forward, when the outer one runs again, and for its own backward
}

// The inputs of the inner call are activations of the outer one, which keeps none.
TEST(Checkpoint, KeepsNoActivationsOfNestedCalls) {
  constexpr int64_t kElements = 100000;
  const Tensor x = ones({kElements}, {.requires_grad = true});
  const Function inner = [](const std::vector<Tensor>& in) { return sin(sin(in[0])); };
  const size_t before = memory_allocated();
  const Tensor y = autograd::checkpoint(
      [&](const std::vector<Tensor>& in) {
        return autograd::checkpoint(inner, {sin(in[0])}) * 2.0;
      },
      {x});
  EXPECT_LT(memory_allocated(), before + kElements * sizeof(float) * 3 / 2) << "y, and no more";
  y.sum().backward();
  EXPECT_TRUE(x.grad().defined());
}

TEST(Checkpoint, InputsWithoutGradient) {
  const Function function = [](const std::vector<Tensor>& in) {
    const Tensor rows = index_select(in[0], 0, in[1]);
    return layer(in[3].defined() ? rows : rows * in[2]);
  };
  const std::vector<Tensor> inputs = {leaf({4, 3}), tensor({2, 0, 2}), leaf({3}).detach(),
                                      Tensor()};
  const auto run = [&](bool checkpointed) {
    const Tensor x = inputs[0].detach().clone().requires_grad_();
    const std::vector<Tensor> in = {x, inputs[1], inputs[2], inputs[3]};
    manual_seed(5);
    (checkpointed ? autograd::checkpoint(function, in) : function(in)).sum().backward();
    EXPECT_FALSE(inputs[2].grad().defined());
    return x.grad().to_vector();
  };
  EXPECT_EQ(run(true), run(false));
  // With none that needs one, a parameter that the function holds still gets its gradient.
  const Tensor w = leaf({3});
  const Tensor y = autograd::checkpoint(
      [&](const std::vector<Tensor>& in) { return tanh(in[0] * w); }, {inputs[2]});
  y.sum().backward();
  const Tensor expected = autograd::grad(tanh(inputs[2] * w).sum(), {w})[0];
  EXPECT_EQ(w.grad().to_vector(), expected.to_vector());
}

TEST(Checkpoint, WithoutGradModeItIsTheFunction) {
  int calls = 0;
  const Function function = [&](const std::vector<Tensor>& in) {
    ++calls;
    return layer(in[0]);
  };
  const Tensor x = leaf({6});
  manual_seed(7);
  const Tensor expected = function({x});
  calls = 0;
  manual_seed(7);
  const autograd::NoGrad no_grad;
  const size_t before = memory_allocated();
  const Tensor y = autograd::checkpoint(function, {x});
  EXPECT_EQ(y.to_vector(), expected.to_vector());
  EXPECT_FALSE(y.requires_grad());
  EXPECT_EQ(calls, 1);
  EXPECT_LE(memory_allocated(), before + 2 * 64) << "only the result is kept";
}

TEST(Checkpoint, RetainsAndDifferentiatesTwice) {
  const Function function = [](const std::vector<Tensor>& in) { return sin(in[0] * in[1]); };
  const auto checkpointed = [&](const std::vector<Tensor>& in) {
    return autograd::checkpoint(function, in);
  };
  autograd::gradcheck(checkpointed, {leaf({3}), leaf({3})});
  autograd::gradgradcheck(checkpointed, {leaf({3}), leaf({3})});
  const Tensor x = leaf({3}), y = leaf({3});
  const Tensor sum = checkpointed({x, y}).sum();
  sum.backward({}, true);
  const auto once = x.grad().to_vector();
  sum.backward();
  for (size_t i = 0; i < once.size(); ++i) EXPECT_EQ(x.grad().to_vector()[i], 2 * once[i]);
  EXPECT_NE(error_of([&] { sum.backward(); }).find("a second time"), std::string::npos);
}

TEST(Checkpoint, NoticesInputsThatChanged) {
  const Tensor x = leaf({3}) * 1.0;
  const Tensor y =
      autograd::checkpoint([](const std::vector<Tensor>& in) { return sin(in[0]); }, {x});
  x.add_(1);
  EXPECT_NE(error_of([&] { y.sum().backward(); }).find("modified by an inplace operation"),
            std::string::npos);
}

TEST(Checkpoint, AnErrorLeavesTheGeneratorAlone) {
  bool first = true;
  const Tensor x = leaf({3});
  const Tensor y = autograd::checkpoint(
      [&](const std::vector<Tensor>& in) {
        const Tensor noisy = layer(in[0]);
        if (!std::exchange(first, false)) throw Error("not again");
        return noisy;
      },
      {x});
  rand({1});  // the generator is elsewhere by now
  const RandomState before = random_state();
  EXPECT_ERROR(y.sum().backward(), "not again");
  EXPECT_EQ(random_state().ordinal, before.ordinal);
}

}  // namespace
}  // namespace lockstep
