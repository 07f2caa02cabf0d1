#include "lockstep/engine/cpu/softmax.h"

#include <algorithm>
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

// Everything that is computed from exp(x - max), against float64.
TYPED_TEST(Softmax, SoftmaxAndCrossEntropyMatchTheReferenceOnAnyThreads) {
  using T = TypeParam;
  const double tolerance = std::is_same_v<T, float> ? 3e-6 : 1e-13;
  constexpr int64_t kIgnored = -7;
  for (const auto& [rows, cols] : std::vector<std::pair<int64_t, int64_t>>{
           {0, 3}, {1, 1}, {700, 10}, {3, 16}, {5, 17}, {40, 333}, {2, 20000}}) {
    for (const double scale : {1.0, 1000.0}) {
      auto x = random_values<T>(rows * cols, 1);
      for (T& value : x) value = static_cast<T>(value * scale + 3 * scale);
      const auto gy = random_values<T>(rows * cols, 2), weight = random_values<T>(cols, 3);
      std::vector<int64_t> target(rows);
      std::vector<double> y(x.size()), gx(x.size()), losses(rows), from_loss(x.size());
      for (int64_t r = 0; r < rows; ++r) {
        target[r] = r % 3 == 2 ? kIgnored : r * 5 % cols;
        const T* row = x.data() + r * cols;
        const double max = *std::max_element(row, row + cols);
        double sum = 0, dot = 0;
        for (int64_t c = 0; c < cols; ++c) sum += std::exp(row[c] - max);
        for (int64_t c = 0; c < cols; ++c) {
          y[r * cols + c] = std::exp(row[c] - max) / sum;
          dot += y[r * cols + c] * gy[r * cols + c];
        }
        for (int64_t c = 0; c < cols; ++c) {
          gx[r * cols + c] = y[r * cols + c] * (gy[r * cols + c] - dot);
        }
        if (target[r] == kIgnored) continue;
        const double w = weight[target[r]];
        losses[r] = w * (std::log(sum) - (row[target[r]] - max));
        for (int64_t c = 0; c < cols; ++c) {
          from_loss[r * cols + c] = gy[r] * w * (y[r * cols + c] - (c == target[r] ? 1 : 0));
        }
      }
      const auto actual = same_bits_on_any_threads([&] {
        std::vector<T> out(x.size());
        softmax_forward(rows, cols, x.data(), out.data());
        return out;
      });
      expect_near(actual, y, tolerance);
      std::vector<T> in_place = x;
      softmax_forward(rows, cols, in_place.data(), in_place.data());
      EXPECT_EQ(in_place, actual);
      expect_near(same_bits_on_any_threads([&] {
                    std::vector<T> out(x.size());
                    softmax_backward(rows, cols, gy.data(), actual.data(), out.data());
                    return out;
                  }),
                  gx, tolerance);

      const ClassRows<T> given{.rows = rows,
                               .cols = cols,
                               .x = x.data(),
                               .target = target.data(),
                               .weight = weight.data(),
                               .ignore_index = kIgnored};
      std::vector<T> log_sums(2 * rows);
      expect_near(same_bits_on_any_threads([&] {
                    std::vector<T> out(rows, T(NAN));
                    cross_entropy_forward(given, out.data(), log_sums.data());
                    return out;
                  }),
                  losses, tolerance);
      expect_near(same_bits_on_any_threads([&] {
                    std::vector<T> out(x.size(), T(NAN));
                    cross_entropy_backward(given, gy.data(), log_sums.data(), out.data());
                    return out;
                  }),
                  from_loss, tolerance);
    }
  }
}

// As PyTorch: masked logits have probability 0, a row without any other or with +inf or NaN is NaN.
// An ignored row has no gradient, whatever is in it.
TYPED_TEST(Softmax, SoftmaxAndCrossEntropyOfInfinitiesAndNaN) {
  using T = TypeParam;
  const T inf = std::numeric_limits<T>::infinity(), nan = std::numeric_limits<T>::quiet_NaN();
  constexpr int64_t kCols = 21;
  for (const T bad : {inf, -inf, nan}) {
    for (const int place : {0, 5, 20}) {
      const bool all = bad == -inf;
      std::vector<T> x(3 * kCols, all ? -inf : T{1});
      x[place] = x[kCols + place] = bad;
      x[2 * kCols + 3] = 2;
      std::vector<T> y(x.size()), log_sums(6), losses(3), gx(x.size());
      softmax_forward(3, kCols, x.data(), y.data());
      for (int64_t c = 0; c < 2 * kCols; ++c) EXPECT_TRUE(std::isnan(y[c])) << bad << " at " << c;
      if (all) {
        EXPECT_EQ(y[2 * kCols + 3], T{1});
        EXPECT_EQ(y[2 * kCols + 4], T{0});
      }
      const std::vector<int64_t> target{4, -1, 3};
      const ClassRows<T> given{
          .rows = 3, .cols = kCols, .x = x.data(), .target = target.data(), .ignore_index = -1};
      const std::vector<T> gy(3, T{1});
      cross_entropy_forward(given, losses.data(), log_sums.data());
      cross_entropy_backward(given, gy.data(), log_sums.data(), gx.data());
      EXPECT_TRUE(std::isnan(losses[0]));
      EXPECT_EQ(losses[1], T{0});
      if (all) {
        EXPECT_EQ(losses[2], T{0});
      }
      for (int64_t c = 0; c < kCols; ++c) {
        EXPECT_TRUE(std::isnan(gx[c]));
        EXPECT_EQ(gx[kCols + c], T{0});
        EXPECT_TRUE(std::isfinite(gx[2 * kCols + c]));
      }
    }
  }
}

}  // namespace
}  // namespace lockstep::cpu
