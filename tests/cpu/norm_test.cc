#include "lockstep/engine/cpu/norm.h"

#include <limits>

#include "lockstep/engine/cpu/layer_norm.h"
#include "lockstep/engine/tensor/error.h"

#include "cpu/support.h"

namespace lockstep::cpu {
namespace {

std::vector<NormShape> shapes() {
  std::vector<NormShape> all;
  for (const Layout l : {Layout::kNchw, Layout::kNhwc}) {
    for (const auto& [n, c, s] : std::vector<std::tuple<int64_t, int64_t, int64_t>>{
             {2, 1, 1}, {7, 5, 1}, {3, 4, 35}, {5, 33, 49}, {1, 3, 1000}, {9, 64, 300}}) {
      all.push_back({.n = n, .c = c, .spatial = s, .layout = l});
    }
  }
  return all;
}

int64_t channel(const NormShape& s, int64_t i) {
  return s.layout == Layout::kNhwc ? i % s.c : i / s.spatial % s.c;
}

template <typename T>
class Norm : public ::testing::Test {};
using Types = ::testing::Types<float, double>;
TYPED_TEST_SUITE(Norm, Types);

TYPED_TEST(Norm, MatchesReferenceOnAnyThreads) {
  using T = TypeParam;
  const double tolerance = std::is_same_v<T, float> ? 1e-4 : 1e-11;
  constexpr double kEps = 1e-3;
  for (const NormShape& s : shapes()) {
    SCOPED_TRACE(::testing::Message() << s.n << "x" << s.c << "x" << s.spatial << " nhwc "
                                      << (s.layout == Layout::kNhwc));
    const int64_t size = s.n * s.c * s.spatial;
    const double count = static_cast<double>(s.n * s.spatial);
    auto x = random_values<T>(size, 1);
    for (T& value : x) {
      value += 10;  // a mean far from zero: E[x^2] - E[x]^2 would lose digits
    }
    const auto gy = random_values<T>(size, 2);
    const auto weight = random_values<T>(s.c, 3);
    const auto bias = random_values<T>(s.c, 4);
    std::vector<double> mean(s.c), var(s.c), sum_gy(s.c), sum_gx(s.c), y(size), gx(size);
    for (int64_t i = 0; i < size; ++i) mean[channel(s, i)] += x[i] / count;
    for (int64_t i = 0; i < size; ++i) {
      const int64_t c = channel(s, i);
      var[c] += (x[i] - mean[c]) * (x[i] - mean[c]) / count;
    }
    std::vector<double> r(s.c);
    for (int64_t c = 0; c < s.c; ++c) r[c] = 1 / std::sqrt(var[c] + kEps);
    for (int64_t i = 0; i < size; ++i) {
      const int64_t c = channel(s, i);
      const double hat = (x[i] - mean[c]) * r[c];
      y[i] = hat * weight[c] + bias[c];
      sum_gy[c] += gy[i];
      sum_gx[c] += gy[i] * hat;
    }

    std::vector<double> statistics = mean;
    statistics.insert(statistics.end(), var.begin(), var.end());
    const auto actual = same_bits_on_any_threads([&] {
      std::vector<T> out(2 * s.c, T(NAN));
      batch_statistics(s, x.data(), out.data(), out.data() + s.c);
      return out;
    });
    expect_near(actual, statistics, tolerance);
    const T* m = actual.data();
    const T* v = m + s.c;
    expect_near(same_bits_on_any_threads([&] {
                  std::vector<T> out(size, T(NAN));
                  batch_norm_forward(s, x.data(), m, v, weight.data(), bias.data(), kEps,
                                     out.data());
                  return out;
                }),
                y, tolerance);

    for (const bool batch : {true, false}) {
      for (int64_t i = 0; i < size; ++i) {
        const int64_t c = channel(s, i);
        const double hat = (x[i] - mean[c]) * r[c];
        gx[i] = weight[c] * r[c] *
                (gy[i] - (batch ? sum_gy[c] / count + hat * sum_gx[c] / count : 0.0));
      }
      std::vector<double> expected = gx;
      expected.insert(expected.end(), sum_gx.begin(), sum_gx.end());
      expected.insert(expected.end(), sum_gy.begin(), sum_gy.end());
      const auto gradients = same_bits_on_any_threads([&] {
        std::vector<T> out(size + 2 * s.c, T(NAN));
        batch_norm_backward(s, gy.data(), x.data(), m, v, weight.data(), kEps, batch, out.data(),
                            out.data() + size, out.data() + size + s.c);
        return out;
      });
      expect_near(gradients, expected, 10 * tolerance);
      std::vector<T> only(size, T(NAN));
      T* const none = nullptr;
      batch_norm_backward(s, gy.data(), x.data(), m, v, weight.data(), kEps, batch, only.data(),
                          none, none);
      EXPECT_EQ(std::memcmp(only.data(), gradients.data(), size * sizeof(T)), 0);
    }
  }
}

TYPED_TEST(Norm, WeightAndBiasAreOptional) {
  const NormShape s{.n = 2, .c = 2, .spatial = 2, .layout = Layout::kNchw};
  const std::vector<TypeParam> x{1, 2, 3, 4, 5, 6, 7, 8};
  const TypeParam mean[2] = {1, 2};
  const TypeParam var[2] = {4, 16};
  const TypeParam* const none = nullptr;
  std::vector<TypeParam> y(8);
  batch_norm_forward(s, x.data(), mean, var, none, none, 0.0, y.data());
  EXPECT_EQ(y, (std::vector<TypeParam>{0, 0.5, 0.25, 0.5, 2, 2.5, 1.25, 1.5}));
}

TYPED_TEST(Norm, EmptyBatchHasNoStatistics) {
  TypeParam out[2];
  EXPECT_THROW(batch_statistics(NormShape{.n = 0, .c = 1}, out, out, out + 1), ValueError);
}

// Layer norm and, without a mean, RMS norm: rows of a length that is no multiple of a vector's,
// short, long, and none.
TYPED_TEST(Norm, OfRowsMatchesReferenceOnAnyThreads) {
  using T = TypeParam;
  const double tolerance = std::is_same_v<T, float> ? 1e-4 : 1e-11;
  constexpr double kEps = 1e-3;
  for (const auto& [rows, cols] : std::vector<std::pair<int64_t, int64_t>>{
           {0, 3}, {3, 1}, {1, 2}, {300, 129}, {1100, 16}, {37, 50}, {17, 9001}}) {
    for (const bool centred : {true, false}) {
      SCOPED_TRACE(::testing::Message() << rows << "x" << cols << " centred " << centred);
      auto x = random_values<T>(rows * cols, 1);
      for (T& value : x) value += centred ? 10 : 0;
      const auto gy = random_values<T>(rows * cols, 2);
      const auto weight = random_values<T>(cols, 3), bias = random_values<T>(cols, 4);
      std::vector<double> y(x.size()), gx(x.size()), sums(2 * cols), of_rows(2 * rows);
      for (int64_t row = 0; row < rows; ++row) {
        const T* const v = x.data() + row * cols;
        const T* const g = gy.data() + row * cols;
        const double count = static_cast<double>(cols);
        double mean = 0, var = 0, a = 0, b = 0;
        for (int64_t c = 0; c < cols && centred; ++c) mean += v[c] / count;
        for (int64_t c = 0; c < cols; ++c) var += (v[c] - mean) * (v[c] - mean) / count;
        const double r = 1 / std::sqrt(var + kEps);
        of_rows[row] = mean;
        of_rows[rows + row] = r;
        for (int64_t c = 0; c < cols; ++c) {
          const double hat = (v[c] - mean) * r;
          y[row * cols + c] = hat * weight[c] + bias[c];
          sums[c] += g[c] * hat;
          sums[cols + c] += g[c];
          a += centred ? g[c] * weight[c] / count : 0;
          b += g[c] * weight[c] * hat / count;
        }
        for (int64_t c = 0; c < cols; ++c) {
          gx[row * cols + c] = r * (g[c] * weight[c] - a - (v[c] - mean) * r * b);
        }
      }
      std::vector<T> found(2 * rows);
      T* const mean = centred ? found.data() : nullptr;
      T* const rstd = found.data() + rows;
      expect_near(same_bits_on_any_threads([&] {
                    std::vector<T> out(x.size());
                    layer_norm_forward(rows, cols, x.data(), weight.data(), bias.data(), kEps,
                                       out.data(), mean, rstd);
                    return out;
                  }),
                  y, tolerance);
      expect_near(found, of_rows, tolerance);
      std::vector<double> expected = gx;
      expected.insert(expected.end(), sums.begin(), sums.end());
      const auto gradients = same_bits_on_any_threads([&] {
        std::vector<T> out(expected.size());
        layer_norm_backward(rows, cols, gy.data(), x.data(), mean, rstd, weight.data(), out.data(),
                            out.data() + x.size(), out.data() + x.size() + cols);
        return out;
      });
      expect_near(gradients, expected, 10 * tolerance);
      // One at a time, the same.
      std::vector<T> only(cols), input(x.size());
      T* const none = nullptr;
      layer_norm_backward(rows, cols, gy.data(), x.data(), mean, rstd, weight.data(), none, none,
                          only.data());
      expect_near(only, std::vector<double>(sums.begin() + cols, sums.end()), 10 * tolerance);
      layer_norm_backward(rows, cols, gy.data(), x.data(), mean, rstd, weight.data(), input.data(),
                          none, none);
      expect_near(input, gx, 10 * tolerance);
    }
  }
}

TYPED_TEST(Norm, OfRowsWithoutWeightsOrWithNaN) {
  using T = TypeParam;
  const T nan = std::numeric_limits<T>::quiet_NaN();
  const std::vector<T> x{1, 3, nan, 3, 5, 5}, weight{2, 4}, bias{1, -1};
  std::vector<T> y(6), mean(3), rstd(3);
  const T* const none = nullptr;
  layer_norm_forward(3, 2, x.data(), none, none, 0.0, y.data(), mean.data(), rstd.data());
  EXPECT_EQ(std::vector<T>(y.begin(), y.begin() + 2), (std::vector<T>{-1, 1}));
  EXPECT_TRUE(std::isnan(y[2]) && std::isnan(y[3])) << "the whole row";
  layer_norm_forward(3, 2, x.data(), none, bias.data(), 1.0, y.data(), mean.data(), rstd.data());
  EXPECT_EQ(std::vector<T>(y.begin() + 4, y.end()), bias) << "no deviation at all";
  layer_norm_forward(1, 2, x.data(), weight.data(), none, 0.0, y.data(), mean.data(), rstd.data());
  EXPECT_EQ(std::vector<T>(y.begin(), y.begin() + 2), (std::vector<T>{-2, 4}));
}

}  // namespace
}  // namespace lockstep::cpu
