#include "lockstep/engine/ops/pointwise_math.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <gtest/gtest.h>

namespace lockstep::functor::math {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Distance in units of the last place that float has at `expected`.
double ulps(float actual, double expected) {
  const auto near = static_cast<float>(std::abs(expected));
  const double unit = std::nextafter(near, kInf) - near;
  return std::abs(static_cast<double>(actual) - expected) / unit;
}

// The largest error over floats from `from` to `to`, about a million of them.
template <typename F, typename Reference>
double worst(float from, float to, const F& f, const Reference& reference) {
  double result = 0.0;
  const auto first = __builtin_bit_cast(uint32_t, from), last = __builtin_bit_cast(uint32_t, to);
  for (uint32_t bits = first; bits <= last; bits += 1009) {
    for (const float sign : {1.0f, -1.0f}) {
      const float x = sign * __builtin_bit_cast(float, bits);
      const double expected = reference(static_cast<double>(x));
      if (std::abs(expected) > 3.4e38 || std::abs(expected) < 1.2e-38) continue;
      result = std::max(result, ulps(f(x), expected));
    }
  }
  return result;
}

TEST(PointwiseMath, ExpIsWithinOneUlp) {
  EXPECT_LE(worst(
                1e-9f, 88.7f, [](float x) { return exp(x); }, [](double x) { return std::exp(x); }),
            1.0);
}

TEST(PointwiseMath, ErfIsWithinJustOverOneUlp) {
  EXPECT_LE(worst(
                1e-30f, 6.0f, [](float x) { return erf(x); }, [](double x) { return std::erf(x); }),
            1.1);
}

TEST(PointwiseMath, Ends) {
  EXPECT_EQ(exp(0.0f), 1.0f);
  EXPECT_EQ(exp(-0.0f), 1.0f);
  EXPECT_EQ(exp(kInf), kInf);
  EXPECT_EQ(exp(89.0f), kInf);
  EXPECT_EQ(exp(-kInf), 0.0f);
  EXPECT_EQ(exp(-1e30f), 0.0f);
  EXPECT_TRUE(std::isnan(exp(kNan)));
  EXPECT_TRUE(std::isfinite(exp(88.72283f)));
  EXPECT_GT(exp(-87.3365f), 0.0f);
  EXPECT_EQ(erf(kInf), 1.0f);
  EXPECT_EQ(erf(-kInf), -1.0f);
  EXPECT_EQ(erf(4.5f), 1.0f);
  EXPECT_EQ(erf(0.0f), 0.0f);
  EXPECT_TRUE(std::signbit(erf(-0.0f)));
  EXPECT_TRUE(std::isnan(erf(kNan)));
}

}  // namespace
}  // namespace lockstep::functor::math
