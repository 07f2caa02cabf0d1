// Dims, broadcasting, strides, and what a tensor refuses.
#include <gtest/gtest.h>

#include "lockstep/engine/ops/ops.h"

#include "engine/throws.h"

namespace lockstep::testing {
namespace {

using Values = std::vector<double>;

TEST(Dims, HoldsUpToEight) {
  Dims d = {1, 2, 3};
  EXPECT_EQ(d.str(), "[1, 2, 3]");
  EXPECT_EQ(Dims().str(), "[]");
  EXPECT_EQ(d.product(), 6);
  EXPECT_EQ(Dims().product(), 1);
  d.insert(0, 9);
  d.insert(4, 8);
  EXPECT_EQ(d, (Dims{9, 1, 2, 3, 8}));
  d.erase(1);
  EXPECT_EQ(d, (Dims{9, 2, 3, 8}));
  EXPECT_FALSE(d == (Dims{9, 2, 3}));
  for (int64_t i = 4; i < 8; ++i) d.push_back(i);
  const char* text = "[dims] a tensor has at most 8 dimensions, asked for 9";
  EXPECT_ERROR(d.push_back(1), text);
  EXPECT_ERROR(d.insert(0, 1), text);
  EXPECT_ERROR((Dims{1, 2, 3, 4, 5, 6, 7, 8, 9}), text);
  EXPECT_ERROR(Dims::filled(9, 1), text);
  EXPECT_EQ(ones(d.size() == 8 ? Dims::filled(8, 1) : Dims{}).dim(), 8);
}

TEST(Dims, Broadcasting) {
  EXPECT_EQ(broadcast_shapes({3, 1}, {4}), (Dims{3, 4}));
  EXPECT_EQ(broadcast_shapes({}, {2, 3}), (Dims{2, 3}));
  EXPECT_EQ(broadcast_shapes({1}, {0}), (Dims{0}));
  EXPECT_EQ(broadcast_shapes({5, 1, 4}, {1, 3, 1}), (Dims{5, 3, 4}));
  EXPECT_ERROR(broadcast_shapes({2, 3}, {2, 4}),
               "The size of tensor a (3) must match the size of tensor b (4) at non-singleton "
               "dimension 1");
  EXPECT_ERROR(broadcast_shapes({0}, {2}),
               "The size of tensor a (0) must match the size of tensor b (2) at non-singleton "
               "dimension 0");
  EXPECT_ERROR(broadcast_shapes({4, 3, 2}, {5, 2}),
               "The size of tensor a (3) must match the size of tensor b (5) at non-singleton "
               "dimension 1");
}

TEST(Dims, WrapDim) {
  EXPECT_EQ(wrap_dim(-1, 3), 2);
  EXPECT_EQ(wrap_dim(0, 0), 0);
  EXPECT_ERROR(wrap_dim(3, 3),
               "Dimension out of range (expected to be in range of [-3, 2], but got 3)");
  EXPECT_ERROR(wrap_dim(-4, 3),
               "Dimension out of range (expected to be in range of [-3, 2], but got -4)");
  EXPECT_ERROR(tensor(1.0).size(0), "Dimension specified as 0 but tensor has no dimensions");
  EXPECT_ERROR(tensor(1.0).stride(-1), "Dimension specified as -1 but tensor has no dimensions");
}

TEST(Geometry, StridesAndContiguity) {
  const Tensor x = zeros({2, 3, 4, 5});
  EXPECT_EQ(x.strides(), (Dims{60, 20, 5, 1}));
  EXPECT_TRUE(x.is_contiguous());
  EXPECT_FALSE(x.is_channels_last());
  const Tensor y = x.permute({0, 2, 3, 1});
  EXPECT_EQ(y.strides(), (Dims{60, 5, 1, 20}));
  EXPECT_FALSE(y.is_contiguous());
  const Tensor last = y.contiguous().permute({0, 3, 1, 2});
  EXPECT_TRUE(last.is_channels_last());
  EXPECT_EQ(last.sizes(), x.sizes());
  EXPECT_TRUE(empty_like(last).is_channels_last()) << "the memory format is kept";
  EXPECT_TRUE((last + 1).is_channels_last());
  EXPECT_TRUE(relu(last).is_channels_last());
  EXPECT_TRUE(last.clone().is_channels_last());
  EXPECT_TRUE(last.to(DType::kFloat64).is_channels_last());
  EXPECT_TRUE(zeros({2, 1, 3, 3}).is_channels_last()) << "with one channel both are the same";
  // Dimensions of size one may have any stride.
  EXPECT_TRUE(zeros({3, 4}).narrow(0, 1, 1).is_contiguous());
  EXPECT_FALSE(zeros({3, 4}).narrow(1, 1, 1).is_contiguous());
  EXPECT_TRUE(zeros({3, 0}).t().is_contiguous());
}

TEST(Geometry, ViewsShareMemory) {
  const Tensor x = zeros({2, 3});
  x.t().select(0, 1).fill_(5);
  EXPECT_EQ(x.to_vector(), (Values{0, 5, 0, 0, 5, 0}));
  x.slice(1, 0, 3, 2).add_(1);
  EXPECT_EQ(x.to_vector(), (Values{1, 5, 1, 1, 5, 1}));
  x[1].copy_(tensor({7.0, 8.0, 9.0}));
  EXPECT_EQ(x.to_vector(), (Values{1, 5, 1, 7, 8, 9}));
  EXPECT_EQ(x[1].data_ptr(), x.data<float>() + 3);
  EXPECT_EQ(x[1].storage_offset(), 3);
  const Tensor copy = x.reshape({3, 2});
  EXPECT_EQ(copy.data_ptr(), x.data_ptr());
  EXPECT_NE(x.t().reshape({-1}).data_ptr(), x.data_ptr());
}

TEST(Geometry, Errors) {
  const Tensor x = zeros({2, 3});
  EXPECT_ERROR(x.t().view({6}),
               "view size is not compatible with input tensor's size and stride (at least one "
               "dimension spans across two contiguous subspaces). Use .reshape(...) instead.");
  EXPECT_THROW(x.view({4}), ValueError);
  EXPECT_THROW(x.view({-1, 4}), ValueError);
  EXPECT_ERROR(x.view({-1, -1}), "only one dimension can be inferred");
  EXPECT_ERROR(x.view({-2, -3}), "invalid shape dimension -2");
  EXPECT_THROW(zeros({0}).view({-1, 0}), ValueError);
  EXPECT_ERROR(x.select(0, 2),
               "select(): index 2 out of range for tensor of size [2, 3] at dimension 0");
  EXPECT_ERROR(x.select(0, -3),
               "select(): index -3 out of range for tensor of size [2, 3] at dimension 0");
  EXPECT_ERROR(x.narrow(1, 2, 2), "start (2) + length (2) exceeds dimension size (3).");
  EXPECT_THROW(x.narrow(1, -4, 1), ValueError);
  EXPECT_THROW(x.slice(0, 0, 2, 0), ValueError);
  EXPECT_THROW(x.permute({0, 0}), ValueError);
  EXPECT_THROW(x.permute({0}), ValueError);
  EXPECT_THROW(x.expand({3, 3}), ValueError);
  EXPECT_THROW(x.expand({3}), ValueError);
  EXPECT_THROW(x.expand({-1, 2, 3}), ValueError);
  EXPECT_THROW(zeros({1}).expand({-3}), ValueError);
  EXPECT_THROW(x.flatten(1, 0), ValueError);
  EXPECT_THROW(zeros({2, 2, 2}).t(), ValueError);
  EXPECT_THROW(x.sum({0, 0}), ValueError);
  EXPECT_THROW(x.sum({2}), ValueError);
  EXPECT_THROW(x.argmax(2), ValueError);
  EXPECT_THROW(zeros({0, 3}).max(), ValueError);
  EXPECT_THROW(zeros({0, 3}).argmax(0), ValueError);
  EXPECT_THROW(zeros({-1}), ValueError);
  EXPECT_THROW(rand({2, -1}), ValueError);
  EXPECT_THROW(randn({-1}), ValueError);
  EXPECT_THROW(index_select(x, 0, tensor({2})), ValueError);
  EXPECT_THROW(index_select(x, 0, tensor({-1})), ValueError);
  EXPECT_THROW(index_select(x, 0, tensor({1.0})), ValueError);
  EXPECT_THROW(Tensor().sizes(), ValueError);
  EXPECT_THROW(Tensor() + x, ValueError);
  EXPECT_THROW(x + Tensor(), ValueError);
  EXPECT_THROW(bmm(zeros({2, 2, 3}), zeros({2, 2, 3})), ValueError);
  EXPECT_THROW(mm(zeros({2, 2}, {DType::kBool}), zeros({2, 2}, {DType::kBool})), ValueError);
  EXPECT_THROW(mm(zeros({2, 2}), zeros({2, 2}, {DType::kFloat64})), ValueError);
  EXPECT_THROW(linear(x, zeros({2, 3}), zeros({3})), ValueError);
  EXPECT_THROW(conv2d(zeros({1, 2, 3, 3}), zeros({1, 1, 2, 2})), ValueError);
  EXPECT_THROW(conv2d(zeros({1, 1, 3, 3}), zeros({1, 1, 4, 4})), ValueError);
  EXPECT_THROW(conv2d(zeros({1, 1, 3, 3}), zeros({1, 1, 2, 2}), zeros({2})), ValueError);
  EXPECT_THROW(conv2d(zeros({1, 1, 3, 3}), zeros({1, 1, 2, 2}), {}, {.stride = {0, 1}}),
               ValueError);
  EXPECT_THROW(max_pool2d(zeros({1, 1, 3, 3}), 4), ValueError);
  EXPECT_THROW(max_pool2d(zeros({1, 1, 3, 3}), 0), ValueError);
  EXPECT_THROW(batch_norm(zeros({1, 3}), {}, {}, {}, {}, {.training = true}), ValueError);
  EXPECT_THROW(batch_norm(zeros({2, 3}), {}, {}, {}, {}, {}), ValueError);
  EXPECT_THROW(batch_norm(zeros({2, 3}), {}, {}, zeros({2}), {}, {.training = true}), ValueError);
  EXPECT_THROW(dropout(x, 1.5, true), ValueError);
  EXPECT_THROW(nll_loss(x, tensor({0, 1, 2})), ValueError);
  EXPECT_THROW(mse_loss(x, zeros({5})), ValueError);
  EXPECT_THROW(where(x, x, x), ValueError);
  EXPECT_THROW(where(tensor({true, false}), x, x), ValueError);
  EXPECT_THROW(tensor({{1.0, 2.0}, {3.0}}), ValueError);
}

TEST(Factory, Values) {
  EXPECT_EQ(arange(3).to_vector(), (Values{0, 1, 2}));
  EXPECT_EQ(arange(3).dtype(), DType::kInt64);
  EXPECT_EQ(arange(1, 2, 0.25, {DType::kFloat32}).to_vector(), (Values{1, 1.25, 1.5, 1.75}));
  EXPECT_EQ(arange(5, 0, -2).to_vector(), (Values{5, 3, 1}));
  EXPECT_EQ(arange(0).numel(), 0);
  EXPECT_EQ(eye(2).to_vector(), (Values{1, 0, 0, 1}));
  EXPECT_EQ(full({2}, 2.5, {DType::kInt64}).to_vector(), (Values{2, 2}));
  EXPECT_EQ(full({2}, 3).dtype(), DType::kInt64);
  EXPECT_EQ(full({2}, 3).to_vector(), (Values{3, 3}));
  EXPECT_EQ(full({2}, 3.0).dtype(), DType::kFloat32);
  EXPECT_EQ(full({2}, true).dtype(), DType::kBool);
  EXPECT_EQ(full({2}, 3, {DType::kFloat64}).dtype(), DType::kFloat64);
  EXPECT_EQ(full({1}, -1, {DType::kUInt8}).to_vector(), (Values{255}));
  EXPECT_TRUE(full({2}, 3.0, {.requires_grad = true}).requires_grad());
  EXPECT_ERROR(full({2}, 3, {.requires_grad = true}),
               "Only Tensors of floating point and complex dtype can require gradients");
  EXPECT_EQ(ones({}).item(), 1);
  EXPECT_EQ(tensor({{1, 2}, {3, 4}}).sizes(), (Dims{2, 2}));
  EXPECT_EQ(tensor({1, 2}).dtype(), DType::kInt64);
  EXPECT_EQ(tensor({1.0}).dtype(), DType::kFloat32);
  EXPECT_TRUE(ones({2}, {.requires_grad = true}).requires_grad());
  auto memory = std::make_shared<std::vector<float>>(std::vector<float>{1, 2, 3, 4});
  const Tensor over = from_memory(memory->data(), {2, 2}, DType::kFloat32, memory);
  std::weak_ptr<std::vector<float>> alive = memory;
  over.mul_(2);
  EXPECT_EQ((*memory)[3], 8);
  memory.reset();
  EXPECT_FALSE(alive.expired()) << "the tensor keeps its memory";
}

TEST(Tensor, SetDataKeepsIdentity) {
  const Tensor x = tensor({1.0, 2.0}, {.requires_grad = true});
  const Tensor handle = x;
  x.set_data(tensor({5.0, 6.0}));
  EXPECT_EQ(handle.to_vector(), (Values{5, 6}));
  EXPECT_TRUE(handle.requires_grad());
  EXPECT_THROW(x.set_data(ones({3})), ValueError);
  (handle * 2).sum().backward();
  EXPECT_EQ(x.grad().to_vector(), (Values{2, 2}));
}

}  // namespace
}  // namespace lockstep::testing
