#include <cmath>

#include <gtest/gtest.h>

#include "lockstep/engine/autograd/backward.h"
#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/autograd/gradcheck.h"
#include "lockstep/engine/autograd/node.h"
#include "lockstep/engine/ops/ops.h"
#include "lockstep/engine/tensor/random.h"

#include "engine/throws.h"

namespace lockstep {
namespace {

Tensor leaf(const Dims& sizes) {
  return randn(sizes, {.dtype = DType::kFloat64, .requires_grad = true});
}

TEST(ViewWrites, ReachTheBaseAndItsOtherViews) {
  const Tensor x = tensor({1.0, 2.0, 3.0}, {.requires_grad = true});
  const Tensor base = zeros({4});
  const Tensor written = base.narrow(0, 1, 3), other = base.narrow(0, 0, 2);
  written.copy_(x * x);
  EXPECT_EQ(base.str(), "tensor([0., 1., 4., 9.], grad_fn=<CopySlices>)");
  EXPECT_EQ(written.str(), "tensor([1., 4., 9.], grad_fn=<AsStridedBackward0>)");
  EXPECT_EQ(other.str(), "tensor([0., 1.], grad_fn=<AsStridedBackward0>)");
  (base * tensor({1.0, 10.0, 100.0, 1000.0})).sum().backward({}, true);
  EXPECT_EQ(x.grad().to_vector(), (std::vector<double>{20, 400, 6000}));
  x.set_grad({});
  other.sum().backward();
  EXPECT_EQ(x.grad().to_vector(), (std::vector<double>{2, 0, 0}));
}

TEST(ViewWrites, KeepTheRestOfTheBase) {
  const Tensor x = tensor({1.0, 2.0, 3.0}, {.requires_grad = true});
  const Tensor y = x * 2;
  y[1].mul_(5);
  y.sum().backward();
  EXPECT_EQ(x.grad().to_vector(), (std::vector<double>{2, 10, 2}));
}

TEST(ViewWrites, PassOnTheVeryGradient) {
  const Tensor x = tensor({1.0, 2.0, 3.0}, {.requires_grad = true});
  const Tensor y = x * 1;
  y[0].fill_(4);
  y[1].mul_(0.1);
  const Tensor g = tensor({INFINITY, 3.0e8, INFINITY});
  y.backward(g);
  EXPECT_EQ(x.grad().to_vector(), (std::vector<double>{0, 3.0e8f * 0.1f, INFINITY}));
}

TEST(ViewWrites, OfAViewMadeBeforeTheBaseWasWritten) {
  const Tensor x = tensor({1.0, 2.0}, {.requires_grad = true});
  const Tensor y = x * 1;
  const Tensor first = y[0];
  y.mul_(3);
  first.backward();
  EXPECT_EQ(x.grad().to_vector(), (std::vector<double>{3, 0}));
}

TEST(ViewWrites, OfAViewMadeWithoutGradAreRefused) {
  const auto text = [](const std::string& mode, const std::string& what, const std::string& block) {
    return "A view was created in " + mode + " mode and " + what +
           ". Given that this use case is ambiguous and error-prone, it is forbidden. You can "
           "clarify your code by moving both the view and the inplace either both inside the " +
           block +
           " block (if you don't want the inplace to be tracked) or both outside (if you want the "
           "inplace to be tracked).";
  };
  const std::string no_grad =
      text("no_grad", "is being modified inplace with grad mode enabled", "no_grad");
  const auto view_of = [](const Tensor& x) {
    const autograd::NoGrad guard;
    return x.view({3, 1});
  };
  const Tensor leaf = ones({3}, {.requires_grad = true}), x = leaf * 2, plain = ones({3});
  const Tensor w = ones({3, 1}, {.requires_grad = true});
  EXPECT_ERROR(view_of(x).mul_(2), no_grad);
  EXPECT_ERROR(view_of(leaf).mul_(2), no_grad);
  EXPECT_ERROR(view_of(x).view({3}).mul_(2), no_grad);
  EXPECT_ERROR(view_of(plain).mul_(w), no_grad);
  EXPECT_ERROR(view_of(plain).add_(w), no_grad);
  EXPECT_ERROR(view_of(plain).copy_(w), no_grad);
  EXPECT_EQ(plain.to_vector(), (std::vector<double>{1, 1, 1}));  // none of them wrote
  view_of(plain).mul_(2);                                        // has nothing to track
  EXPECT_EQ(plain.to_vector(), (std::vector<double>{2, 2, 2}));

  Tensor inferred;
  {
    const autograd::InferenceMode guard;
    inferred = x.view({3});
  }
  EXPECT_ERROR(inferred.mul_(2),
               text("inference", "is being modified inplace in normal mode", "inference_mode"));
  const Tensor stale = view_of(x);
  x.mul_(2);
  EXPECT_ERROR(stale.requires_grad(),
               text("no_grad",
                    "its base or another view of its base has been modified inplace with grad mode "
                    "enabled",
                    "no_grad"));
}

TEST(ViewWrites, OfOneOfSeveralViewsAreRefused) {
  const std::string rest =
      " This view is the output of a function that returns multiple views. Such functions do not "
      "allow the output views to be modified inplace. You should replace the inplace operation by "
      "an out-of-place one.";
  const std::string writes = " is a view and is being modified inplace." + rest;
  const Tensor leaf = ones({4}, {.requires_grad = true}), x = leaf * 2;
  EXPECT_ERROR(x.split(2)[0].add_(1), "Output 0 of SplitBackward0" + writes);
  EXPECT_ERROR(x.split(Dims{1, 3})[1].mul_(2), "Output 1 of SplitWithSizesBackward0" + writes);
  EXPECT_ERROR(x.chunk(1)[0].exp_(), "Output 0 of SplitBackward0" + writes);
  EXPECT_ERROR(x.unbind()[1].zero_(), "Output 1 of UnbindBackward0" + writes);
  EXPECT_ERROR(leaf.split(2)[0].fill_(1), "Output 0 of SplitBackward0" + writes);
  EXPECT_ERROR(x.split(2)[1].copy_(ones({2})), "Output 1 of SplitBackward0" + writes);
  EXPECT_ERROR(x.split(2)[1].view({2, 1}).add_(1), "Output 0 of ViewBackward0" + writes);
  const auto parts = x.split(2);
  x.mul_(2);
  EXPECT_ERROR(parts[1].sum(),
               "Output 1 of SplitBackward0 is a view and its base or another view of its base has "
               "been modified inplace." +
                   rest);
  // What has no history takes only a write that has none either.
  const Tensor plain = ones({4});
  plain.split(2)[1].mul_(3);
  EXPECT_EQ(plain.to_vector(), (std::vector<double>{1, 1, 3, 3}));
  EXPECT_ERROR(plain.split(2)[0].add_(leaf[0]),
               "A view was created in no_grad mode and is being modified inplace with grad mode "
               "enabled." +
                   rest);
  const autograd::NoGrad no_grad;
  x.split(2)[0].zero_();
  EXPECT_EQ(x.to_vector(), (std::vector<double>{0, 0, 4, 4}));
}

// What ends in a view that nobody else holds is no view.
TEST(ViewWrites, ReachThePoolOfASingleImage) {
  const Tensor w = ones({1}, {.requires_grad = true}), image = ones({1, 2, 2});
  for (const bool recorded : {false, true}) {
    Tensor y;
    {
      const autograd::GradMode mode(recorded);
      y = max_pool2d(image, 2);
    }
    y.mul_(w * 3);
    EXPECT_EQ(y.grad_fn()->name(), "MulBackward0");
    y.backward(ones({1, 1, 1}));
  }
  EXPECT_EQ(w.grad().item(), 6);
}

TEST(ViewWrites, DifferentiateTwiceWhatSavedItsResult) {
  const Tensor x = ones({3, 3}, {.requires_grad = true});
  const Tensor b = x * 1.0;
  b[0].relu_();
  b[1].exp_();
  const auto g = autograd::grad((b * b).sum(), {x}, {.create_graph = true})[0];
  const auto second = autograd::grad((g * g).sum(), {x})[0].to_vector();
  // g = 2 x and 2 exp(2x), so d(g^2) = 8 x and 16 exp(4x).
  for (size_t i = 0; i < 9; ++i) {
    const double expected = i / 3 == 1 ? 16 * std::exp(4.0) : 8.0;
    EXPECT_NEAR(second[i], expected, 1e-5 * expected) << i;
  }
}

TEST(ViewWrites, DifferentiateTwice) {
  manual_seed(1);
  const auto function = [](const std::vector<Tensor>& in) {
    const Tensor y = in[0] * 1.0;
    y.view({3, 2}).t()[0].mul_(in[1]);
    y.narrow(0, 2, 2).add_(1.0);
    return y * y * y;
  };
  const std::vector<Tensor> inputs = {leaf({6}), leaf({3})};
  autograd::gradcheck(function, inputs);
  autograd::gradgradcheck(function, inputs);
}

TEST(ViewWrites, RetainedGradientsFollowTheLastValue) {
  const Tensor x = tensor({1.0, 2.0}, {.requires_grad = true});
  const Tensor y = x * 2;
  const Tensor view = y[0];
  y.retain_grad();
  view.retain_grad();
  view.mul_(10);
  (y * y).sum().backward();
  EXPECT_EQ(y.grad().to_vector(), (std::vector<double>{40, 8}));
}

TEST(ViewWrites, AreRefusedOnLeaves) {
  const Tensor x = tensor({1.0, 2.0}, {.requires_grad = true});
  EXPECT_ERROR(x[1].copy_(x[0]),
               "a view of a leaf Variable that requires grad is being used in an in-place "
               "operation.");
}

}  // namespace
}  // namespace lockstep
