#include "lockstep/engine/cpu/pool.h"

#include <algorithm>
#include <limits>

#include "lockstep/engine/tensor/error.h"

#include "cpu/support.h"

namespace lockstep::cpu {
namespace {

struct Case {
  Pool2dShape shape;
  bool ceil_mode;
};

std::vector<Case> cases(bool dilated) {
  std::vector<Pool2dShape> shapes{
      {.n = 1, .c = 1, .h = 1, .w = 1},
      {.n = 3, .c = 5, .h = 8, .w = 6, .kh = 2, .kw = 2, .stride_h = 2, .stride_w = 2},
      {.n = 2,
       .c = 19,
       .h = 7,
       .w = 9,
       .kh = 3,
       .kw = 3,
       .stride_h = 2,
       .stride_w = 2,
       .pad_h = 1,
       .pad_w = 1},
      {.n = 2, .c = 3, .h = 6, .w = 7, .kh = 3, .kw = 2},
      {.n = 2,
       .c = 33,
       .h = 5,
       .w = 5,
       .kh = 2,
       .kw = 4,
       .stride_h = 3,
       .stride_w = 3,
       .pad_h = 1,
       .pad_w = 2}};
  if (dilated) {
    shapes.push_back({.n = 2,
                      .c = 4,
                      .h = 9,
                      .w = 10,
                      .kh = 3,
                      .kw = 2,
                      .stride_h = 2,
                      .pad_h = 1,
                      .pad_w = 1,
                      .dilation_h = 2,
                      .dilation_w = 3});
  }
  std::vector<Case> all;
  for (Pool2dShape s : shapes) {
    for (const bool ceil_mode : {false, true}) {
      s.out_h = pooled_size(s.h, s.kh, s.stride_h, s.pad_h, s.dilation_h, ceil_mode);
      s.out_w = pooled_size(s.w, s.kw, s.stride_w, s.pad_w, s.dilation_w, ceil_mode);
      for (const bool count : {false, true}) {
        s.count_include_pad = count;
        all.push_back({s, ceil_mode});
      }
    }
  }
  return all;
}

int64_t at(Layout l, int64_t n, int64_t c, int64_t h, int64_t w, int64_t C, int64_t H, int64_t W) {
  return l == Layout::kNhwc ? ((n * H + h) * W + w) * C + c : ((n * C + c) * H + h) * W + w;
}

// Calls fn(out offset, taps inside as (offset, h * W + w), divisor with padding) per output.
template <typename F>
void for_windows(const Pool2dShape& s, Layout l, F&& fn) {
  for (int64_t n = 0; n < s.n; ++n)
    for (int64_t c = 0; c < s.c; ++c)
      for (int64_t i = 0; i < s.out_h; ++i)
        for (int64_t j = 0; j < s.out_w; ++j) {
          std::vector<std::pair<int64_t, int32_t>> taps;
          int64_t padded = 0;
          for (int64_t p = 0; p < s.kh; ++p)
            for (int64_t q = 0; q < s.kw; ++q) {
              const int64_t h = i * s.stride_h - s.pad_h + p * s.dilation_h;
              const int64_t w = j * s.stride_w - s.pad_w + q * s.dilation_w;
              padded += h < s.h + s.pad_h && w < s.w + s.pad_w;
              if (h >= 0 && h < s.h && w >= 0 && w < s.w) {
                taps.emplace_back(at(l, n, c, h, w, s.c, s.h, s.w), h * s.w + w);
              }
            }
          fn(at(l, n, c, i, j, s.c, s.out_h, s.out_w), taps, padded);
        }
}

template <typename T>
class Pool : public ::testing::Test {};
using Types = ::testing::Types<float, double>;
TYPED_TEST_SUITE(Pool, Types);

TYPED_TEST(Pool, MaxMatchesReferenceOnAnyThreads) {
  using T = TypeParam;
  for (const auto& [s, ceil_mode] : cases(true)) {
    for (const Layout l : {Layout::kNchw, Layout::kNhwc}) {
      SCOPED_TRACE(::testing::Message()
                   << s.c << "x" << s.h << "x" << s.w << " kernel " << s.kh << "x" << s.kw
                   << " ceil " << ceil_mode << " nhwc " << (l == Layout::kNhwc));
      auto x = random_values<T>(s.n * s.c * s.h * s.w, 1);
      for (T& value : x) {
        value = std::round(value * 4);  // many equals
      }
      const int64_t outputs = s.n * s.c * s.out_h * s.out_w;
      const auto gy = random_values<T>(outputs, 2);
      std::vector<T> y(outputs), gx(x.size());
      std::vector<int32_t> indices(outputs);
      for_windows(s, l, [&](int64_t out, const auto& taps, int64_t) {
        ASSERT_FALSE(taps.empty());
        const auto best = std::max_element(
            taps.begin(), taps.end(), [&](auto& a, auto& b) { return x[a.first] < x[b.first]; });
        y[out] = x[best->first];
        indices[out] = best->second;
        gx[best->first] += gy[out];
      });
      std::vector<int32_t> actual_indices(outputs, -1);
      EXPECT_EQ(same_bits_on_any_threads([&] {
                  std::vector<T> actual(outputs);
                  max_pool2d_forward(s, l, x.data(), actual.data(), actual_indices.data());
                  return actual;
                }),
                y);
      EXPECT_EQ(actual_indices, indices);
      expect_near(same_bits_on_any_threads([&] {
                    std::vector<T> actual(x.size(), T(NAN));
                    max_pool2d_backward(s, l, gy.data(), indices.data(), actual.data());
                    return actual;
                  }),
                  gx, 1e-6);
    }
  }
}

TYPED_TEST(Pool, MaxPropagatesNaN) {
  const TypeParam nan = std::numeric_limits<TypeParam>::quiet_NaN();
  const Pool2dShape s{.n = 1, .c = 1, .h = 2, .w = 2, .out_h = 1, .out_w = 1, .kh = 2, .kw = 2};
  for (int place = 0; place < 4; ++place) {
    TypeParam x[4] = {1, 2, 3, 4};
    x[place] = nan;
    TypeParam y = 0;
    int32_t index = -1;
    max_pool2d_forward(s, Layout::kNhwc, x, &y, &index);
    EXPECT_TRUE(std::isnan(y));
    EXPECT_EQ(index, place);
  }
}

TYPED_TEST(Pool, AverageMatchesReferenceOnAnyThreads) {
  using T = TypeParam;
  for (const auto& [s, ceil_mode] : cases(false)) {
    for (const Layout l : {Layout::kNchw, Layout::kNhwc}) {
      const auto x = random_values<T>(s.n * s.c * s.h * s.w, 1);
      const int64_t outputs = s.n * s.c * s.out_h * s.out_w;
      const auto gy = random_values<T>(outputs, 2);
      std::vector<double> y(outputs), gx(x.size());
      for_windows(s, l, [&](int64_t out, const auto& taps, int64_t padded) {
        const double count = s.count_include_pad ? padded : static_cast<double>(taps.size());
        for (const auto& [tap, place] : taps) {
          y[out] += x[tap] / count;
          gx[tap] += gy[out] / count;
        }
      });
      expect_near(same_bits_on_any_threads([&] {
                    std::vector<T> actual(outputs, T(NAN));
                    avg_pool2d_forward(s, l, x.data(), actual.data());
                    return actual;
                  }),
                  y, 1e-6);
      expect_near(same_bits_on_any_threads([&] {
                    std::vector<T> actual(x.size(), T(NAN));
                    avg_pool2d_backward(s, l, gy.data(), actual.data());
                    return actual;
                  }),
                  gx, 1e-6);
    }
  }
}

TEST(PooledSize, CountsAsPyTorch) {
  EXPECT_EQ(pooled_size(24, 2, 2, 0, 1, false), 12);
  EXPECT_EQ(pooled_size(7, 2, 2, 0, 1, false), 3);
  EXPECT_EQ(pooled_size(7, 2, 2, 0, 1, true), 4);
  EXPECT_EQ(pooled_size(112, 3, 2, 1, 1, false), 56);
  EXPECT_EQ(pooled_size(3, 2, 2, 1, 1, true), 2);  // a third window would start in the padding
  EXPECT_THROW(pooled_size(2, 3, 1, 0, 1, false), ValueError);
}

}  // namespace
}  // namespace lockstep::cpu
