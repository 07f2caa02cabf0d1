// Chains of a million nodes: nothing recurses over them, and nothing takes longer per node than
// over a few.
#include <cmath>
#include <string>

#include <gtest/gtest.h>

#include "lockstep/engine/autograd/backward.h"
#include "lockstep/engine/autograd/checkpoint.h"
#include "lockstep/engine/autograd/picture.h"
#include "lockstep/engine/ops/ops.h"

namespace lockstep::testing {
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr int kNodes = 20000;  // whose larger frames would overflow the stack, too
#else
constexpr int kNodes = 1000000;
#endif

TEST(LongChain, RunsAndGoes) {
  const Tensor x = tensor(1.0, {.requires_grad = true});
  {
    Tensor y = x;
    for (int i = 0; i < kNodes; ++i) y = y + 1;
    y.backward();
    EXPECT_EQ(x.grad().item(), 1);
  }  // and is destroyed without recursion
  {
    Tensor y = x;
    for (int i = 0; i < kNodes; ++i) y = y * 1;
  }  // a graph that was never run
  {
    Tensor y = x.view({1});
    for (int i = 0; i < kNodes / 2; ++i) y = (y * 1).view({1});
  }  // views
}

// What a node saves leads on to the nodes before it, too.
TEST(LongChain, WithSavedTensors) {
  const Tensor x = tensor(1.0, {.requires_grad = true}), w = tensor(0.5, {.requires_grad = true});
  const auto chain = [&] {
    Tensor y = x;
    for (int i = 0; i < kNodes / 2; ++i) y = sigmoid(y * w);
    return y;
  };
  Tensor y = chain();
  y.backward({}, true);
  y.backward();
  EXPECT_TRUE(std::isfinite(w.grad().item()) && w.grad().item() != 0);
  y = Tensor();
  chain();  // destroyed with all that it saved
}

// Backward with create_graph makes a graph as long again, which leads back into the first.
TEST(LongChain, TwiceDifferentiated) {
  const Tensor x = tensor(2.0, {.requires_grad = true, .dtype = DType::kFloat64});
  {
    Tensor y = x * x;
    for (int i = 0; i < kNodes; ++i) y = y * 1;
    const Tensor first = autograd::grad(y, {x}, {.create_graph = true})[0];
    EXPECT_EQ(first.item(), 4);
    first.backward();
    EXPECT_EQ(x.grad().item(), 2);
    EXPECT_EQ(autograd::grad(x * x, {x})[0].item(), 4);
  }
  // With saved tensors in both: y = sin(sin(...)), from the end to the start and once more.
  x.set_grad({});
  {
    Tensor y = x;
    for (int i = 0; i < 150000; ++i) y = sin(y);
    const Tensor first = autograd::grad(y, {x}, {.create_graph = true})[0];
    const Tensor second = autograd::grad(first, {x}, {.create_graph = true})[0];
    EXPECT_TRUE(std::isfinite(second.item()));
  }
  {
    Tensor y = x;
    for (int i = 0; i < 150000; ++i) y = sin(y);
    autograd::grad(y, {x}, {.create_graph = true});  // never run
  }
}

TEST(LongChain, InPlace) {
  const Tensor x = tensor(1.0, {.requires_grad = true});
  const Tensor y = x * 1, part = y.view({1});
  for (int i = 0; i < 3 * kNodes / 10; ++i) y.mul_(1);
  for (int i = 0; i < kNodes / 10; ++i) part.add_(1);
  y.backward();
  EXPECT_EQ(x.grad().item(), 1);
}

TEST(LongChain, OfCheckpoints) {
  const Tensor x = tensor(1.0, {.requires_grad = true});
  const auto step = [](const std::vector<Tensor>& in) { return sin(in[0]); };
  Tensor y = x;
  for (int i = 0; i < kNodes / 10; ++i) y = autograd::checkpoint(step, {y});
  y.backward();
  EXPECT_TRUE(std::isfinite(x.grad().item()));
  y = x;
  for (int i = 0; i < kNodes / 10; ++i) y = autograd::checkpoint(step, {y});
}

TEST(LongChain, Picture) {
  const Tensor x = tensor(1.0, {.requires_grad = true});
  Tensor y = x;
  for (int i = 0; i < kNodes / 2; ++i) y = sin(y) + 1;
  const std::string dot = autograd::picture(y, {{"x", x}});
  const auto holds = [&](const std::string& text) { return dot.find(text) != std::string::npos; };
  const auto node = [](int i) { return "n" + std::to_string(i); };
  EXPECT_TRUE(holds("  " + node(kNodes) + " [label=\"x\\n[]\", fillcolor=lightblue];\n"));
  EXPECT_TRUE(holds("  " + node(kNodes) + " -> " + node(kNodes - 1) + ";\n"));
  EXPECT_TRUE(
      holds("  s" + std::to_string(kNodes / 2 - 1) + " -> " + node(kNodes - 1) + " [dir=none];\n"));
  EXPECT_FALSE(holds(node(kNodes + 1)));
}

}  // namespace
}  // namespace lockstep::testing
