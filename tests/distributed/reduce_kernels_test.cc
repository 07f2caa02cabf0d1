#include "lockstep/distributed/reduce_kernels.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/distributed/flush_denormals.h"
#include "lockstep/distributed/half_kernels.h"

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
  reduce({DType::kFloat32, ReduceOp::kSum}, one, 3000, {&to, 1});
  EXPECT_EQ(out[0], 0.0f);
  EXPECT_EQ(out[2999], 0.0f);
  const std::byte* other[] = {bytes_of(a), bytes_of(c), bytes_of(b)};
  reduce({DType::kFloat32, ReduceOp::kSum}, other, 3000, {&to, 1});
  EXPECT_EQ(out[0], 1.0f);
  EXPECT_EQ(out[2999], 1.0f);
}

TEST(Reduce, RoundsHalvesOnce) {
  // In bfloat16 256 + 1 rounds back to 256; in float32 two ones add up.
  std::vector<BFloat16> a(1500, BFloat16(256.0f)), b(1500, BFloat16(1.0f)), out(1500);
  std::byte* const to = bytes_of(out);
  const std::byte* all[] = {bytes_of(a), bytes_of(b), bytes_of(b)};
  reduce({DType::kBFloat16, ReduceOp::kSum}, all, 1500, {&to, 1});
  EXPECT_EQ(static_cast<float>(out[0]), 258.0f);
  EXPECT_EQ(static_cast<float>(out[1499]), 258.0f);
}

// All halves there are, and floats around each of them: between two halves, at the middle, beyond
// the largest. The kernels must agree with the conversions of one number, under flushing, too.
TEST(HalfKernels, AgreeWithSingleConversions) {
  const auto& kernels = cpu::half_kernels();
  const FlushDenormals flush;
  std::vector<uint16_t> halves(1 << 16);
  for (size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<uint16_t>(i);
  const auto n = static_cast<int64_t>(halves.size());
  const auto check = [&]<typename Half>(auto from_half, auto to_half, uint32_t place) {
    std::vector<float> wide(halves.size());
    from_half(halves.data(), wide.data(), n);
    std::vector<float> around;
    for (size_t i = 0; i < halves.size(); ++i) {
      Half half;
      half.bits = halves[i];
      const auto bits = std::bit_cast<uint32_t>(static_cast<float>(half));
      ASSERT_EQ(std::bit_cast<uint32_t>(wide[i]), bits) << i;
      for (const uint32_t more : {0u, 1u, place / 2 - 1, place / 2, place / 2 + 1, place - 1}) {
        around.push_back(std::bit_cast<float>(bits + more));
      }
    }
    // Those between subnormal halves are further apart in float32.
    for (int i = 0; i < 4096; ++i) around.push_back(static_cast<float>(i) * 0x1p-26f);
    std::vector<uint16_t> narrow(around.size());
    to_half(around.data(), narrow.data(), static_cast<int64_t>(around.size()));
    for (size_t i = 0; i < around.size(); ++i) {
      ASSERT_EQ(narrow[i], Half(around[i]).bits) << std::bit_cast<uint32_t>(around[i]);
    }
  };
  check.operator()<BFloat16>(kernels.from_bfloat16, kernels.to_bfloat16, 1u << 16);
  check.operator()<Float16>(kernels.from_float16, kernels.to_float16, 1u << 13);
}

TEST(Reduce, WrapsIntegers) {
  std::vector<int32_t> a{std::numeric_limits<int32_t>::max()}, b{1};
  std::byte* const to = bytes_of(a);
  const std::byte* both[] = {bytes_of(a), bytes_of(b)};
  reduce({DType::kInt32, ReduceOp::kSum}, both, 1, {&to, 1});
  EXPECT_EQ(a[0], std::numeric_limits<int32_t>::min());
}

TEST(Reduce, FlushesDenormals) {
  const float denormal = std::numeric_limits<float>::denorm_min();
  std::vector<float> a(100, denormal), b(100, denormal);
  std::byte* const to = bytes_of(a);
  const std::byte* both[] = {bytes_of(a), bytes_of(b)};
  reduce({DType::kFloat32, ReduceOp::kSum}, both, 100, {&to, 1});
  EXPECT_EQ(a[99], 0.0f);
  const volatile float x = denormal;  // and leaves the caller's mode as it was
  EXPECT_GT(x + x, 0.0f);
}

}  // namespace
}  // namespace lockstep::distributed
