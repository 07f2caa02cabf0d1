// tensor({...}): shapes, dtypes and values of numbers in braces.
#include <gtest/gtest.h>

#include "lockstep/engine/tensor/factory.h"

#include "engine/throws.h"

namespace lockstep {
namespace {

void expect(const Tensor& t, const Dims& sizes, DType dtype, const std::vector<double>& values) {
  EXPECT_EQ(t.sizes(), sizes);
  EXPECT_EQ(t.dtype(), dtype);
  EXPECT_EQ(t.to_vector(), values);
}

TEST(Literal, ShapesAndDtypes) {
  expect(tensor(2.5), {}, DType::kFloat32, {2.5});
  expect(tensor(2), {}, DType::kInt64, {2});
  expect(tensor(true), {}, DType::kBool, {1});
  expect(tensor({1.5}), {1}, DType::kFloat32, {1.5});
  expect(tensor({1, 2}), {2}, DType::kInt64, {1, 2});
  expect(tensor({1, 2.5}), {2}, DType::kFloat32, {1, 2.5});
  expect(tensor({true, false}), {2}, DType::kBool, {1, 0});
  expect(tensor({}), {0}, DType::kFloat32, {});
  expect(tensor({{1., 2.}, {3., 4.}}), {2, 2}, DType::kFloat32, {1, 2, 3, 4});
  expect(tensor({{1, 2}, {3, 4}}), {2, 2}, DType::kInt64, {1, 2, 3, 4});
  expect(tensor({{1.}, {2.}}), {2, 1}, DType::kFloat32, {1, 2});
  expect(tensor({{1., 2.}}), {1, 2}, DType::kFloat32, {1, 2});
  expect(tensor({{{1, 2}, {3, 4}}, {{5, 6}, {7, 8}}}), {2, 2, 2}, DType::kInt64,
         {1, 2, 3, 4, 5, 6, 7, 8});
  expect(tensor({{true, true}}, {.dtype = DType::kFloat64}), {1, 2}, DType::kFloat64, {1, 1});
  EXPECT_EQ(tensor({int64_t{1} << 62, int64_t{3}}).data<int64_t>()[0], int64_t{1} << 62);
  EXPECT_TRUE(tensor({1.0}, {.requires_grad = true}).requires_grad());
  EXPECT_ERROR(tensor({{1, 2}, {3}}),
               "[tensor] rows have 2 and 1 elements; they must be equally long");
}

}  // namespace
}  // namespace lockstep
