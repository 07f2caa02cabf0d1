// In-place ops whose operands share memory, and what may stand in for a gradient or a parameter.
#include <gtest/gtest.h>

#include "lockstep/engine/autograd/backward.h"
#include "lockstep/engine/ops/ops.h"

#include "engine/throws.h"

namespace lockstep {
namespace {

using Values = std::vector<double>;

Tensor matrix() { return arange(0, 9, 1, {DType::kFloat32}).view({3, 3}); }

TEST(InPlace, OperandsThatOverlapAreReadBeforeTheyChange) {
  const Tensor rows = arange(0, 6, 1, {DType::kFloat32}).view({3, 2});
  rows.sub_(rows.narrow(0, 0, 1));
  EXPECT_EQ(rows.to_vector(), (Values{0, 0, 2, 2, 4, 4}));
  const Tensor sum = matrix();
  sum.add_(sum.transpose(0, 1));
  EXPECT_EQ(sum.to_vector(), (Values{0, 4, 8, 4, 8, 12, 8, 12, 16}));
  const Tensor shifted = ones({8});
  shifted.narrow(0, 1, 7).add_(shifted.narrow(0, 0, 7));
  EXPECT_EQ(shifted.to_vector(), (Values{1, 2, 2, 2, 2, 2, 2, 2}));
  const Tensor turned = matrix();
  turned.copy_(turned.transpose(0, 1));
  EXPECT_EQ(turned.to_vector(), (Values{0, 3, 6, 1, 4, 7, 2, 5, 8}));
  const Tensor doubled = matrix();
  doubled.add_(doubled);
  EXPECT_EQ(doubled.to_vector(), (Values{0, 2, 4, 6, 8, 10, 12, 14, 16}));
}

TEST(InPlace, ExpandedTensorsCannotBeWrittenTo) {
  const std::string text =
      "unsupported operation: more than one element of the written-to tensor refers to a single "
      "memory location. Please clone() the tensor before performing the operation.";
  const Tensor wide = zeros({1, 2}).expand({3, 2});
  EXPECT_ERROR(wide.add_(1), text);
  EXPECT_ERROR(wide.copy_(ones({3, 2})), text);
  EXPECT_ERROR(wide.fill_(1), text);
  EXPECT_ERROR(wide.normal_(), text);
}

TEST(Hooks, AReplacementMustFitTheGradient) {
  const Tensor x = ones({4}, {.requires_grad = true});
  {
    const auto hook = x.register_hook([](const Tensor&) { return ones({1}); });
    EXPECT_ERROR(
        (x.sum().backward(), 0),
        "[hook] a hook returned [1] of float32 for a gradient of [4] of float32; both must "
        "be the same");
  }
  const Tensor y = x * 2;
  const auto hook = y.register_hook([](const Tensor& g) { return g.to(DType::kFloat64); });
  EXPECT_ERROR(
      (y.sum().backward(), 0),
      "[hook] a hook returned [4] of float64 for a gradient of [4] of float32; both must be "
      "the same");
}

TEST(SetData, DropsAGradientOfAnotherDtype) {
  const Tensor x = ones({2}, {.requires_grad = true});
  x.sum().backward();
  x.set_data(x.detach().to(DType::kFloat64));
  EXPECT_FALSE(x.grad().defined());
}

}  // namespace
}  // namespace lockstep
