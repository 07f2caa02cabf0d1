// Backward as PyTorch does it: what accumulates where, what is freed, and what is said when it
// cannot be done.
#include <cmath>
#include <thread>

#include <gtest/gtest.h>

#include "lockstep/engine/autograd/backward.h"
#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/autograd/node.h"
#include "lockstep/engine/ops/ops.h"
#include "lockstep/engine/tensor/tensor_impl.h"

#include "engine/throws.h"

namespace lockstep::testing {
namespace {

constexpr const char* kSecondTime =
    "Trying to backward through the graph a second time (or directly access saved tensors after "
    "they have already been freed). Saved intermediate values of the graph are freed when you call "
    ".backward() or autograd.grad(). Specify retain_graph=True if you need to backward through the "
    "graph a second time or if you need to access saved tensors after calling backward.";

Tensor leaf(std::initializer_list<double> values) {
  return tensor(values, {.requires_grad = true});
}

std::vector<double> list(const Tensor& t) { return t.to_vector(); }
using Values = std::vector<double>;

TEST(Backward, ErrorTexts) {
  const Tensor x = leaf({1, 2});
  EXPECT_ERROR((x * 2).backward(), "grad can be implicitly created only for scalar outputs");
  EXPECT_ERROR(tensor(1.0).backward(),
               "element 0 of tensors does not require grad and does not have a grad_fn");
  const Tensor roots[] = {x.sum(), tensor(1.0)};
  EXPECT_ERROR(autograd::backward(roots),
               "element 1 of tensors does not require grad and does not have a grad_fn");
  EXPECT_ERROR((x * 2).backward(tensor({1.0, 2.0, 3.0})),
               "Mismatch in shape: grad_output[0] has a shape of [3] and output[0] has a shape of "
               "[2].");
  EXPECT_ERROR(tensor({1, 2}).requires_grad_(),
               "Only Tensors of floating point and complex dtype can require gradients");
  EXPECT_ERROR(tensor({true}).requires_grad_(),
               "Only Tensors of floating point and complex dtype can require gradients");
  EXPECT_ERROR((x * 2).requires_grad_(false),
               "you can only change requires_grad flags of leaf variables. If you want to use a "
               "computed variable in a subgraph that doesn't require differentiation use "
               "var_no_grad = var.detach().");
  EXPECT_ERROR(matmul(ones({2, 3}), ones({2, 3})),
               "mat1 and mat2 shapes cannot be multiplied (2x3 and 2x3)");
  EXPECT_ERROR(ones({2, 3}) + ones({2, 4}),
               "The size of tensor a (3) must match the size of tensor b (4) at non-singleton "
               "dimension 1");
  EXPECT_ERROR(nll_loss(ones({1, 3}), tensor({5})), "Target 5 is out of bounds.");
  EXPECT_ERROR(nll_loss(ones({1, 3}), tensor({-1})), "Target -1 is out of bounds.");
  EXPECT_ERROR((x * 2).item(), "a Tensor with 2 elements cannot be converted to Scalar");
  EXPECT_FALSE(x.grad().defined());  // none of the above left anything behind
}

TEST(Backward, AccumulatesOverCalls) {
  const Tensor x = leaf({1, 2, 3});
  EXPECT_FALSE(x.grad().defined());
  square(x).sum().backward();
  EXPECT_EQ(list(x.grad()), (Values{2, 4, 6}));
  const Tensor kept = x.grad();
  square(x).sum().backward();
  EXPECT_EQ(list(x.grad()), (Values{4, 8, 12}));
  EXPECT_TRUE(kept.is_same(x.grad())) << "later gradients are added in place";
  x.grad().zero_();
  x.sum().backward();
  EXPECT_EQ(list(x.grad()), (Values{1, 1, 1}));
  x.set_grad(Tensor());
  EXPECT_FALSE(x.grad().defined());
  EXPECT_ERROR(x.set_grad(ones({2})),
               "assigned grad has data of a different size or type: float32 [2] for a tensor of "
               "float32 [3]");
}

TEST(Backward, TwoLeavesNeverShareAGradient) {
  const Tensor x = leaf({1, 2}), y = leaf({3, 4});
  (x + y).backward(tensor({1.0, 1.0}));
  x.grad().fill_(9);
  EXPECT_EQ(list(y.grad()), (Values{1, 1}));
  // Nor does a leaf keep the caller's gradient.
  const Tensor given = tensor({5.0, 6.0});
  const Tensor z = leaf({0, 0});
  z.backward(given);
  given.fill_(0);
  EXPECT_EQ(list(z.grad()), (Values{5, 6}));
}

TEST(Backward, SecondTime) {
  const Tensor x = leaf({1, 2});
  const Tensor y = square(x).sum();
  y.backward();
  EXPECT_ERROR(y.backward(), kSecondTime);
  // Nothing was saved here, so nothing is missing.
  for (const Tensor& z : {x + 1, x - 2, 2 - x, -x, (x + 0).add_(2)}) {
    z.sum().backward();
    EXPECT_NO_THROW(z.sum().backward());
  }
  // A factor is saved, be it a number.
  for (const Tensor& z : {x * 2, 2 * x, x / 2, 2 / x, (x + 0).mul_(2), (x + 0).div_(2)}) {
    z.sum().backward();
    EXPECT_ERROR(z.sum().backward(), kSecondTime);
  }
  // Two roots over one part of the graph that was freed by the first.
  const Tensor common = x * x;
  const Tensor first = common.sum(), second = (common + 3).sum();
  first.backward();
  EXPECT_ERROR(second.backward(), kSecondTime);
  // Saved results, products and convolutions notice too.
  for (const Tensor& root :
       {exp(x).sum(), matmul(x.view({1, 2}), x.view({2, 1})).sum(), log_softmax(x, 0).sum(),
        conv2d(x.view({1, 1, 1, 2}), x.view({1, 1, 1, 2})).sum(), max(x), norm(x)}) {
    root.backward();
    EXPECT_ERROR(root.backward(), kSecondTime);
  }
}

TEST(Backward, RetainGraph) {
  const Tensor x = tensor(3.0, {.requires_grad = true});
  const Tensor y = square(x);
  const Tensor z1 = 3 * y, z2 = 4 * y;
  z1.backward({}, true);
  EXPECT_EQ(x.grad().item(), 18);
  z2.backward();
  EXPECT_EQ(x.grad().item(), 42);
  EXPECT_ERROR(z1.backward(), kSecondTime);
}

TEST(Backward, SavedTensorsAreReleased) {
  const Tensor x = leaf({1, 2});
  Tensor middle = x * 2;
  const Tensor y = exp(middle * middle).sum();
  const auto users = [&] { return middle.impl()->storage->use_count(); };
  const auto before = users();
  EXPECT_GT(before, 1u);
  y.backward({}, true);
  EXPECT_EQ(users(), before);
  y.backward();
  EXPECT_EQ(users(), 1u);
}

TEST(Backward, ReusedVariable) {
  const Tensor x = tensor(2.0, {.requires_grad = true});
  const Tensor w = 3 * x + square(x) + x;
  w.backward();
  EXPECT_EQ(x.grad().item(), 8);
  // A diamond many levels deep has 2^60 paths and 120 nodes.
  const Tensor z = tensor(1.0, {.requires_grad = true});
  Tensor y = z;
  for (int i = 0; i < 60; ++i) y = y + y;
  y.backward();
  EXPECT_EQ(z.grad().item(), std::pow(2.0, 60));
}

TEST(Backward, SeveralRootsAndALeafAsRoot) {
  const Tensor x = leaf({1, 2});
  const Tensor roots[] = {x, square(x)};
  const Tensor gradients[] = {tensor({10.0, 20.0}), tensor({1.0, 1.0})};
  autograd::backward(roots, gradients);
  EXPECT_EQ(list(x.grad()), (Values{12, 24}));
}

TEST(Backward, ConvertsTheGivenGradient) {
  const Tensor x = leaf({1, 2});
  x.backward(tensor({1.0, 2.0}, {.dtype = DType::kFloat64}));
  EXPECT_EQ(x.grad().dtype(), DType::kFloat32);
  // Through a conversion the leaf's dtype comes back.
  const Tensor y = leaf({1, 2});
  (y.to(DType::kFloat64) * 3).sum().backward();
  EXPECT_EQ(y.grad().dtype(), DType::kFloat32);
  const Tensor half = tensor({1.0, 2.0}, {.requires_grad = true, .dtype = DType::kBFloat16});
  (half * tensor({1.0, 2.0})).sum().backward();
  EXPECT_EQ(half.grad().dtype(), DType::kBFloat16);
  EXPECT_EQ(list(half.grad()), (Values{1, 2}));
}

TEST(Backward, GraphOutlivesItsThread) {
  const Tensor x = leaf({1, 2});
  Tensor y;
  std::thread([&] { y = square(x).sum(); }).join();
  y.backward();
  EXPECT_EQ(list(x.grad()), (Values{2, 4}));
}

TEST(Backward, ThreadsWithGraphsOfTheirOwn) {
  std::vector<std::thread> threads;
  std::vector<double> results(4);
  for (size_t t = 0; t < results.size(); ++t) {
    threads.emplace_back([&results, t] {
      const Tensor x = tensor(static_cast<double>(t), {.requires_grad = true});
      for (int i = 0; i < 200; ++i) (x * x).backward();
      results[t] = x.grad().item();
    });
  }
  for (auto& thread : threads) thread.join();
  for (size_t t = 0; t < results.size(); ++t) EXPECT_EQ(results[t], 400.0 * static_cast<double>(t));
}

TEST(Backward, ThreadsLoseNothingOfACommonLeaf) {
  const Tensor x = zeros({1000}, {.requires_grad = true});
  constexpr int kThreads = 4, kTimes = 300;
  const auto run = [&] {
    for (int i = 0; i < kTimes; ++i) x.sum().backward();
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) threads.emplace_back(run);
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(list(x.grad()), Values(1000, kThreads * kTimes));
}

TEST(Backward, NothingFromTargetsThatAreAllIgnored) {
  const Tensor target = tensor({-100, -100});
  for (double smoothing : {0.0, 0.1}) {
    const Tensor x = leaf({1, 2, 3, 4, 5, 6});
    const Tensor loss = cross_entropy(x.view({2, 3}), target, {.label_smoothing = smoothing});
    EXPECT_TRUE(std::isnan(loss.item()));
    loss.backward();
    EXPECT_EQ(list(x.grad()), Values(6, 0.0)) << smoothing;
  }
}

TEST(CrossEntropy, HasTheNodesOfItsTwoOpsAndKeepsNoLogProbabilities) {
  const Tensor x = leaf({1, 2, 3, 4, 5, 6});
  const Tensor logits = x.view({2, 3}) * 1, target = tensor({2, 0});
  const Tensor loss = cross_entropy(logits, target);
  EXPECT_EQ(loss.grad_fn()->name(), "NllLossBackward0");
  const auto& inner = loss.grad_fn()->edges()[0].function;
  ASSERT_TRUE(inner);
  EXPECT_EQ(inner->name(), "LogSoftmaxBackward0");
  EXPECT_EQ(inner->edges()[0].function->name(), "MulBackward0");
  EXPECT_EQ(inner->outputs()[0].sizes, logits.sizes());
  loss.backward();
  EXPECT_ERROR(loss.backward(), kSecondTime);
  const Tensor changed = cross_entropy(logits, target);
  logits.mul_(2);
  EXPECT_THROW(changed.backward(), Error) << "what it keeps is the logits";
}

// The kernels of the first order and the formulas that stay differentiable.
TEST(CreateGraph, FusedGradientsAreThoseOfTheFormulas) {
  manual_seed(3);
  const Tensor target = tensor({2, 0, -100, 4});
  const auto compare = [](const char* what, const std::vector<Tensor>& x, auto&& op) {
    for (const DType dtype : {DType::kFloat64, DType::kFloat32, DType::kBFloat16}) {
      std::vector<Tensor> inputs;
      for (const Tensor& t : x) inputs.push_back(t.to(dtype).detach().requires_grad_());
      const Tensor y = op(inputs);
      EXPECT_EQ(y.dtype(), dtype) << what;
      const Tensor g = cos(y.detach().to(DType::kFloat64)).to(dtype);
      const auto gradients = [&](const autograd::GradOptions& options) {
        return autograd::grad(std::vector{y}, inputs, std::vector{g}, options);
      };
      const auto fused = gradients({.retain_graph = true});
      const auto formulas = gradients({.create_graph = true});
      EXPECT_TRUE(formulas[0].requires_grad()) << what;
      const double tolerance = dtype == DType::kFloat64   ? 1e-14
                               : dtype == DType::kFloat32 ? 3e-6
                                                          : 0.05;
      for (size_t k = 0; k < x.size(); ++k) {
        const Values a = list(fused[k]), b = list(formulas[k]);
        ASSERT_EQ(fused[k].sizes(), formulas[k].sizes()) << what;
        EXPECT_EQ(fused[k].dtype(), dtype) << what;
        EXPECT_FALSE(fused[k].requires_grad());
        for (size_t i = 0; i < a.size(); ++i) {
          EXPECT_NEAR(a[i], b[i], tolerance * (1 + std::fabs(b[i])))
              << what << ", " << name_of(dtype) << ", input " << k << ", element " << i;
        }
      }
    }
  };
  using Inputs = const std::vector<Tensor>&;
  const Tensor x = randn({4, 5}), image = randn({2, 5, 2}), w = randn({5}), b = randn({5});
  const Tensor weight = tensor({0.5, 1.0, 2.0, 0.0, 3.0});
  compare("softmax", {x}, [](Inputs in) { return softmax(in[0], 1); });
  compare("softmax of columns", {x}, [](Inputs in) { return softmax(in[0], 0); });
  compare("layer_norm", {x, w, b}, [](Inputs in) { return layer_norm(in[0], {5}, in[1], in[2]); });
  compare("layer_norm of columns", {x}, [](Inputs in) { return layer_norm(in[0].t(), {4}); });
  compare("layer_norm of matrices", {image, randn({5, 2})}, [](Inputs in) {
    return layer_norm(in[0], {5, 2}, in[1]);
  });
  compare("rms_norm", {x, w}, [](Inputs in) { return rms_norm(in[0], {5}, in[1]); });
  for (const Reduction reduction : {Reduction::kMean, Reduction::kSum, Reduction::kNone}) {
    compare("cross_entropy", {x},
            [&](Inputs in) { return cross_entropy(in[0], target, {.reduction = reduction}); });
    compare("cross_entropy of weighted classes", {x}, [&](Inputs in) {
      return cross_entropy(in[0], target,
                           {.weight = weight.to(in[0].dtype()), .reduction = reduction});
    });
    compare("cross_entropy of images", {image}, [&](Inputs in) {
      return cross_entropy(in[0], target.view({2, 2}), reduction);
    });
    // The fused loss and that of the two ops.
    const Tensor two_ops = nll_loss(log_softmax(x, 1), target, {weight, -100, reduction});
    const Tensor one = cross_entropy(x, target, {weight, -100, reduction});
    for (int64_t i = 0; i < one.numel(); ++i) {
      EXPECT_NEAR(list(one)[static_cast<size_t>(i)], list(two_ops)[static_cast<size_t>(i)], 1e-6);
    }
  }
}

TEST(CreateGraph, SecondDerivative) {
  const Tensor x = leaf({1, 2, 3});
  const Tensor y = pow(x, 3).sum();
  const auto first = autograd::grad(y, {x}, {.create_graph = true});
  EXPECT_EQ(list(first[0]), (Values{3, 12, 27}));
  EXPECT_TRUE(first[0].requires_grad());
  const auto second = autograd::grad(first[0].sum(), {x}, {.create_graph = true});
  EXPECT_EQ(list(second[0]), (Values{6, 12, 18}));
  const auto third = autograd::grad(second[0].sum(), {x});
  EXPECT_EQ(list(third[0]), (Values{6, 6, 6}));
  EXPECT_FALSE(third[0].requires_grad());
  EXPECT_FALSE(x.grad().defined()) << "grad() accumulates nothing";
}

TEST(CreateGraph, BackwardAccumulatesDifferentiably) {
  const Tensor x = tensor(2.0, {.requires_grad = true});
  pow(x, 3).backward({}, false, true);
  const Tensor g = x.grad();
  EXPECT_EQ(g.item(), 12);
  EXPECT_TRUE(g.requires_grad());
  x.set_grad(Tensor());
  g.backward();
  EXPECT_EQ(x.grad().item(), 12);  // 6 x
  EXPECT_FALSE(x.grad().requires_grad());
}

TEST(Grad, ErrorsAndUnused) {
  const Tensor x = leaf({1, 2}), unused = leaf({3});
  const Tensor constant = tensor({1.0});
  const Tensor y = square(x).sum();
  EXPECT_ERROR(autograd::grad(y, {}), "grad requires non-empty inputs.");
  EXPECT_ERROR(autograd::grad(y, {constant}),
               "One of the differentiated Tensors does not require grad");
  EXPECT_ERROR(autograd::grad(y, {x, unused}, {.retain_graph = true}),
               "One of the differentiated Tensors appears to not have been used in the graph. Set "
               "allow_unused=True if this is the desired behavior.");
  const auto g = autograd::grad(y, {x, unused}, {.allow_unused = true});
  EXPECT_EQ(list(g[0]), (Values{2, 4}));
  EXPECT_FALSE(g[1].defined());
}

TEST(Grad, OfNonLeavesTouchesNothingElse) {
  const Tensor x = leaf({1, 2}), other = leaf({5, 5});
  const Tensor middle = x * 3;
  const Tensor y = (square(middle) * other).sum();
  const auto g = autograd::grad(y, {middle, middle, y}, {.retain_graph = true});
  EXPECT_EQ(list(g[0]), (Values{30, 60}));
  EXPECT_EQ(list(g[1]), (Values{30, 60}));
  EXPECT_EQ(list(g[2]), (Values{1}));
  EXPECT_FALSE(x.grad().defined());
  EXPECT_FALSE(other.grad().defined());
  // What was not needed was not run: its saved tensors are still there.
  const Tensor branch = exp(x);
  const Tensor z = (branch * other).sum();
  autograd::grad(z, {other});
  EXPECT_NO_THROW(branch.sum().backward());
}

TEST(GradMode, DetachAndNoGrad) {
  const Tensor x = tensor(2.0, {.requires_grad = true});
  const Tensor y = (x * x).detach();
  EXPECT_FALSE(y.requires_grad());
  EXPECT_TRUE(y.is_leaf());
  (x * y).backward();
  EXPECT_EQ(x.grad().item(), 4);
  {
    const autograd::NoGrad no_grad;
    EXPECT_FALSE((x * x).requires_grad());
    {
      const autograd::EnableGrad enable;
      EXPECT_TRUE((x * x).requires_grad());
    }
    EXPECT_FALSE(autograd::grad_enabled());
    bool elsewhere = false;
    std::thread([&] { elsewhere = autograd::grad_enabled(); }).join();
    EXPECT_TRUE(elsewhere) << "the mode belongs to the thread";
    EXPECT_TRUE(x.requires_grad());
  }
  EXPECT_TRUE(autograd::grad_enabled());
  const Tensor shared = x.detach();
  shared.fill_(7);
  EXPECT_EQ(x.item(), 7) << "detach() shares memory";
}

TEST(GradMode, FrozenLeaf) {
  const Tensor x = tensor(2.0, {.requires_grad = true});
  const Tensor y = x * 3;
  x.requires_grad_(false);
  EXPECT_EQ(x.str(), "tensor(2.)");
  y.backward();
  EXPECT_FALSE(x.grad().defined());
  EXPECT_ERROR((x * 3).backward(),
               "element 0 of tensors does not require grad and does not have a grad_fn");
}

TEST(Graph, NamesAndLeaves) {
  const Tensor x = leaf({1, 2});
  EXPECT_TRUE(x.is_leaf());
  EXPECT_FALSE(x.grad_fn());
  const std::pair<Tensor, const char*> named[] = {
      {x + 1, "AddBackward0"},
      {1 - x, "RsubBackward1"},
      {x - 1, "SubBackward0"},
      {x * 2, "MulBackward0"},
      {x / 2, "DivBackward0"},
      {pow(x, 2), "PowBackward0"},
      {x.sum(), "SumBackward0"},
      {x.sum({0}), "SumBackward1"},
      {x.mean(), "MeanBackward0"},
      {x.max(), "MaxBackward1"},
      {exp(x), "ExpBackward0"},
      {clamp(x, 0, 1), "ClampBackward1"},
      {sin(x), "SinBackward0"},
      {-x, "NegBackward0"},
      {x.view({2, 1}), "ViewBackward0"},
      {x[0], "SelectBackward0"},
      {x.narrow(0, 0, 1), "SliceBackward0"},
      {split(x, 1)[1], "SplitBackward0"},
      {unbind(x)[0], "UnbindBackward0"},
      {matmul(x, x), "DotBackward0"},
      {x.view({1, 2}).t(), "TBackward0"},
      {mm(x.view({1, 2}), x.view({2, 1})), "MmBackward0"},
      {linear(x.view({1, 2}), ones({3, 2}), ones({3})), "AddmmBackward0"},
  };
  for (const auto& [y, name] : named) {
    ASSERT_TRUE(y.grad_fn());
    EXPECT_EQ(y.grad_fn()->name(), name);
    EXPECT_FALSE(y.is_leaf());
  }
  EXPECT_FALSE(eq(x, x).requires_grad());
  EXPECT_FALSE(x.view({1, 2}).argmax(1).requires_grad());
}

}  // namespace
}  // namespace lockstep::testing
