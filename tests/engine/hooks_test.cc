// Hooks, retained gradients, and writes in place.
#include <gtest/gtest.h>

#include "lockstep/engine/autograd/backward.h"
#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/ops/ops.h"

#include "engine/throws.h"

namespace lockstep::testing {
namespace {

using Values = std::vector<double>;

Tensor leaf(std::initializer_list<double> values) {
  return tensor(values, {.requires_grad = true});
}

TEST(Hooks, TensorHookThenAccumulationThenPostAccumulate) {
  const Tensor x = leaf({1, 2});
  x.set_grad(tensor({100.0, 100.0}));
  std::vector<std::string> order;
  Values seen_incoming, seen_before, seen_total;
  const auto first = x.register_hook([&](const Tensor& g) {
    order.push_back("hook");
    seen_incoming = g.to_vector();
    seen_before = x.grad().to_vector();
    return g * 10;
  });
  const auto second = x.register_hook([&](const Tensor& g) {
    order.push_back("second hook");
    EXPECT_EQ(g.to_vector(), (Values{30, 30})) << "sees what the first one returned";
    return Tensor();  // keeps it
  });
  const auto post = x.register_post_accumulate_grad_hook([&](const Tensor& leaf) {
    order.push_back("post");
    EXPECT_TRUE(leaf.is_same(x));
    seen_total = leaf.grad().to_vector();
  });
  const auto post_again =
      x.register_post_accumulate_grad_hook([&](const Tensor&) { order.push_back("post again"); });
  (x * 3).sum().backward();
  EXPECT_EQ(order, (std::vector<std::string>{"hook", "second hook", "post", "post again"}));
  EXPECT_EQ(seen_incoming, (Values{3, 3}));
  EXPECT_EQ(seen_before, (Values{100, 100}));
  EXPECT_EQ(seen_total, (Values{130, 130}));
}

TEST(Hooks, RunOncePerBackwardWithTheWholeGradient) {
  const Tensor x = leaf({1, 2});
  int calls = 0;
  Values seen;
  const auto handle = x.register_hook([&](const Tensor& g) {
    ++calls;
    seen = g.to_vector();
    return Tensor();
  });
  (x * 2 + x * 3 + x).sum().backward();
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(seen, (Values{6, 6}));
}

TEST(Hooks, OnNonLeavesReplaceWhatFlowsOn) {
  const Tensor x = leaf({1, 2});
  const Tensor y = x * 3;
  y.retain_grad();
  const auto handle = y.register_hook([](const Tensor& g) { return g * 2; });
  square(y).sum().backward();
  EXPECT_EQ(y.grad().to_vector(), (Values{12, 24}));
  EXPECT_EQ(x.grad().to_vector(), (Values{36, 72}));
}

TEST(Hooks, HandlesRemove) {
  const Tensor x = leaf({1});
  const Tensor y = x * 1;
  int hook_calls = 0, post_calls = 0, inner_calls = 0;
  auto hook = x.register_hook([&](const Tensor&) { return ++hook_calls, Tensor(); });
  auto inner = y.register_hook([&](const Tensor&) { return ++inner_calls, Tensor(); });
  {
    const auto post = x.register_post_accumulate_grad_hook([&](const Tensor&) { ++post_calls; });
    y.sum().backward({}, true);
  }  // destruction removes
  y.sum().backward({}, true);
  EXPECT_EQ(post_calls, 1);
  EXPECT_EQ(hook_calls, 2);
  EXPECT_EQ(inner_calls, 2);
  hook.remove();
  hook.remove();  // once more does nothing
  inner = autograd::HookHandle();
  y.sum().backward({}, true);
  EXPECT_EQ(hook_calls, 2);
  EXPECT_EQ(inner_calls, 2);
  x.register_hook([&](const Tensor&) { return ++hook_calls, Tensor(); }).release();
  y.sum().backward();
  EXPECT_EQ(hook_calls, 3) << "a released hook stays";
  // A handle may outlive the tensor.
  autograd::HookHandle orphan;
  {
    const Tensor z = leaf({1});
    orphan = z.register_hook([](const Tensor&) { return Tensor(); });
  }
  orphan.remove();
}

TEST(Hooks, MayRemoveThemselvesAndRunBackward) {
  const Tensor x = leaf({1});
  int calls = 0;
  autograd::HookHandle handle;
  handle = x.register_post_accumulate_grad_hook([&](const Tensor&) {
    ++calls;
    handle.remove();
    const autograd::EnableGrad enable;  // off inside a backward without create_graph
    const Tensor other = tensor(2.0, {.requires_grad = true});
    (other * other).backward();  // a backward inside a backward
    EXPECT_EQ(other.grad().item(), 4);
  });
  x.sum().backward();
  x.sum().backward();
  EXPECT_EQ(calls, 1);
}

TEST(Hooks, AnExceptionLeavesTheEngineUsable) {
  const Tensor x = leaf({1});
  {
    const auto handle =
        x.register_hook([](const Tensor&) -> Tensor { throw std::runtime_error("from a hook"); });
    EXPECT_THROW(x.sum().backward(), std::runtime_error);
  }
  EXPECT_TRUE(autograd::grad_enabled());
  EXPECT_FALSE(x.grad().defined());
  x.sum().backward();
  EXPECT_EQ(x.grad().to_vector(), (Values{1}));
}

TEST(Hooks, Errors) {
  const Tensor x = leaf({1});
  EXPECT_ERROR(tensor(1.0).register_hook([](const Tensor&) { return Tensor(); }),
               "cannot register a hook on a tensor that doesn't require gradient");
  EXPECT_ERROR((x * 2).register_post_accumulate_grad_hook([](const Tensor&) {}),
               "post accumulate grad hooks cannot be registered on non-leaf tensors");
  EXPECT_ERROR(tensor(1.0).retain_grad(),
               "can't retain_grad on Tensor that has requires_grad=False");
}

// Leaf accumulation outranks every other ready node.
TEST(Hooks, LeavesAccumulateAsEarlyAsTheGraphAllows) {
  const Tensor a = leaf({1}), b = leaf({1}), c = leaf({1});
  std::vector<std::string> order;
  const auto note = [&](const char* name) {
    return [&order, name](const Tensor&) { order.push_back(name); };
  };
  const auto ha = a.register_post_accumulate_grad_hook(note("a"));
  const auto hb = b.register_post_accumulate_grad_hook(note("b"));
  const auto hc = c.register_post_accumulate_grad_hook(note("c"));
  const Tensor h1 = a * 2, h2 = h1 * b, h3 = h2 * c;
  const auto inner =
      h1.register_hook([&](const Tensor&) { return order.push_back("h1"), Tensor(); });
  h3.backward(tensor({1.0}));
  EXPECT_EQ(order, (std::vector<std::string>{"c", "b", "h1", "a"}));
}

TEST(RetainGrad, KeepsAndAccumulates) {
  const Tensor x = leaf({2, 5});
  const Tensor y = x * 3;
  EXPECT_FALSE(y.grad().defined());
  y.retain_grad();
  y.retain_grad();  // twice is once
  const Tensor z = square(y).sum();
  z.backward({}, true);
  EXPECT_EQ(y.grad().to_vector(), (Values{12, 30}));
  z.backward();
  EXPECT_EQ(y.grad().to_vector(), (Values{24, 60}));
  x.retain_grad();  // of a leaf: nothing to do
}

TEST(RetainGrad, TensorMayDieFirst) {
  const Tensor x = leaf({1, 2});
  Tensor z;
  {
    const Tensor y = x * 3;
    y.retain_grad();
    z = square(y).sum();
  }
  EXPECT_NO_THROW(z.backward());
  // Also after it became another node's output, or none's.
  {
    const Tensor y = x * 3;
    y.retain_grad();
    const Tensor branch = y + 0;
    y.add_(1);
    z = branch.sum() + y.sum();
  }
  EXPECT_NO_THROW(z.backward());
  {
    const Tensor y = x * 3;
    y.retain_grad();
    z = (y + 0).sum();
    y.detach_();
    EXPECT_FALSE(y.requires_grad());
  }
  EXPECT_NO_THROW(z.backward());
}

TEST(RetainGrad, FollowsTheTensorThroughInPlaceWrites) {
  const Tensor x = leaf({1, 2});
  const Tensor y = x * 3;
  y.retain_grad();
  int on_old = 0, on_new = 0;
  const auto before = y.register_hook([&](const Tensor& g) {
    ++on_old;
    EXPECT_EQ(g.to_vector(), (Values{20, 20}));
    return Tensor();
  });
  y.mul_(2);
  const auto after = y.register_hook([&](const Tensor& g) {
    ++on_new;
    EXPECT_EQ(g.to_vector(), (Values{10, 10}));
    return Tensor();
  });
  (y * 10).sum().backward();
  EXPECT_EQ(y.grad().to_vector(), (Values{10, 10}));
  EXPECT_EQ(x.grad().to_vector(), (Values{60, 60}));
  EXPECT_EQ(on_old, 1);
  EXPECT_EQ(on_new, 1);
}

// -- in place

constexpr const char* kHint =
    " Hint: write the result to a new tensor, or clone() the tensor before it is changed.";

std::string modified(const std::string& type, const std::string& origin, int is, int expected) {
  return "one of the variables needed for gradient computation has been modified by an inplace "
         "operation: [" +
         type + "]" + origin + " is at version " + std::to_string(is) + "; expected version " +
         std::to_string(expected) + " instead." + kHint;
}

TEST(InPlace, LeavesAndTheirViewsAreProtected) {
  const Tensor x = leaf({1, 2, 3});
  const char* of_leaf =
      "a leaf Variable that requires grad is being used in an in-place operation.";
  const char* of_view =
      "a view of a leaf Variable that requires grad is being used in an in-place operation.";
  EXPECT_ERROR(x.add_(1), of_leaf);
  EXPECT_ERROR(x.sub_(x.detach()), of_leaf);
  EXPECT_ERROR(x.mul_(2), of_leaf);
  EXPECT_ERROR(x.div_(2), of_leaf);
  EXPECT_ERROR(x.copy_(ones({3})), of_leaf);
  EXPECT_ERROR(x.zero_(), of_leaf);
  EXPECT_ERROR(x.normal_(), of_leaf);
  EXPECT_ERROR(x[1].copy_(x[2] + 1), of_view);
  EXPECT_ERROR(x.view({3, 1}).fill_(0), of_view);
  EXPECT_EQ(x.to_vector(), (Values{1, 2, 3})) << "nothing was written";
  EXPECT_EQ(x.version(), 0u);
  {
    const autograd::NoGrad no_grad;
    x.sub_(tensor({1.0, 1.0, 1.0}));
    x[0].fill_(9);
  }
  EXPECT_EQ(x.to_vector(), (Values{9, 1, 2}));
  EXPECT_TRUE(x.is_leaf() && x.requires_grad());
}

TEST(InPlace, VersionCounter) {
  const Tensor x = zeros({2});
  EXPECT_EQ(x.version(), 0u);
  x.add_(1);
  x.fill_(3);
  EXPECT_EQ(x.version(), 2u);
  x.view({2, 1}).mul_(2);
  x.detach().copy_(ones({2}));
  EXPECT_EQ(x.version(), 4u) << "views and detached tensors share it";
  x.data_tensor().zero_();
  EXPECT_EQ(x.version(), 4u) << "data does not";
  EXPECT_EQ(x.to_vector(), (Values{0, 0}));
}

TEST(InPlace, SavedTensorsNoticeWrites) {
  const Tensor x = leaf({1, 2});
  const Tensor y = exp(x);
  y.add_(1);
  EXPECT_ERROR(y.sum().backward(),
               modified("float32 [2]", ", which is output 0 of ExpBackward0,", 1, 0));
  const Tensor w = tensor({3.0, 4.0});
  const Tensor z = (x * w).sum();
  w.fill_(0);
  EXPECT_ERROR(z.backward(), modified("float32 [2]", "", 1, 0));
  const Tensor a = x * 2;
  const Tensor b = a * a;
  a.add_(1).add_(1);
  EXPECT_ERROR(b.sum().backward(),
               modified("float32 [2]", ", which is output 0 of AddBackward0,", 2, 0));
  // What backward does not read may change.
  const Tensor c = x * 2;
  const Tensor d = c + 1;
  c.mul_(5);
  EXPECT_NO_THROW(d.sum().backward());
  EXPECT_EQ(x.grad().to_vector(), (Values{2, 2}));
}

TEST(InPlace, OfAProductWithItself) {
  const Tensor x = leaf({2, 3});
  const Tensor y = x * 1;
  y.mul_(y);
  EXPECT_EQ(y.to_vector(), (Values{4, 9}));
  y.sum().backward();
  EXPECT_EQ(x.grad().to_vector(), (Values{4, 6}));
  const Tensor z = x * 1;  // never run: must not keep itself alive
  z.div_(z.view({2}));
}

TEST(InPlace, GradientsOfGradients) {
  // d/dx and d/dw of (x * w) with the product written over x's copy.
  const Tensor x = tensor(3.0, {.requires_grad = true}), w = tensor(5.0, {.requires_grad = true});
  const Tensor y = x.clone();
  y.mul_(w);
  const auto g = autograd::grad(y, {w}, {.create_graph = true});
  EXPECT_EQ(g[0].item(), 3);
  EXPECT_EQ(autograd::grad(g[0], {x})[0].item(), 1);
}

TEST(InPlace, ConstantTensorJoinsTheGraph) {
  const Tensor x = leaf({1, 2});
  const Tensor buffer = zeros({2});
  buffer.add_(x * 3);
  EXPECT_TRUE(buffer.requires_grad());
  EXPECT_FALSE(buffer.is_leaf());
  buffer.sum().backward();
  EXPECT_EQ(x.grad().to_vector(), (Values{3, 3}));
  const Tensor copy = zeros({2, 2});
  copy.copy_(x);
  copy.sum().backward();
  EXPECT_EQ(x.grad().to_vector(), (Values{5, 5}));
}

TEST(InPlace, TypesAndShapes) {
  const Tensor whole = arange(4);
  EXPECT_ERROR(whole.div_(2), "result type Float can't be cast to the desired output type Long");
  EXPECT_ERROR(whole.add_(0.5), "result type Float can't be cast to the desired output type Long");
  EXPECT_ERROR(whole.add_(ones({2, 4}, {DType::kInt64})),
               "output with shape [4] doesn't match the broadcast shape [2, 4]");
  whole.sub_(1).mul_(whole);
  EXPECT_EQ(whole.to_vector(), (Values{1, 0, 1, 4}));
  const Tensor half = ones({2}, {DType::kFloat16});
  half.add_(tensor({0.5, 1.5})).mul_(2);
  EXPECT_EQ(half.dtype(), DType::kFloat16);
  EXPECT_EQ(half.to_vector(), (Values{3, 5}));
}

}  // namespace
}  // namespace lockstep::testing
