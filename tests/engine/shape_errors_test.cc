// Wrong dtypes, sizes and windows and the texts they give: PyTorch's.
#include <limits>

#include "lockstep/engine/ops/ops.h"

#include "engine/wrong_uses.h"

namespace lockstep::testing {
namespace {

// Texts of matrix products, views and arithmetic.
std::vector<WrongUse> wrong_arithmetic() {
  const Tensor x = ones({3, 4}), v = ones({3}), truths = tensor({true, false, true});
  const Tensor whole = tensor({1, 2, 3}), wide = ones({3}, {DType::kFloat64});
  constexpr DType kByte = DType::kUInt8;
  constexpr int64_t kHuge = int64_t{1} << 62;
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const Tensor bytes = tensor({0, 1, 3}).to(kByte);
  const char* subtraction =
      "Subtraction, the `-` operator, with a bool tensor is not supported. If you are trying to "
      "invert a mask, use the `~` or `logical_not()` operator instead.";
  const char* subtraction_of_two =
      "Subtraction, the `-` operator, with two bool tensors is not supported. Use the `^` or "
      "`logical_xor()` operator instead.";
  return {
      WRONG(subtraction, 1 - truths),
      WRONG(subtraction, truths - 1),
      WRONG(subtraction, v - truths),
      WRONG(subtraction, truths - v),
      WRONG(subtraction, v - true),
      WRONG(subtraction, v.sub(truths, 2)),
      WRONG(subtraction, ones({3}).sub_(truths)),
      WRONG(subtraction, truths.clone().sub_(1)),
      WRONG(subtraction_of_two, truths - truths),
      WRONG(subtraction_of_two, true - truths),
      WRONG(subtraction_of_two, truths.clone().sub_(truths)),
      WRONG("Negation, the `-` operator, on a bool tensor is not supported. If you are trying to "
            "invert a mask, use the `~` or `logical_not()` operator instead.",
            -truths),
      WRONG("Integers to negative integer powers are not allowed.", pow(whole, -1)),
      WRONG("Integers to negative integer powers are not allowed.", whole.clone().pow_(-2)),
      WRONG("Found dtype Long but expected Float", whole.clone().pow_(0.5)),
      WRONG("Found dtype Bool but expected Long", truths.clone().pow_(2)),
      WRONG("result type Float can't be cast to the desired output type Long",
            whole.clone().add_(0.5)),
      WRONG("result type Float can't be cast to the desired output type Long",
            whole.clone().sub_(v)),
      WRONG("result type Float can't be cast to the desired output type Long",
            whole.clone().mul_(0.5)),
      WRONG("result type Float can't be cast to the desired output type Long",
            whole.clone().div_(2)),
      WRONG("result type Float can't be cast to the desired output type Long",
            whole.clone().exp_()),
      WRONG("result type Long can't be cast to the desired output type Bool",
            truths.clone().add_(1)),
      WRONG("output with shape [3] doesn't match the broadcast shape [2, 3]",
            ones({3}).add_(ones({2, 3}))),
      WRONG("The size of tensor a (3) must match the size of tensor b (2) at non-singleton "
            "dimension 0",
            v + ones({2})),
      WRONG("Storage size calculation overflowed with sizes=[4611686018427387904, 8]",
            zeros({kHuge, 8})),
      WRONG("Storage size calculation overflowed with sizes=[4611686018427387904]", zeros({kHuge})),
      WRONG("numel: integer multiplication overflow, sizes=[4611686018427387904, 4]",
            ones({1, 4}).expand({kHuge, 4})),
      WRONG("start (0) + length (4611686018427387904) exceeds dimension size (3).",
            v.narrow(0, 0, kHuge)),
      WRONG("start (2) + length (9223372036854775807) exceeds dimension size (3).",
            v.narrow(0, 2, std::numeric_limits<int64_t>::max())),
      WRONG("Found dtype Long but expected Float", binary_cross_entropy(v, whole)),
      WRONG("result type Float can't be cast to the desired output type Long",
            binary_cross_entropy_with_logits(v, whole)),
      WRONG("value cannot be converted to type uint8_t without overflow", full({1}, 256, {kByte})),
      WRONG("value cannot be converted to type uint8_t without overflow", full({1}, -0.5, {kByte})),
      WRONG("value cannot be converted to type uint8_t without overflow",
            bytes.clone().fill_(-256)),
      WRONG("value cannot be converted to type uint8_t without overflow",
            bytes.clone().fill_(kNan)),
      WRONG("value cannot be converted to type uint8_t without overflow",
            masked_fill(bytes, truths, 300)),
      WRONG("value cannot be converted to type uint8_t without overflow",
            masked_fill(bytes, truths, tensor(300))),
      WRONG("value cannot be converted to type uint8_t without overflow",
            bytes.clone().masked_fill_(truths, 300)),
      WRONG("value cannot be converted to type uint8_t without overflow",
            where(truths, bytes, 300)),
      WRONG("value cannot be converted to type uint8_t without overflow", clamp(bytes, 0, 300)),
      WRONG("value cannot be converted to type uint8_t without overflow", clamp_max(bytes, 300)),
      WRONG("value cannot be converted to type uint8_t without overflow",
            bytes.clone().clamp_(300, 400)),
      WRONG("value cannot be converted to type uint8_t without overflow", pow(bytes, 300)),
      WRONG("value cannot be converted to type int without overflow",
            full({1}, int64_t{1} << 31, {DType::kInt32})),
      WRONG("value cannot be converted to type int without overflow",
            clamp_min(whole.to(DType::kInt32), -1e10)),
      WRONG("value cannot be converted to type int64_t without overflow",
            whole.clone().fill_(1e19)),
      WRONG("value cannot be converted to type int64_t without overflow",
            masked_fill(whole, truths, kInfinity)),
      WRONG("value cannot be converted to type float without overflow",
            masked_fill(v, truths, 1e300)),
      WRONG("value cannot be converted to type float without overflow", clamp(bytes, 0.5, 1e300)),
      WRONG("value cannot be converted to type at::Half without overflow",
            full({1}, 65519, {DType::kFloat16})),
      WRONG("value cannot be converted to type at::BFloat16 without overflow",
            full({1}, 3.4e38, {DType::kBFloat16})),
      WRONG("cannot do hardtanh on an unsigned type with negative limits", hardtanh(bytes)),
      WRONG("result type Float can't be cast to the desired output type Long",
            dropout(whole, 0.5, true)),
      WRONG("Float did not match Double", allclose(v, wide)),
      WRONG("Mask tensor can take 0 and 1 values only", masked_fill(v, bytes, 1)),
      WRONG("Mask tensor can take 0 and 1 values only", masked_select(v, bytes)),
      WRONG("where expected condition to be a boolean tensor, but got a tensor with dtype Long",
            where(whole, v, v)),
      WRONG("self must be a matrix", mm(v, x)),
      WRONG("mat2 must be a matrix", mm(x, v)),
      WRONG("self must be a matrix", mm(v, v)),
      WRONG("batch1 must be a 3D tensor", bmm(x, x)),
      WRONG("batch2 must be a 3D tensor", bmm(ones({1, 2, 3}), x)),
      WRONG("expected scalar type Long but found Float", mm(whole.view({1, 3}), v.view({3, 1}))),
      WRONG("expected scalar type Float but found Double", mv(x.t(), wide)),
      WRONG("dot : expected both vectors to have same dtype, but found Float and Double",
            dot(v, wide)),
      WRONG("self and mat2 must have the same dtype", linear(x, ones({3, 4}), wide)),
      WRONG("shape '[5]' is invalid for input of size 12", x.view({5})),
      WRONG("shape '[5, -1]' is invalid for input of size 12", x.view({5, -1})),
      WRONG("shape '[5]' is invalid for input of size 12", x.reshape({5})),
      WRONG("shape '[-1, 0]' is invalid for input of size 12", x.reshape({-1, 0})),
      WRONG("cannot reshape tensor of 0 elements into shape [-1, 0] because the unspecified "
            "dimension size -1 can be any value and is ambiguous",
            ones({0, 3}).reshape({-1, 0})),
      WRONG("cannot reshape tensor of 0 elements into shape [-1, 0] because the unspecified "
            "dimension size -1 can be any value and is ambiguous",
            ones({0, 3}).view({-1, 0})),
      WRONG("only one dimension can be inferred", x.view({-1, -1})),
      WRONG("invalid shape dimension -2", x.view({-2, 6})),
      WRONG("view size is not compatible with input tensor's size and stride (at least one "
            "dimension spans across two contiguous subspaces). Use .reshape(...) instead.",
            x.t().view({12})),
      WRONG("a Tensor with 12 elements cannot be converted to Scalar", x.item()),
      WRONG("a Tensor with 0 elements cannot be converted to Scalar", ones({0}).item()),
      WRONG("Trying to create tensor with negative dimension -1: [-1]", zeros({-1})),
      WRONG("Trying to create tensor with negative dimension -3: [2, -3]", ones({2, -3})),
      WRONG("Trying to create tensor with negative dimension -3: [2, -3]", empty({2, -3})),
      WRONG("Trying to create tensor with negative dimension -3: [2, -3]", rand({2, -3})),
      WRONG("index_add_(): Expected dtype int32/int64 for index but got: Byte",
            index_add(v, 0, bytes, v)),
      WRONG("index_select(): Expected dtype int32 or int64 for index", index_select(v, 0, v)),
      WRONG("Expected tensor for argument #1 'indices' to have one of the following scalar types: "
            "Long, Int; but got torch.ByteTensor instead (while checking arguments for embedding)",
            embedding(bytes, x)),
  };
}

// Texts of what makes, copies and expands tensors.
std::vector<WrongUse> wrong_sizes() {
  const Tensor x = ones({2, 3}), v = ones({2});
  return {
      WRONG("n must be greater or equal to 0, got -1", eye(-1)),
      WRONG("step must be nonzero", arange(0.0, 1.0, 0)),
      WRONG("upper bound and larger bound inconsistent with step sign", arange(0.0, 1.0, -1)),
      WRONG("upper bound and larger bound inconsistent with step sign", arange(3, 0)),
      WRONG("unsupported range: 0 -> inf", arange(std::numeric_limits<double>::infinity())),
      WRONG("The size of tensor a (2) must match the size of tensor b (4) at non-singleton "
            "dimension 0",
            x.copy_(ones({4, 3}))),
      WRONG("output with shape [2] doesn't match the broadcast shape [3, 2]",
            v.copy_(ones({3, 2}))),
      WRONG("expand(torch.FloatTensor{[2, 3]}, size=[2]): the number of sizes provided (1) must be "
            "greater or equal to the number of dimensions in the tensor (2)",
            x.expand({2})),
      WRONG("The expanded size of the tensor (-1) isn't allowed in a leading, non-existing "
            "dimension 0",
            v.expand({-1, 2})),
      WRONG("select(): index 0 out of range for tensor of size [0] at dimension 0",
            ones({0}).select(0, 0)),
      WRONG("select(): index -1 out of range for tensor of size [0, 3] at dimension 0",
            ones({0, 3}).select(0, -1)),
      WRONG("select(): index 2 out of range for tensor of size [2, 3] at dimension 0", x[2]),
      WRONG("select() cannot be applied to a 0-dim tensor.", x[0][0][0]),
      WRONG("expected scalar type Long but found Float", nll_loss(x, v)),
      WRONG("expected scalar type Long but found Int", nll_loss(x, v.to(DType::kInt32))),
  };
}

// Texts of convolution and pooling.
std::vector<WrongUse> wrong_windows() {
  const Tensor image = ones({1, 2, 2, 2}), kernel = ones({1, 2, 1, 1}), line = ones({1, 2, 2});
  return {
      WRONG("pad should be at most half of kernel size, but got pad=2 and kernel_size=2",
            max_pool2d(image, {.kernel = {2, 2}, .stride = {2, 2}, .padding = {2, 2}})),
      WRONG("pad should be at most half of kernel size, but got pad=2 and kernel_size=2",
            avg_pool2d(image, {.kernel = {3, 2}, .stride = {1, 1}, .padding = {1, 2}})),
      WRONG("pad must be non-negative, but got pad: -1",
            max_pool2d(image, {.kernel = {2, 2}, .stride = {1, 1}, .padding = {-1, 0}})),
      WRONG("stride should not be zero", max_pool2d(image, {.kernel = {2, 2}, .stride = {0, 1}})),
      WRONG("stride should be greater than zero, but got dH: -1 dW: 1",
            max_pool2d(image, {.kernel = {2, 2}, .stride = {-1, 1}})),
      WRONG("kernel size should be greater than zero, but got kH: 0 kW: 1",
            avg_pool2d(image, {.kernel = {0, 1}, .stride = {1, 1}})),
      WRONG("dilation should be greater than zero, but got dilationH: 0 dilationW: 1",
            max_pool2d(image, {.kernel = {1, 1}, .stride = {1, 1}, .dilation = {0, 1}})),
      WRONG("Given input size: (2x2x2). Calculated output size: (2x0x0). Output size is too small",
            max_pool2d(image, 3)),
      WRONG("Given input size: (3x2x5). Calculated output size: (3x0x1). Output size is too small",
            avg_pool2d(ones({1, 3, 2, 5}), 3)),
      WRONG(
          "Given input size: (3x2x5). Calculated output size: (3x-2x-1). Output size is too small",
          max_pool2d(ones({3, 2, 5}), {.kernel = {8, 8}, .stride = {2, 2}})),
      WRONG("non-empty 3D or 4D (batch mode) tensor expected for input",
            max_pool2d(ones({2, 2}), 1)),
      WRONG("Expected 3D or 4D (batch mode) tensor with optional 0 dim batch size for input, but "
            "got:[1, 0, 2, 2]",
            avg_pool2d(ones({1, 0, 2, 2}), 1)),
      WRONG("adaptive_avg_pool2d(): Expected 3D or 4D tensor, but got [2, 2]",
            adaptive_avg_pool2d(ones({2, 2}), 2, 2)),
      WRONG("adaptive_max_pool2d(): Expected input to have non-zero size for non-batch dimensions, "
            "but input has sizes [1, 2, 0, 2] with dimension 2 being empty",
            adaptive_max_pool2d(ones({1, 2, 0, 2}), 2, 2)),
      WRONG("adaptive_avg_pool2d: elements of output_size must be greater than or equal to 0 but "
            "received {-1, 2}",
            adaptive_avg_pool2d(image, -1, 2)),
      WRONG(
          "Expected 3D (unbatched) or 4D (batched) input to conv2d, but got input of size: [3, 3]",
          conv2d(ones({3, 3}), kernel)),
      WRONG("Expected 2D (unbatched) or 3D (batched) input to conv1d, but got input of size: [3]",
            conv1d(ones({3}), ones({1, 2, 2}))),
      WRONG("Expected 3D (unbatched) or 4D (batched) input to conv_transpose2d, but got input of "
            "size: [3, 3]",
            conv_transpose2d(ones({3, 3}), ones({2, 1, 2, 2}))),
      WRONG("Given groups=1, weight of size [1, 2, 2, 2], expected input[1, 1, 3, 3] to have 2 "
            "channels, but got 1 channels instead",
            conv2d(ones({1, 3, 3}), ones({1, 2, 2, 2}))),
      WRONG("Given groups=1, weight of size [1, 2, 2], expected input[1, 1, 3] to have 2 channels, "
            "but got 1 channels instead",
            conv1d(ones({1, 3}), ones({1, 2, 2}))),
      WRONG("Calculated padded input size per channel: (2 x 2). Kernel size: (3 x 3). Kernel size "
            "can't be greater than actual input size",
            conv2d(image, ones({1, 2, 3, 3}))),
      WRONG("Calculated padded input size per channel: (2). Kernel size: (3). Kernel size can't be "
            "greater than actual input size",
            conv1d(line, ones({1, 2, 3}))),
      WRONG("Given weight of size [1, 2, 1, 1], expected bias to be 1-dimensional with 1 elements, "
            "but got bias of size [3] instead",
            conv2d(image, kernel, ones({3}))),
      WRONG("Given transposed=1, weight of size [2, 1, 1, 1], expected bias to be 1-dimensional "
            "with 1 elements, but got bias of size [3] instead",
            conv_transpose2d(image, ones({2, 1, 1, 1}), ones({3}))),
      WRONG("non-positive stride is not supported",
            conv2d(image, kernel, {}, Conv2dParams{.stride = {0, 1}})),
      WRONG("negative padding is not supported",
            conv2d(image, kernel, {}, Conv2dParams{.padding = {0, -1}})),
      WRONG("dilation should be greater than zero, but got [0, 0]",
            conv2d(image, kernel, {}, Conv2dParams{.dilation = {0, 0}})),
      WRONG("non-positive groups is not supported",
            conv2d(image, kernel, {}, Conv2dParams{.groups = 0})),
      WRONG("Given input size per channel: (2 x 2). Calculated output size per channel: (-4 x -4). "
            "Output size is too small",
            conv_transpose2d(image, ones({2, 1, 1, 1}), {}, {.padding = {3, 3}})),
      WRONG("expected scalar type Float but found Double",
            conv2d(image, kernel.to(DType::kFloat64))),
      WRONG("Input type (torch.FloatTensor) and bias type (torch.DoubleTensor) should be the same",
            conv2d(image, kernel, ones({1}, {DType::kFloat64}))),
  };
}

TEST(ShapeErrors, Texts) {
  const auto arithmetic = wrong_arithmetic(), sizes = wrong_sizes(), windows = wrong_windows();
  EXPECT_GE(arithmetic.size() + sizes.size() + windows.size(), 90u);
  expect_texts(arithmetic);
  expect_texts(sizes);
  expect_texts(windows);
}

}  // namespace
}  // namespace lockstep::testing
