// In-place ops whose operands share memory, and what may stand in for a gradient or a parameter.
#include <gtest/gtest.h>

#include "lockstep/engine/autograd/backward.h"
#include "lockstep/engine/ops/ops.h"

#include "engine/throws.h"

namespace lockstep {
namespace {

using Values = std::vector<double>;

Tensor matrix() { return arange(0, 9, 1, {DType::kFloat32}).view({3, 3}); }

TEST(InPlace, OperandsThatOverlapElsewhereAreRefused) {
  const std::string text =
      "unsupported operation: some elements of the input tensor and the written-to tensor refer to "
      "a single memory location. Please clone() the tensor before performing the operation.";
  const Tensor rows = matrix(), line = rows.view({9}), mask = tensor({true, false, true});
  EXPECT_ERROR(rows.sub_(rows.narrow(0, 0, 1)), text);
  EXPECT_ERROR(rows.add_(rows.transpose(0, 1)), text);
  EXPECT_ERROR(rows.mul_(rows[0]), text);
  EXPECT_ERROR(rows.div_(line[0]), text);
  EXPECT_ERROR(rows.copy_(rows.transpose(0, 1)), text);
  EXPECT_ERROR(line.narrow(0, 1, 8).add_(line.narrow(0, 0, 8)), text);
  EXPECT_ERROR(line.narrow(0, 1, 8).copy_(line.narrow(0, 0, 8)), text);
  EXPECT_ERROR(mask.narrow(0, 0, 2).masked_fill_(mask.narrow(0, 1, 2), false), text);
  EXPECT_ERROR(line.index_put_({tensor({0, 1})}, line.narrow(0, 4, 2)), text);
  EXPECT_ERROR(line.index_put_({arange(9)}, line), text);
  EXPECT_EQ(rows.to_vector(), matrix().to_vector());  // none of them wrote
  EXPECT_EQ(rows.version(), 0u);
}

TEST(InPlace, WhatMayOverlapIsReadBeforeItChanges) {
  const Tensor doubled = matrix();
  doubled.add_(doubled).add_(doubled.view({3, 3}));
  EXPECT_EQ(doubled.to_vector(), (Values{0, 4, 8, 12, 16, 20, 24, 28, 32}));
  const Tensor line = arange(0, 9, 1, {DType::kFloat32});
  line.narrow(0, 0, 3).add_(line.slice(0, 0, 6, 2));
  EXPECT_EQ(line.to_vector(), (Values{0, 3, 6, 3, 4, 5, 6, 7, 8}));
  line.slice(0, 0, 6, 2).copy_(line.narrow(0, 1, 3));
  EXPECT_EQ(line.to_vector(), (Values{3, 3, 6, 3, 3, 5, 6, 7, 8}));
  const Tensor first = matrix();
  first.mul_(first.narrow(1, 1, 1));
  EXPECT_EQ(first.to_vector(), (Values{0, 1, 2, 12, 16, 20, 42, 49, 56}));
  line.narrow(0, 0, 3).copy_(line.narrow(0, 3, 3));
  EXPECT_EQ(line.to_vector(), (Values{3, 3, 5, 3, 3, 5, 6, 7, 8}));
}

TEST(InPlace, ExpandedTensorsTakeOneValueOnly) {
  const std::string text =
      "unsupported operation: more than one element of the written-to tensor refers to a single "
      "memory location. Please clone() the tensor before performing the operation.";
  const Tensor wide = zeros({1, 2}).expand({3, 2});
  EXPECT_ERROR(wide.add_(1), text);
  EXPECT_ERROR(wide.copy_(ones({3, 2})), text);
  EXPECT_ERROR(wide.normal_(), text);
  EXPECT_ERROR(wide.exp_(), text);
  EXPECT_EQ(wide.fill_(4).to_vector(), Values(6, 4));
  EXPECT_EQ(wide.zero_().to_vector(), Values(6, 0));
  const Tensor x = ones({1, 2}, {.requires_grad = true}), y = x * 2;
  y.expand({3, 2}).fill_(4);
  (y * y).sum().backward();
  EXPECT_EQ(x.grad().to_vector(), (Values{0, 0}));
  // Of nothing everything may be written.
  for (const Dims& sizes : {Dims{0, 3}, Dims{3, 0}}) {
    const Tensor none = ones({sizes[0] ? 1 : 0, sizes[1] ? 1 : 0}).expand(sizes);
    none.add_(1).mul_(ones(sizes)).copy_(ones(sizes)).normal_();
    none.exp_().masked_fill_(ones(sizes, {DType::kBool}), 1);
    EXPECT_EQ(none.sizes(), sizes);
  }
}

TEST(InPlace, AMaskedFillKeepsWhatItDoesNotFill) {
  const Tensor mask = tensor({true, false}), big = tensor({1, (int64_t{1} << 53) + 1});
  EXPECT_EQ(big.masked_fill(mask, 2.5).data<int64_t>()[1], big.data<int64_t>()[1]);
  EXPECT_EQ(big.masked_fill(mask, tensor(2.5)).to_vector()[0], 2);
  EXPECT_EQ(tensor({false, false}).masked_fill(mask, 0.5).to_vector(), (Values{1, 0}));
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
