// Hooks on nodes, anomaly and inference mode, the picture.
#include <any>

#include <gtest/gtest.h>

#include "lockstep/engine/autograd/anomaly_mode.h"
#include "lockstep/engine/autograd/backward.h"
#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/autograd/gradcheck.h"
#include "lockstep/engine/autograd/picture.h"
#include "lockstep/engine/autograd/saved_tensor_hooks.h"
#include "lockstep/engine/ops/ops.h"

#include "engine/throws.h"

namespace lockstep {
namespace {

using lockstep::testing::error_of;

TEST(Gradcheck, NeedsAnInputThatRequiresGrad) {
  const auto same = [](const std::vector<Tensor>& in) { return in[0]; };
  EXPECT_EQ(error_of([&] { autograd::gradcheck(same, {ones({2})}); }),
            "gradcheck expects at least one input tensor to require gradient, but none of the them "
            "have requires_grad=True.");
}

TEST(NodeHooks, SeeAndChangeGradients) {
  const Tensor x = tensor({3.0}, {.requires_grad = true});
  const Tensor y = x * x;
  std::vector<double> seen;
  const auto before = y.grad_fn()->register_prehook(
      [&](std::span<Tensor> gradients) { seen.push_back(gradients[0].item()); });
  const auto after = y.grad_fn()->register_hook(
      [&](std::span<Tensor> results, std::span<const Tensor>) { results[0] = results[0] * 10.0; });
  (2.0 * y).backward();
  EXPECT_EQ(seen, std::vector<double>{2.0});
  EXPECT_EQ(x.grad().item(), 60.0 + 6.0);  // one of the two edges was changed
}

TEST(LeafHooks, RunForGradToo) {
  const Tensor x = tensor({3.0}, {.requires_grad = true});
  const auto hook = x.register_hook([](const Tensor& g) { return g * 2.0; });
  EXPECT_EQ(autograd::grad((x * x).sum(), {x})[0].item(), 12.0);
}

TEST(AnomalyMode, NamesTheOpThatMadeNan) {
  const Tensor x = tensor({-1.0}, {.requires_grad = true});
  const auto run = [&] { sqrt(x).sum().backward(); };
  EXPECT_EQ(error_of(run), "no error");
  const autograd::AnomalyMode anomaly;
  EXPECT_EQ(error_of(run), "Function 'SqrtBackward0' returned nan values in its 0th output.");
}

TEST(InferenceMode, KeepsTensorsOutOfAutograd) {
  const Tensor x = tensor({2.0}, {.requires_grad = true});
  Tensor inside;
  {
    const autograd::InferenceMode inference;
    inside = x * 2.0;
    inside.add_(1.0);
    EXPECT_FALSE(inside.requires_grad());
  }
  EXPECT_EQ(error_of([&] { x* inside; }),
            "Inference tensors cannot be saved for backward. To work around you can make a clone "
            "to get a normal tensor and use it in autograd.");
  EXPECT_NE(error_of([&] { inside.add_(1.0); }).find("outside InferenceMode"), std::string::npos);
  EXPECT_EQ((x * inside.clone()).item(), 10.0);
}

TEST(InferenceMode, OutranksEnableGrad) {
  const Tensor x = tensor({2.0}, {.requires_grad = true});
  const autograd::EnableGrad outside;
  {
    const autograd::InferenceMode inference;
    const autograd::EnableGrad inside;
    EXPECT_FALSE(autograd::grad_enabled());
    EXPECT_FALSE((x * 2.0).requires_grad());
    {
      const autograd::InferenceMode again;
      const autograd::NoGrad no_grad;
    }
    EXPECT_FALSE((x * 2.0).requires_grad());
  }
  EXPECT_TRUE(autograd::grad_enabled());
  EXPECT_TRUE((x * 2.0).requires_grad());
}

TEST(InferenceMode, ItsTensorsRequireGradWithinItOnly) {
  Tensor inside, marked;
  {
    const autograd::InferenceMode inference;
    inside = tensor({1.0});
    marked = tensor({1.0}).requires_grad_();
    EXPECT_TRUE(marked.requires_grad());
    EXPECT_FALSE((marked * 2.0).requires_grad());
  }
  const char* text =
      "Setting requires_grad=True on inference tensor outside InferenceMode is not allowed.";
  EXPECT_EQ(error_of([&] { inside.requires_grad_(); }), text);
  EXPECT_EQ(error_of([&] { marked.requires_grad_(); }), text);
  EXPECT_FALSE(inside.requires_grad_(false).requires_grad());
  EXPECT_TRUE(inside.clone().requires_grad_().requires_grad());
}

TEST(Picture, DrawsLeavesOpsWhatTheySaveAndTheRoot) {
  const Tensor x = tensor({1.0, 2.0}, {.requires_grad = true});
  const Tensor y = (x * x).sum();
  const std::string before =
      "digraph autograd {\n"
      "  node [shape=box, style=filled, fontname=monospace, fontsize=10];\n"
      "  n0 [label=\"SumBackward0\\n[]\", fillcolor=lightgrey];\n"
      "  n1 [label=\"MulBackward0\\n[2]\", fillcolor=lightgrey];\n";
  const std::string saved =
      "  s0 [label=\"[2]\", fillcolor=orange];\n"
      "  s1 [label=\"[2]\", fillcolor=orange];\n";
  const std::string between =
      "  n2 [label=\"x\\n[2]\", fillcolor=lightblue];\n"
      "  t0 [label=\"[]\", fillcolor=darkolivegreen1];\n"
      "  n1 -> n0;\n";
  const std::string saved_by =
      "  s0 -> n1 [dir=none];\n"
      "  s1 -> n1 [dir=none];\n";
  const std::string after =
      "  n2 -> n1;\n"
      "  n2 -> n1;\n"
      "  n0 -> t0;\n"
      "}\n";
  EXPECT_EQ(autograd::picture(y, {{"x", x}}), before + saved + between + saved_by + after);
  y.backward();
  EXPECT_EQ(autograd::picture(y, {{"x", x}}), before + between + after) << "nothing is left saved";
}

int count(const std::string& text, const std::string& part) {
  int found = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

// Inputs, results, copies made in place of what is overwritten, and what hooks have packed.
TEST(Picture, ShowsWhatEveryKindOfNodeSaves) {
  const Tensor x = ones({2, 3}, {.requires_grad = true}), w = ones({3, 4}, {.requires_grad = true});
  const auto saved = [](const Tensor& y, const std::string& sizes) {
    return count(autograd::picture(y), "[label=\"" + sizes + "\", fillcolor=orange]");
  };
  EXPECT_EQ(saved(matmul(x, w), "[2, 3]"), 1);
  EXPECT_EQ(saved(matmul(x, w), "[3, 4]"), 1);
  EXPECT_EQ(saved(matmul(x, w.detach()), "[2, 3]"), 0) << "not needed, not kept";
  EXPECT_EQ(saved(exp(x), "[2, 3]"), 1);
  EXPECT_EQ(saved(x + 1, "[2, 3]"), 0);
  EXPECT_EQ(saved(layer_norm(x, {3}), "[2]"), 2);
  const Tensor y = x * 1;
  exp_(y.narrow(0, 0, 1));
  EXPECT_EQ(saved(y, "[1, 3]"), 1) << "through a view";
  const autograd::SavedTensorHooks hooks(
      [](const Tensor& t) { return std::any(t); },
      [](const std::any& t) { return std::any_cast<Tensor>(t); });
  EXPECT_EQ(saved(matmul(x, w), "[3, 4]"), 1);
}

}  // namespace
}  // namespace lockstep
