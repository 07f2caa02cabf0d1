// Wrong uses of the op set and the texts they give: PyTorch's, with Lockstep's spelling of sizes
// and dtypes.
#include <functional>
#include <limits>

#include <gtest/gtest.h>

#include "lockstep/engine/ops/ops.h"

namespace lockstep::testing {
namespace {

struct WrongUse {
  const char* text;
  std::function<void()> use;
};

#define WRONG(text, ...)                          \
  {                                               \
    text, [=] { static_cast<void>(__VA_ARGS__); } \
  }

std::vector<WrongUse> wrong_uses() {
  const Tensor x = ones({3, 4}), v = ones({3}), s = tensor(1.0);
  const Tensor wide = ones({1}, {DType::kFloat64});
  const auto at = [](std::initializer_list<int64_t> values) { return tensor(values); };
  const Tensor mask = eq(x, 1), zero = at({0});
  const Tensor image = ones({1, 2, 3, 3});
  return {
      WRONG("torch.cat(): expected a non-empty list of Tensors", cat({})),
      WRONG("zero-dimensional tensor (at position 0) cannot be concatenated", cat({s, s})),
      WRONG("Tensors must have same number of dimensions: got 2 and 1", cat({x, v})),
      WRONG("Sizes of tensors must match except in dimension 0. Expected size 4 but got size 5 for "
            "tensor number 1 in the list.",
            cat({x, ones({3, 5})})),
      WRONG("stack expects a non-empty TensorList", stack({})),
      WRONG(
          "stack expects each tensor to be equal size, but got [3, 4] at entry 0 and [3] at entry "
          "1",
          stack({x, v})),
      WRONG("split expects split_size be non-negative, but got split_size=-1", split(x, -1)),
      WRONG("split_size can only be 0 if dimension size is 0, but got dimension size of 3",
            split(x, 0)),
      WRONG("split_with_sizes expects split_sizes to sum exactly to 3 (input tensor's size at "
            "dimension 0), but got split_sizes=[1, 1]",
            split(x, Dims{1, 1})),
      WRONG("split expects at least a 1-dimensional tensor", split(s, 1)),
      WRONG("chunk expects `chunks` to be greater than 0, got: 0", chunk(x, 0)),
      WRONG("chunk expects at least a 1-dimensional tensor", chunk(s, 1)),
      WRONG("Number of dimensions of repeat dims can not be smaller than number of dimensions of "
            "tensor",
            repeat(x, {2})),
      WRONG("Trying to create tensor with negative dimension -4", repeat(x, {2, -1})),
      WRONG("dim 0 appears multiple times in the list of dims", flip(x, {0, 0})),
      WRONG("gather(): Expected dtype int64 for index", gather(x, 0, x)),
      WRONG("Index tensor must have the same number of dimensions as input tensor",
            gather(x, 0, zero)),
      WRONG("index 5 is out of bounds for dimension 0 with size 3", gather(v, 0, at({0, 5}))),
      WRONG(
          "Size does not match at dimension 1 expected index [2, 5] to be smaller than self [3, 4] "
          "apart from dimension 0",
          gather(x, 0, zeros({2, 5}, {DType::kInt64}))),
      WRONG("scatter(): Expected dtype int64 for index", scatter_add(x, 0, x, x)),
      WRONG("scatter(): Expected self.dtype to be equal to src.dtype",
            scatter_add(v, 0, zero, wide)),
      WRONG("Index tensor must have the same number of dimensions as self tensor",
            scatter_add(x, 0, zero, x)),
      WRONG("index 5 is out of bounds for dimension 0 with size 3",
            scatter_add(v, 0, at({5}), ones({1}))),
      WRONG(
          "Expected index [3] to be smaller than self [3] apart from dimension 0 and to be smaller "
          "size than src [1]",
          scatter_add(v, 0, at({0, 1, 2}), ones({1}))),
      WRONG("index_select(): Index is supposed to be a vector",
            index_select(v, 0, zeros({1, 1}, {DType::kInt64}))),
      WRONG("index_select() cannot be applied to a 0-dim tensor.", index_select(s, 0, zero)),
      WRONG("index_add_(): self (float32) and source (float64) must have the same scalar type",
            index_add(v, 0, zero, wide)),
      WRONG(
          "index_add_(): Number of indices (1) should be equal to source.size(dim): (2), for dim: "
          "0",
          index_add(x, 0, zero, ones({2, 4}))),
      WRONG("index 5 is out of bounds for dimension 0 with size 3", index(v, {at({5})})),
      WRONG("index -4 is out of bounds for dimension 0 with size 3", index(v, {at({-4})})),
      WRONG("too many indices for tensor of dimension 1", index(v, {zero, zero})),
      WRONG(
          "The shape of the mask [3, 4] at index 0 does not match the shape of the indexed tensor "
          "[4, 3] at index 0",
          index(ones({4, 3}), {mask})),
      WRONG("tensors used as indices must be long, byte or bool tensors", index(x, {v})),
      WRONG("shape mismatch: indexing tensors could not be broadcast together with shapes [2], [3]",
            index(x, {at({0, 1}), at({0, 1, 2})})),
      WRONG("masked_select: expected BoolTensor or ByteTensor for mask", masked_select(x, x)),
      WRONG("masked_fill only supports boolean masks, but got mask of float32",
            masked_fill(x, x, 0)),
      WRONG("masked_fill_ only supports a 0-dimensional value tensor, but got tensor with 1 "
            "dimension(s).",
            masked_fill(x, mask, v)),
      WRONG("'weight' must be 2-D", embedding(zero, v)),
      WRONG("Class values must be non-negative.", one_hot(at({-1}))),
      WRONG("Class values must be smaller than num_classes.", one_hot(at({0, 5}), 3)),
      WRONG("one_hot is only applicable to index tensor.", one_hot(v)),
      WRONG("Can not infer total number of classes from empty tensor.",
            one_hot(zeros({0}, {DType::kInt64}))),
      WRONG("tril: input tensor must have at least 2 dimensions", tril(v)),
      WRONG("selected index k out of range", topk(v, 4)),
      WRONG("max(): Expected reduction dim 0 to have non-zero size.", max(ones({0, 3}), 0)),
      WRONG("argmax(): Expected reduction dim to be specified for input.numel() == 0.",
            argmax(ones({0}))),
      WRONG("argmin(): Expected reduction dim 0 to have non-zero size.", argmin(ones({0, 3}), 0)),
      WRONG("std and var only support floating point and complex dtypes, got int64", var(zero)),
      WRONG(
          "linalg.vector_norm cannot compute the inf norm on an empty tensor because the operation "
          "does not have an identity",
          norm(ones({0}), std::numeric_limits<double>::infinity())),
      WRONG("linalg.vector_norm: Expected a floating point or complex tensor as input. Got int64",
            norm(zero, 2)),
      WRONG("Dimension out of range (expected to be in range of [-2, 1], but got 2)", prod(x, 2)),
      WRONG("Dimension out of range (expected to be in range of [-2, 1], but got 2)", cumsum(x, 2)),
      WRONG("outer: Expected 1-D argument self, but got 2-D", outer(x, v)),
      WRONG("mat1 and mat2 shapes cannot be multiplied (3x4 and 3x4)", addmm(v, x, x)),
      WRONG("The expanded size of the tensor (5) must match the existing size (3) at non-singleton "
            "dimension 1.  Target sizes: [3, 5].  Tensor sizes: [3]",
            addmm(v, x, ones({4, 5}))),
      WRONG("einsum(): more operands were provided than specified in the equation",
            einsum("ij", {x, x})),
      WRONG("einsum(): fewer operands were provided than specified in the equation",
            einsum("ij,jk", {x})),
      WRONG("einsum(): the number of subscripts in the equation (3) does not match the number of "
            "dimensions (2) for operand 0 and no ellipsis was given",
            einsum("ijk", {x})),
      WRONG(
          "einsum(): invalid subscript given at index 1 in the equation string, subscripts must be "
          "in [a-zA-Z]",
          einsum("i1", {x})),
      WRONG("einsum(): output subscript k does not appear in the equation for any input operand",
            einsum("ij->ik", {x})),
      WRONG("einsum(): output subscript i appears more than once in the output",
            einsum("ij->ii", {x})),
      WRONG(
          "einsum(): subscript j has size 3 for operand 1 which does not broadcast with previously "
          "seen size 4",
          einsum("ij,jk", {x, x})),
      WRONG("einsum(): subscript i is repeated for operand 0 but the sizes don't match, 4 != 3",
            einsum("ii", {x})),
      WRONG("einsum(): found '.' for operand 0 that is not part of any ellipsis",
            einsum("i.j", {x})),
      WRONG(
          "Given normalized_shape=[3], expected input with shape [*, 3], but got input of size[3, "
          "4]",
          layer_norm(x, {3})),
      WRONG("Expected weight to be of same shape as normalized_shape, but got weight of shape [3] "
            "and "
            "normalized_shape = [4]",
            layer_norm(x, {4}, v)),
      WRONG("Expected normalized_shape to be at least 1-dimensional, i.e., containing at least one "
            "element, but got normalized_shape = []",
            layer_norm(x, {})),
      WRONG("Expected number of channels in input to be divisible by num_groups, but got input of "
            "shape [3, 4] and num_groups=3",
            group_norm(x, 3)),
      WRONG("Expected weight to be a vector of size equal to the number of channels in input, but "
            "got weight of shape [3] and input of shape [3, 4]",
            group_norm(x, 2, v)),
      WRONG("approximate argument must be either none or tanh.", gelu(x, "foo")),
      WRONG("avg is not a valid value for reduction", reduction_from_name("avg")),
      WRONG("smooth_l1_loss does not support negative values for beta.",
            smooth_l1_loss(x, x, Reduction::kMean, -1)),
      WRONG("Using a target size ([3]) that is different to the input size ([3, 4]) is deprecated. "
            "Please ensure they have the same size.",
            binary_cross_entropy(x, v)),
      WRONG("all elements of input should be between 0 and 1", binary_cross_entropy(mul(x, 2), x)),
      WRONG("Target size ([3]) must be the same as input size ([3, 4])",
            binary_cross_entropy_with_logits(x, v)),
      WRONG("Target 9 is out of bounds.", nll_loss(x, at({0, 1, 9}))),
      WRONG("Expected input batch_size (3) to match target batch_size (2).",
            nll_loss(x, at({0, 1}))),
      WRONG("weight tensor should be defined either for all 4 classes or no classes but got weight "
            "tensor of shape: [3]",
            nll_loss(x, at({0, 1, 2}), {.weight = v})),
      WRONG("label_smoothing must be between 0.0 and 1.0. Got: 2",
            cross_entropy(x, at({0, 1, 2}), {.label_smoothing = 2})),
      WRONG("Given transposed=1, weight of size [3, 1, 2, 2], expected input[1, 2, 3, 3] to have 3 "
            "channels, but got 2 channels instead",
            conv_transpose2d(image, ones({3, 1, 2, 2}))),
      WRONG("output padding must be smaller than either stride or dilation, but got "
            "output_padding_height: 1 output_padding_width: 0 stride_height: 1 stride_width: 1 "
            "dilation_height: 1 dilation_width: 1",
            conv_transpose2d(image, ones({2, 1, 2, 2}), {}, {.output_padding = {1, 0}})),
      WRONG(
          "scaled_dot_product_attention: Explicit attn_mask should not be set when is_causal=True",
          scaled_dot_product_attention(x, x, x, {.mask = mask, .causal = true})),
      WRONG("size mismatch, got 3, 3x4,3", matmul(x, v)),
      WRONG("size mismatch, got 6, 6x4,3", matmul(ones({2, 3, 4}), v)),
      WRONG("vector + matrix @ vector expected, got 1, 1, 1", mv(v, v)),
      WRONG("inconsistent tensor size, expected tensor [3] and src [2] to have the same number of "
            "elements, but got 3 and 2 elements respectively",
            matmul(v, ones({2}))),
      WRONG("1D tensors expected, but got 2D and 1D tensors", dot(x, v)),
      WRONG("torch.clamp: At least one of 'min' or 'max' must not be None",
            clamp(x, Tensor(), Tensor())),
      WRONG("movedim: Invalid source or destination dims: source ([0, 1] dims) should contain the "
            "same number of dims as destination ([0] dims)",
            movedim(x, {0, 1}, {0})),
      WRONG("movedim: repeated dim in `source` ([0, 0])", movedim(x, {0, 0}, {0, 1})),
      WRONG("movedim: repeated dim in `destination` ([0, -2])", movedim(x, {0, 1}, {0, -2})),
      WRONG("Dimension specified as 0 but tensor has no dimensions", unbind(s)),
      WRONG("Index put requires the source and destination dtypes match, got float32 for the "
            "destination and float64 for the source.",
            index_put(v, {zero}, wide)),
      WRONG("shape mismatch: value tensor of shape [3] cannot be broadcast to indexing result of "
            "shape [2]",
            index_put(v, {at({0, 1})}, v)),
      WRONG("masked_fill only supports boolean masks, but got mask of float32",
            zeros({3, 4}).masked_fill_(x, 1)),
  };
}

// Texts of matrix products, views and arithmetic.
std::vector<WrongUse> wrong_arithmetic() {
  const Tensor x = ones({3, 4}), v = ones({3}), truths = tensor({true, false, true});
  const Tensor whole = tensor({1, 2, 3}), wide = ones({3}, {DType::kFloat64});
  const Tensor bytes = tensor({0, 1, 3}).to(DType::kUInt8);
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
      WRONG("Found dtype int64 but expected float32", whole.clone().pow_(0.5)),
      WRONG("Found dtype bool but expected int64", truths.clone().pow_(2)),
      WRONG("result type float32 can't be cast to the desired output type int64",
            whole.clone().add_(0.5)),
      WRONG("result type float32 can't be cast to the desired output type int64",
            whole.clone().sub_(v)),
      WRONG("result type float32 can't be cast to the desired output type int64",
            whole.clone().mul_(0.5)),
      WRONG("result type float32 can't be cast to the desired output type int64",
            whole.clone().div_(2)),
      WRONG("result type float32 can't be cast to the desired output type int64",
            whole.clone().exp_()),
      WRONG("result type int64 can't be cast to the desired output type bool",
            truths.clone().add_(1)),
      WRONG("output with shape [3] doesn't match the broadcast shape [2, 3]",
            ones({3}).add_(ones({2, 3}))),
      WRONG("The size of tensor a (3) must match the size of tensor b (2) at non-singleton "
            "dimension 0",
            v + ones({2})),
      WRONG("Mask tensor can take 0 and 1 values only", masked_fill(v, bytes, 1)),
      WRONG("Mask tensor can take 0 and 1 values only", masked_select(v, bytes)),
      WRONG("where expected condition to be a boolean tensor, but got a tensor with dtype int64",
            where(whole, v, v)),
      WRONG("self must be a matrix", mm(v, x)),
      WRONG("mat2 must be a matrix", mm(x, v)),
      WRONG("self must be a matrix", mm(v, v)),
      WRONG("batch1 must be a 3D tensor", bmm(x, x)),
      WRONG("batch2 must be a 3D tensor", bmm(ones({1, 2, 3}), x)),
      WRONG("expected scalar type int64 but found float32", mm(whole.view({1, 3}), v.view({3, 1}))),
      WRONG("expected scalar type float32 but found float64", mv(x.t(), wide)),
      WRONG("dot : expected both vectors to have same dtype, but found float32 and float64",
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
      WRONG("index_add_(): Expected dtype int32/int64 for index but got: uint8",
            index_add(v, 0, bytes, v)),
      WRONG("index_select(): Expected dtype int32 or int64 for index", index_select(v, 0, v)),
      WRONG("Expected tensor for argument #1 'indices' to have one of the following scalar types: "
            "Long, Int; but got uint8 instead (while checking arguments for embedding)",
            embedding(bytes, x)),
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
      WRONG("expected scalar type float32 but found float64",
            conv2d(image, kernel.to(DType::kFloat64))),
      WRONG("Input type (float32) and bias type (float64) should be the same",
            conv2d(image, kernel, ones({1}, {DType::kFloat64}))),
  };
}

TEST(OpSetErrors, Texts) {
  auto uses = wrong_uses();
  for (const auto& more : {wrong_arithmetic(), wrong_windows()}) {
    uses.insert(uses.end(), more.begin(), more.end());
  }
  EXPECT_GE(uses.size(), 180u);
  for (const WrongUse& wrong : uses) {
    std::string thrown = "(nothing was thrown)";
    try {
      wrong.use();
    } catch (const Error& e) {
      thrown = e.what();
    }
    EXPECT_EQ(thrown, wrong.text);
  }
}

// Texts that go on after PyTorch's with the offending index.
TEST(OpSetErrors, IndexOutOfRange) {
  const Tensor v = ones({3}), five = tensor({int64_t{5}});
  for (const auto& use : std::vector<std::function<void()>>{
           [&] { index_select(v, 0, five); }, [&] { index_add(v, 0, five, ones({1})); },
           [&] {
             embedding(five, ones({2, 2}));
           }}) {
    std::string thrown;
    try {
      use();
    } catch (const Error& e) {
      thrown = e.what();
    }
    EXPECT_EQ(thrown.substr(0, 27), "index out of range in self:");
  }
}

}  // namespace
}  // namespace lockstep::testing
