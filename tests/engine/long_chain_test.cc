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

TEST(LongChain, RunsAndGoes) {
  const Tensor x = tensor(1.0, {.requires_grad = true});
  {
    Tensor y = x;
    for (int i = 0; i < 1000000; ++i) y = y + 1;
    y.backward();
    EXPECT_EQ(x.grad().item(), 1);
  }  // and is destroyed without recursion
  {
    Tensor y = x;
    for (int i = 0; i < 1000000; ++i) y = y * 1;
  }  // a graph that was never run
  {
    Tensor y = x.view({1});
    for (int i = 0; i < 500000; ++i) y = (y * 1).view({1});
  }  // views
}

// What a node saves leads on to the nodes before it, too.
TEST(LongChain, WithSavedTensors) {
  const Tensor x = tensor(1.0, {.requires_grad = true}), w = tensor(0.5, {.requires_grad = true});
  const auto chain = [&] {
    Tensor y = x;
    for (int i = 0; i < 500000; ++i) y = sigmoid(y * w);
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
    for (int i = 0; i < 1000000; ++i) y = y * 1;
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
  for (int i = 0; i < 300000; ++i) y.mul_(1);
  for (int i = 0; i < 100000; ++i) part.add_(1);
  y.backward();
  EXPECT_EQ(x.grad().item(), 1);
}

TEST(LongChain, OfCheckpoints) {
  const Tensor x = tensor(1.0, {.requires_grad = true});
  const auto step = [](const std::vector<Tensor>& in) { return sin(in[0]); };
  Tensor y = x;
  for (int i = 0; i < 100000; ++i) y = autograd::checkpoint(step, {y});
  y.backward();
  EXPECT_TRUE(std::isfinite(x.grad().item()));
  y = x;
  for (int i = 0; i < 100000; ++i) y = autograd::checkpoint(step, {y});
}

TEST(LongChain, Picture) {
  const Tensor x = tensor(1.0, {.requires_grad = true});
  Tensor y = x;
  for (int i = 0; i < 500000; ++i) y = sin(y) + 1;
  const std::string dot = autograd::picture(y, {{"x", x}});
  EXPECT_NE(dot.find("  n1000000 [label=\"x\\n[]\", fillcolor=lightblue];\n"), std::string::npos);
  EXPECT_NE(dot.find("  n1000000 -> n999999;\n"), std::string::npos);
  EXPECT_NE(dot.find("  s499999 -> n999999 [dir=none];\n"), std::string::npos);
  EXPECT_EQ(dot.find("n1000001"), std::string::npos);
}

}  // namespace
}  // namespace lockstep::testing
