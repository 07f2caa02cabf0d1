#include "lockstep/distributed/reduce_kernels.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

namespace lockstep::distributed {
namespace {

template <typename T>
std::byte* bytes_of(std::vector<T>& values) {
  return reinterpret_cast<std::byte*>(values.data());
}

TEST(Reduce, AddsInOrder) {
  // (1e8 + 1) - 1e8 is 0 in float32, 1e8 - 1e8 + 1 is 1.
  std::vector<float> a(3000, 1e8f), b(3000, 1.0f), c(3000, -1e8f), out(3000);
  std::byte* const to = bytes_of(out);
  const std::byte* one[] = {bytes_of(a), bytes_of(b), bytes_of(c)};
  reduce({DType::kFloat32, ReduceOp::kSum}, nullptr, one, 3000, {&to, 1});
  EXPECT_EQ(out[0], 0.0f);
  EXPECT_EQ(out[2999], 0.0f);
  const std::byte* other[] = {bytes_of(a), bytes_of(c), bytes_of(b)};
  reduce({DType::kFloat32, ReduceOp::kSum}, nullptr, other, 3000, {&to, 1});
  EXPECT_EQ(out[0], 1.0f);
  EXPECT_EQ(out[2999], 1.0f);
}

TEST(Reduce, RoundsHalvesOnceAlsoAcrossPartialResults) {
  // In bfloat16 256 + 1 rounds back to 256; in float32 two ones add up.
  std::vector<BFloat16> a(5, BFloat16(256.0f)), b(5, BFloat16(1.0f)), out(5);
  std::byte* const to = bytes_of(out);
  const std::byte* all[] = {bytes_of(a), bytes_of(b), bytes_of(b)};
  reduce({DType::kBFloat16, ReduceOp::kSum}, nullptr, all, 5, {&to, 1});
  EXPECT_EQ(static_cast<float>(out[4]), 258.0f);

  std::vector<float> partial(5);
  const std::span<const std::byte* const> sources(all);
  reduce({DType::kBFloat16, ReduceOp::kSum}, nullptr, sources.first(2), 5, {}, bytes_of(partial));
  EXPECT_EQ(partial[0], 257.0f);
  out.assign(5, BFloat16(0.0f));
  reduce({DType::kBFloat16, ReduceOp::kSum}, bytes_of(partial), sources.last(1), 5, {&to, 1});
  EXPECT_EQ(static_cast<float>(out[4]), 258.0f);
}

TEST(Reduce, WrapsIntegers) {
  std::vector<int32_t> a{std::numeric_limits<int32_t>::max()}, b{1};
  std::byte* const to = bytes_of(a);
  const std::byte* both[] = {bytes_of(a), bytes_of(b)};
  reduce({DType::kInt32, ReduceOp::kSum}, nullptr, both, 1, {&to, 1});
  EXPECT_EQ(a[0], std::numeric_limits<int32_t>::min());
}

TEST(Reduce, FlushesDenormals) {
  const float denormal = std::numeric_limits<float>::denorm_min();
  std::vector<float> a(100, denormal), b(100, denormal);
  std::byte* const to = bytes_of(a);
  const std::byte* both[] = {bytes_of(a), bytes_of(b)};
  reduce({DType::kFloat32, ReduceOp::kSum}, nullptr, both, 100, {&to, 1});
  EXPECT_EQ(a[99], 0.0f);
  const volatile float x = denormal;  // and leaves the caller's mode as it was
  EXPECT_GT(x + x, 0.0f);
}

}  // namespace
}  // namespace lockstep::distributed
