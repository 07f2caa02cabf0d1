#include "lockstep/engine/cpu/softmax.h"

#include <limits>

#include "cpu/support.h"

namespace lockstep::cpu {
namespace {

template <typename T>
class Softmax : public ::testing::Test {};
using Types = ::testing::Types<float, double>;
TYPED_TEST_SUITE(Softmax, Types);

TYPED_TEST(Softmax, MatchesReferenceOnAnyThreads) {
  using T = TypeParam;
  const double tolerance = std::is_same_v<T, float> ? 2e-6 : 1e-13;
  for (const auto& [rows, cols] : std::vector<std::pair<int64_t, int64_t>>{
           {1, 1}, {64, 10}, {3, 16}, {5, 17}, {100, 333}, {2, 20000}}) {
    for (const double scale : {1.0, 50.0, 1000.0}) {
      auto x = random_values<T>(rows * cols, 1);
      for (T& value : x) {
        value = static_cast<T>(value * scale + 3 * scale);
      }
      const auto gy = random_values<T>(rows * cols, 2);
      std::vector<double> y(x.size()), gx(x.size());
      for (int64_t r = 0; r < rows; ++r) {
        const T* row = x.data() + r * cols;
        double max = row[0], sum = 0, sum_gy = 0;
        for (int64_t c = 0; c < cols; ++c) max = std::max<double>(max, row[c]);
        for (int64_t c = 0; c < cols; ++c) {
          sum += std::exp(row[c] - max);
          sum_gy += gy[r * cols + c];
        }
        for (int64_t c = 0; c < cols; ++c) {
          y[r * cols + c] = row[c] - max - std::log(sum);
          gx[r * cols + c] = gy[r * cols + c] - std::exp(y[r * cols + c]) * sum_gy;
        }
      }
      const auto actual = same_bits_on_any_threads([&] {
        std::vector<T> out(x.size());
        log_softmax_forward(rows, cols, x.data(), out.data());
        return out;
      });
      expect_near(actual, y, tolerance);
      expect_near(same_bits_on_any_threads([&] {
                    std::vector<T> out(x.size());
                    log_softmax_backward(rows, cols, gy.data(), actual.data(), out.data());
                    return out;
                  }),
                  gx, 20 * tolerance);
    }
  }
}

TYPED_TEST(Softmax, MasksAndNaN) {
  using T = TypeParam;
  const T inf = std::numeric_limits<T>::infinity();
  std::vector<T> x(20, -inf);
  x[3] = x[18] = 2;
  std::vector<T> y(20);
  log_softmax_forward(1, 20, x.data(), y.data());
  EXPECT_NEAR(y[3], std::log(0.5), 1e-6);
  EXPECT_NEAR(y[18], std::log(0.5), 1e-6);
  EXPECT_EQ(y[0], -inf);
  const std::vector<T> gy(20, T{1});
  std::vector<T> gx(20);
  log_softmax_backward(1, 20, gy.data(), y.data(), gx.data());
  EXPECT_EQ(gx[0], T{1});  // probability zero
  EXPECT_NEAR(gx[3], 1 - 0.5 * 20, 1e-4);
  for (const int place : {0, 5, 19}) {
    auto bad = x;
    bad[place] = std::numeric_limits<T>::quiet_NaN();
    log_softmax_forward(1, 20, bad.data(), y.data());
    for (const T value : y) {
      EXPECT_TRUE(std::isnan(value));
    }
  }
}

}  // namespace
}  // namespace lockstep::cpu
