// What a graph keeps alive, by the allocator's own count.
#include "lockstep/engine/tensor/memory.h"

#include <gtest/gtest.h>

#include "lockstep/engine/autograd/backward.h"
#include "lockstep/engine/autograd/checkpoint.h"
#include "lockstep/engine/autograd/function.h"
#include "lockstep/engine/ops/ops.h"

namespace lockstep {
namespace {

TEST(Memory, CountsWhatTensorsHold) {
  const size_t before = memory_allocated();
  {
    const Tensor x = zeros({1 << 16});
    EXPECT_EQ(memory_allocated(), before + (size_t{4} << 16));
    const Tensor view = x.view({2, -1}), same = x;
    EXPECT_EQ(memory_allocated(), before + (size_t{4} << 16));
  }
  EXPECT_EQ(memory_allocated(), before);
  reset_peak_memory();
  EXPECT_EQ(max_memory_allocated(), before);
  (void)zeros({1 << 16});
  EXPECT_EQ(max_memory_allocated(), before + (size_t{4} << 16));
}

// Activations go as backward passes them, whatever optimizer-sized gradients come.
TEST(Memory, FallsAsBackwardProceeds) {
  constexpr int kLayers = 24, kBatch = 512, kWidth = 32;
  constexpr size_t kActivation = sizeof(float) * kBatch * kWidth;
  std::vector<Tensor> weights, biases;
  for (int i = 0; i < kLayers; ++i) {
    weights.push_back(mul(randn({kWidth, kWidth}), 0.2).detach().requires_grad_());
    biases.push_back(zeros({kWidth}, {.requires_grad = true}));
  }
  const size_t before = memory_allocated();
  std::vector<size_t> readings;
  std::vector<autograd::HookHandle> hooks;
  Tensor loss;
  {
    Tensor h = randn({kBatch, kWidth});
    for (int i = 0; i < kLayers; ++i) {
      h = relu(linear(h, weights[static_cast<size_t>(i)], biases[static_cast<size_t>(i)]));
      hooks.push_back(h.register_hook([&](const Tensor&) {
        readings.push_back(memory_allocated());
        return Tensor();
      }));
    }
    loss = h.sum();
  }
  const size_t after_forward = memory_allocated();
  EXPECT_GE(after_forward, before + kLayers * kActivation);
  reset_peak_memory();
  loss.backward();
  ASSERT_EQ(readings.size(), static_cast<size_t>(kLayers));
  for (size_t i = 2; i < readings.size(); ++i) {
    EXPECT_LT(readings[i] + kActivation / 2, readings[i - 1]) << "layer " << kLayers - i;
  }
  EXPECT_LE(max_memory_allocated(), after_forward + 4 * kActivation);
  constexpr size_t kGradients = kLayers * sizeof(float) * (kWidth * kWidth + kWidth);
  hooks.clear();
  loss = Tensor();
  EXPECT_LE(memory_allocated(), before + kGradients + size_t{64} * 2 * kLayers);
}

struct KeepsItsArgument : autograd::Function<KeepsItsArgument> {
  static Tensor forward(autograd::FunctionContext& context, const Tensor& x) {
    const Tensor y = x * 2;
    context.save_for_backward({x, y});
    return y;
  }
  static std::vector<Tensor> backward(autograd::FunctionContext&, const std::vector<Tensor>& g) {
    return {g[0] * 2};
  }
};

struct WritesItsArgument : autograd::Function<WritesItsArgument> {
  static Tensor forward(autograd::FunctionContext& context, const Tensor& x) {
    x.mul_(2);
    context.mark_dirty({x});
    context.save_for_backward({x});
    return x;
  }
  static std::vector<Tensor> backward(autograd::FunctionContext&, const std::vector<Tensor>& g) {
    return {g[0] * 2};
  }
};

// No graph owns itself: without any backward everything goes with the last handle.
TEST(Memory, GraphsWithoutBackwardGo) {
  const Tensor x = ones({1000}, {.requires_grad = true}), w = ones({1000}, {.requires_grad = true});
  const std::pair<const char*, void (*)(const Tensor&, const Tensor&)> graphs[] = {
      {"an input written in place later",
       [](const Tensor& x, const Tensor& w) {
         const Tensor y = x * 2;
         y.add_(y * w);
       }},
      {"the same by mul_",
       [](const Tensor& x, const Tensor& w) {
         const Tensor y = x * 2;
         y.mul_(y * w);
       }},
      {"a tensor that joins the graph",
       [](const Tensor&, const Tensor& w) {
         const Tensor y = zeros({1000});
         y.add_(y * w);
       }},
      {"through a view",
       [](const Tensor& x, const Tensor& w) {
         const Tensor y = x * 2;
         const Tensor part = y.narrow(0, 0, 500);
         part.add_(part * w.narrow(0, 0, 500));
         y.mul_(exp(y));
       }},
      {"a result written in place later",
       [](const Tensor& x, const Tensor&) {
         const Tensor y = exp(x);
         y.add_(tanh(y));
         y.relu_();
       }},
      {"copied into",
       [](const Tensor& x, const Tensor& w) {
         const Tensor y = x * 2;
         y.copy_(y * w);
         y.index_put_({tensor({1})}, y.narrow(0, 0, 1) * y.narrow(0, 1, 1));
         y.masked_fill_(gt(y, 0), y.sum());
       }},
      {"a custom function",
       [](const Tensor& x, const Tensor&) {
         const Tensor y = KeepsItsArgument::apply(x * 2);
         y.add_(KeepsItsArgument::apply(y));
       }},
      {"a custom function that writes",
       [](const Tensor& x, const Tensor&) {
         const Tensor y = x * 2;
         WritesItsArgument::apply(y);
         WritesItsArgument::apply(y.narrow(0, 0, 500));
       }},
      {"checkpoints",
       [](const Tensor& x, const Tensor& w) {
         const auto inner = [&w](const std::vector<Tensor>& in) { return exp(in[0] * w); };
         const auto outer = [&inner](const std::vector<Tensor>& in) {
           const Tensor y = autograd::checkpoint(inner, {in[0] * 2});
           return y.add_(autograd::checkpoint(inner, {y.clone()}));
         };
         autograd::checkpoint(outer, {x * 2});
       }},
      {"second derivatives",
       [](const Tensor& x, const Tensor& w) {
         const Tensor y = exp(x * w);
         const Tensor g = autograd::grad(y.sum(), {x}, {.create_graph = true})[0];
         g.mul_(g * y);
       }},
  };
  for (const auto& [what, graph] : graphs) {
    graph(x, w);  // whatever is made once
    const size_t before = memory_allocated();
    for (int i = 0; i < 3; ++i) graph(x, w);
    EXPECT_EQ(memory_allocated(), before) << what;
  }
}

}  // namespace
}  // namespace lockstep
