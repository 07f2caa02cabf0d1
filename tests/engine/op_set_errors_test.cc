// Wrong uses of the op set and the texts they give: PyTorch's.
#include <functional>
#include <limits>

#include <gtest/gtest.h>

#include "lockstep/engine/ops/ops.h"

#include "engine/wrong_uses.h"

namespace lockstep::testing {
namespace {

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
      WRONG("dim 0 appears multiple times in the list of dims", flip(s, {0, -1})),
      WRONG("Dimension out of range (expected to be in range of [-1, 0], but got 1)", flip(s, {1})),
      WRONG("gather(): Expected dtype int64 for index", gather(x, 0, x)),
      WRONG("index 1 is out of bounds for dimension 0 with size 1", gather(s, 0, tensor(1))),
      WRONG("Index tensor must have the same number of dimensions as input tensor",
            gather(s, 0, zero.view({1, 1}))),
      WRONG("Dimension out of range (expected to be in range of [-1, 0], but got 1)",
            gather(s, 1, zero)),
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
      WRONG(
          "Expected index [2] to be smaller than self [] apart from dimension 0 and to be smaller "
          "size than src [1]",
          scatter_add(s, 0, at({0, 0}), ones({1}))),
      WRONG("index 5 is out of bounds for dimension 0 with size 1",
            scatter_add(s, 0, at({5}), ones({1}))),
      WRONG("index_select(): Index is supposed to be a vector",
            index_select(v, 0, zeros({1, 1}, {DType::kInt64}))),
      WRONG("index_select(): Index to scalar can have only 1 value, got 2 value(s)",
            index_select(s, 0, at({0, 0}))),
      WRONG("index_add_(): self (Float) and source (Double) must have the same scalar type",
            index_add(v, 0, zero, wide)),
      WRONG(
          "index_add_(): Number of indices (1) should be equal to source.size(dim): (2), for dim: "
          "0",
          index_add(x, 0, zero, ones({2, 4}))),
      WRONG("index 5 is out of bounds for dimension 0 with size 3", index(v, {at({5})})),
      WRONG("index -4 is out of bounds for dimension 0 with size 3", index(v, {at({-4})})),
      WRONG("too many indices for tensor of dimension 1", index(v, {zero, zero})),
      WRONG("too many indices for tensor of dimension 0", index(s, {tensor(0)})),
      WRONG("too many indices for tensor of dimension 2",
            index(x, {tensor(0), tensor(0), tensor(0)})),
      WRONG("index 5 is out of bounds for dimension 0 with size 3", index(x, {tensor(5), zero})),
      WRONG("index -5 is out of bounds for dimension 1 with size 4",
            index(x, {tensor(0), tensor(-5).to(DType::kInt32)})),
      WRONG("tensors used as indices must be long, byte or bool tensors", index(x, {s})),
      WRONG("tensors used as indices must be long, byte or bool tensors",
            index(x, {zero.to(DType::kInt32)})),
      WRONG(
          "The shape of the mask [3, 4] at index 0 does not match the shape of the indexed tensor "
          "[4, 3] at index 0",
          index(ones({4, 3}), {mask})),
      WRONG("tensors used as indices must be long, byte or bool tensors", index(x, {v})),
      WRONG("shape mismatch: indexing tensors could not be broadcast together with shapes [2], [3]",
            index(x, {at({0, 1}), at({0, 1, 2})})),
      WRONG("masked_select: expected BoolTensor or ByteTensor for mask", masked_select(x, x)),
      WRONG("masked_fill only supports boolean masks, but got dtype Float", masked_fill(x, x, 0)),
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
      WRONG("std and var only support floating point and complex dtypes", var(zero)),
      WRONG(
          "linalg.vector_norm cannot compute the inf norm on an empty tensor because the operation "
          "does not have an identity",
          norm(ones({0}), std::numeric_limits<double>::infinity())),
      WRONG("linalg.vector_norm: Expected a floating point or complex tensor as input. Got Long",
            norm(zero, 2)),
      WRONG("Dimension out of range (expected to be in range of [-2, 1], but got 2)", prod(x, 2)),
      WRONG("Dimension out of range (expected to be in range of [-2, 1], but got 2)", cumsum(x, 2)),
      WRONG("outer: Expected 1-D argument self, but got 2-D", outer(x, v)),
      WRONG("mat1 and mat2 shapes cannot be multiplied (3x4 and 3x4)", addmm(v, x, x)),
      WRONG("mat1 must be a matrix, got 1-D tensor", addmm(v, v, x)),
      WRONG("mat2 must be a matrix, got 1-D tensor", linear(x, ones({4}), ones({1}))),
      WRONG("size mismatch, got 3, 3x4,3", linear(x, v)),
      WRONG("t() expects a tensor with <= 2 dimensions, but self is 3D",
            linear(x, ones({1, 3, 4}))),
      WRONG("both arguments to matmul need to be at least 1D, but they are 0D and 2D",
            linear(s, x)),
      WRONG("mat1 and mat2 shapes cannot be multiplied (3x4 and 3x5)", linear(x, ones({5, 3}))),
      WRONG("mat1 and mat2 shapes cannot be multiplied (4x4 and 3x5)",
            linear(ones({2, 2, 4}), ones({5, 3}), ones({5}))),
      WRONG("mat1 and mat2 shapes cannot be multiplied (1x3 and 4x5)", linear(v, ones({5, 4}))),
      WRONG("The expanded size of the tensor (5) must match the existing size (3) at non-singleton "
            "dimension 1.  Target sizes: [4, 5].  Tensor sizes: [3]",
            linear(ones({2, 2, 4}), ones({5, 4}), v)),
      WRONG("mat1 and mat2 shapes cannot be multiplied (6x4 and 7x5)",
            matmul(ones({2, 3, 4}), ones({7, 5}))),
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
      WRONG("Index put requires the source and destination dtypes match, got Float for the "
            "destination and Double for the source.",
            index_put(v, {zero}, wide)),
      WRONG("shape mismatch: value tensor of shape [3] cannot be broadcast to indexing result of "
            "shape [2]",
            index_put(v, {at({0, 1})}, v)),
      WRONG("masked_fill only supports boolean masks, but got dtype Float",
            zeros({3, 4}).masked_fill_(x, 1)),
  };
}

TEST(OpSetErrors, Texts) {
  const auto uses = wrong_uses();
  EXPECT_GE(uses.size(), 60u);
  expect_texts(uses);
}

// Texts that go on after PyTorch's with the offending index.
TEST(OpSetErrors, IndexOutOfRange) {
  const Tensor v = ones({3}), five = tensor({int64_t{5}});
  for (const auto& use : std::vector<std::function<void()>>{
           [&] { index_select(v, 0, five); }, [&] { index_add(v, 0, five, ones({1})); },
           [&] {
             embedding(five, ones({2, 2}));
           }}) {
    EXPECT_EQ(error_of(use).substr(0, 27), "index out of range in self:");
  }
}

}  // namespace
}  // namespace lockstep::testing
