// The 16-bit floats, exhaustively, and conversions.
#include "lockstep/engine/tensor/dtype.h"

#include <algorithm>
#include <cfenv>
#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/engine/ops/ops.h"
#include "lockstep/engine/tensor/philox.h"

#include "engine/throws.h"

namespace lockstep::testing {
namespace {

// The value of a 16-bit float from its definition: exponent bits, mantissa bits.
double value_of(uint16_t bits, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = (bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const int mantissa = bits & ((1 << mantissa_bits) - 1);
  const double sign = bits & 0x8000 ? -1 : 1;
  if (exponent == (1 << exponent_bits) - 1) return mantissa ? NAN : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
  return sign * std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
}

template <typename T>
struct Format;
template <>
struct Format<Float16> {
  static constexpr int kExponent = 5, kMantissa = 10;
};
template <>
struct Format<BFloat16> {
  static constexpr int kExponent = 8, kMantissa = 7;
};

template <typename T>
class Half : public ::testing::Test {
 public:
  // Numerical code leaves its thread flushing subnormals to zero; the expectations need them.
  Half() { std::fesetenv(FE_DFL_ENV); }

  static double value(uint16_t bits) {
    return value_of(bits, Format<T>::kExponent, Format<T>::kMantissa);
  }
  // Round to nearest, ties to the even pattern, by searching all non-negative patterns: their
  // values rise with the bits, infinity standing for the next power of two.
  static uint16_t nearest(float x) {
    static const std::vector<double> kValues = [] {
      std::vector<double> v;
      for (uint32_t b = 0; std::isfinite(value(static_cast<uint16_t>(b))); ++b) {
        v.push_back(value(static_cast<uint16_t>(b)));
      }
      v.push_back(2 * v.back() - v[v.size() - 2]);  // where infinity begins to be nearer
      return v;
    }();
    const double magnitude = std::fabs(static_cast<double>(x));
    const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
    const auto above = std::lower_bound(kValues.begin(), kValues.end(), magnitude);
    if (above == kValues.end()) return sign | static_cast<uint16_t>(kValues.size() - 1);
    auto index = static_cast<size_t>(above - kValues.begin());
    if (index > 0) {
      const double up = *above - magnitude, down = magnitude - kValues[index - 1];
      if (down < up || (down == up && (index & 1))) --index;
    }
    return sign | static_cast<uint16_t>(index);
  }
  static void expect_nearest(float x) {
    ASSERT_EQ(T(x).bits, nearest(x)) << x;
    ASSERT_EQ(T(-x).bits, nearest(-x)) << -x;
  }
};
using Halves = ::testing::Types<Float16, BFloat16>;
TYPED_TEST_SUITE(Half, Halves);

TYPED_TEST(Half, EveryPatternWidensAndComesBack) {
  for (uint32_t b = 0; b < 0x10000; ++b) {
    TypeParam h;
    h.bits = static_cast<uint16_t>(b);
    const auto wide = static_cast<float>(h);
    const double expected = this->value(h.bits);
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(wide)) << b;
      ASSERT_TRUE(std::isnan(static_cast<float>(TypeParam(wide)))) << b;
      ASSERT_EQ(TypeParam(wide).bits & 0x8000, h.bits & 0x8000) << b;
    } else {
      ASSERT_EQ(static_cast<double>(wide), expected) << b;
      ASSERT_EQ(std::signbit(wide), std::signbit(expected)) << b;
      ASSERT_EQ(TypeParam(wide).bits, h.bits) << b;
    }
  }
}

TYPED_TEST(Half, RoundsToNearestEven) {
  // Every midpoint between neighbours, and the floats on both sides of it.
  for (uint32_t b = 0; std::isfinite(this->value(static_cast<uint16_t>(b))); ++b) {
    const double low = this->value(static_cast<uint16_t>(b));
    const double next = this->value(static_cast<uint16_t>(b + 1));
    if (!std::isfinite(next)) break;
    const auto middle = static_cast<float>((low + next) / 2);
    this->expect_nearest(middle);
    this->expect_nearest(std::nextafter(middle, 0.0f));
    this->expect_nearest(std::nextafter(middle, INFINITY));
  }
  const Philox philox{1, 2};
  for (uint32_t i = 0; i < 200000; ++i) {
    const float x = std::bit_cast<float>(philox(i, 0, 0, 0)[0]);
    if (std::isfinite(x)) this->expect_nearest(x);
  }
  for (float x :
       {0.0f, 65503.0f, 65504.0f, 65519.996f, 65520.0f, 1e5f, 3.38e38f, 3.4e38f, 5.9e-8f, 2.98e-8f,
        2.9802322e-8f, 2.99e-8f, 1e-40f, 1e-45f, std::numeric_limits<float>::max()}) {
    this->expect_nearest(x);
  }
  EXPECT_EQ(TypeParam(INFINITY).bits, this->nearest(INFINITY));
  EXPECT_EQ(TypeParam(-INFINITY).bits, this->nearest(-INFINITY));
  // NaNs whose payload lies in the bits that are dropped.
  for (uint32_t bits : {0x7f800001u, 0xff800001u, 0x7fffffffu, 0x7fc00000u}) {
    EXPECT_TRUE(std::isnan(static_cast<float>(TypeParam(std::bit_cast<float>(bits)))));
  }
}

// The kernels convert as the types do.
TYPED_TEST(Half, TensorsConvertAlike) {
  std::vector<float> values;
  const Philox philox{3, 4};
  for (uint32_t i = 0; i < 30000; ++i) {
    const float x = std::bit_cast<float>(philox(i, 0, 0, 0)[0]);
    // Numerical code flushes subnormal floats to zero; the types' own conversion keeps them.
    if (std::isnormal(x) && std::fabs(x) > 1e-30f) values.push_back(x);
  }
  const Tensor wide = from_span<float>(values, {static_cast<int64_t>(values.size())});
  const Tensor narrow = wide.to(kDTypeOf<TypeParam>);
  const Tensor back = narrow.to(DType::kFloat32);
  for (size_t i = 0; i < values.size(); ++i) {
    ASSERT_EQ(narrow.template data<TypeParam>()[i].bits, TypeParam(values[i]).bits) << values[i];
    const auto single = static_cast<float>(TypeParam(values[i]));
    if (!std::isnormal(single)) continue;
    ASSERT_EQ(back.template data<float>()[i], single);
  }
}

TEST(DType, NamesAndSizes) {
  const std::pair<DType, size_t> all[] = {
      {DType::kFloat32, 4}, {DType::kFloat64, 8}, {DType::kBFloat16, 2}, {DType::kFloat16, 2},
      {DType::kInt64, 8},   {DType::kInt32, 4},   {DType::kUInt8, 1},    {DType::kBool, 1}};
  for (const auto& [dtype, size] : all) {
    EXPECT_EQ(size_of(dtype), size);
    EXPECT_EQ(dtype_from_name(name_of(dtype)), dtype);
  }
  EXPECT_ERROR(dtype_from_name("float8"), "[dtype] \"float8\" is not a dtype");
  EXPECT_ERROR(ones({2}).data<double>(), "[data] the tensor is float32, not float64");
}

TEST(DType, ConversionsBetweenAllOfThem) {
  const DType all[] = {DType::kFloat32, DType::kFloat64, DType::kBFloat16, DType::kFloat16,
                       DType::kInt64,   DType::kInt32,   DType::kUInt8,    DType::kBool};
  for (DType from : all) {
    const Tensor x = tensor({0.0, 1.0, 3.0, 100.0}).to(from);
    for (DType to : all) {
      const Tensor y = x.to(to);
      EXPECT_EQ(y.dtype(), to);
      const bool flattened = from == DType::kBool || to == DType::kBool;
      EXPECT_EQ(y.to_vector(), flattened ? (std::vector<double>{0, 1, 1, 1})
                                         : (std::vector<double>{0, 1, 3, 100}));
    }
  }
  EXPECT_EQ(tensor({-1.7, 1.7, -0.2}).to(DType::kInt32).to_vector(),
            (std::vector<double>{-1, 1, 0}));
  EXPECT_EQ(tensor({0.5, -0.5, 0.0}).to(DType::kBool).to_vector(), (std::vector<double>{1, 1, 0}));
  EXPECT_EQ(tensor({300, -1}).to(DType::kUInt8).to_vector(), (std::vector<double>{44, 255}));
  const Tensor same = ones({2});
  EXPECT_TRUE(same.to(DType::kFloat32).is_same(same));
}

TEST(DType, ArithmeticOfHalvesHappensInFloat) {
  const Tensor big = full({2}, 60000, {DType::kFloat16});
  EXPECT_EQ((big - 30000).to_vector(), (std::vector<double>{30000, 30000}));
  EXPECT_EQ(mean(big).item(), 60000) << "the sum would not fit float16";
  EXPECT_EQ(mean(big).dtype(), DType::kFloat16);
  EXPECT_TRUE(std::isinf((big + big).to_vector()[0]));
  EXPECT_EQ(sum(full({1000}, 1, {DType::kBFloat16})).item(), 1000);
}

TEST(DType, IntegersStayIntegers) {
  const Tensor x = tensor({7, -7, 2});
  EXPECT_EQ((x * 3).dtype(), DType::kInt64);
  EXPECT_EQ(pow(x, 2).to_vector(), (std::vector<double>{49, 49, 4}));
  EXPECT_EQ((x / 2).to_vector(), (std::vector<double>{3.5, -3.5, 1}));
  EXPECT_EQ(exp(x).dtype(), DType::kFloat32);
  EXPECT_EQ(sum(tensor({true, true, false})).item<int64_t>(), 2);
  EXPECT_EQ(sum(ones({3}, {DType::kUInt8})).dtype(), DType::kInt64);
  EXPECT_THROW(pow(x, -1), ValueError);
  EXPECT_THROW(mean(x), ValueError);
  const Tensor large = full({2}, int64_t{1} << 60);
  EXPECT_EQ((large.to(DType::kInt64) + 1).data<int64_t>()[0], (int64_t{1} << 60) + 1);
  const Tensor picked = where(tensor({true, false}), tensor({true, true}), tensor({false, false}));
  EXPECT_EQ(picked.dtype(), DType::kBool);
  EXPECT_EQ(picked.to_vector(), (std::vector<double>{1, 0}));
}

}  // namespace
}  // namespace lockstep::testing
