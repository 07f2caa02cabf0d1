#include "lockstep/engine/cpu/conv.h"

#include <thread>

#include "lockstep/engine/tensor/error.h"

#include "cpu/support.h"

namespace lockstep::cpu {
namespace {

std::vector<Conv2dShape> shapes() {
  return {
      {.n = 1, .c = 1, .h = 1, .w = 1, .o = 1},
      {.n = 3, .c = 1, .h = 9, .w = 8, .o = 5, .kh = 3, .kw = 3},
      {.n = 50, .c = 1, .h = 28, .w = 28, .o = 32, .kh = 3, .kw = 3},
      {.n = 3, .c = 32, .h = 22, .w = 20, .o = 64, .kh = 3, .kw = 3},
      {.n = 2,
       .c = 6,
       .h = 11,
       .w = 13,
       .o = 4,
       .kh = 3,
       .kw = 2,
       .stride_h = 2,
       .pad_h = 1,
       .groups = 2},
      {.n = 2,
       .c = 8,
       .h = 12,
       .w = 12,
       .o = 8,
       .kh = 3,
       .kw = 3,
       .pad_h = 2,
       .pad_w = 2,
       .dilation_h = 2,
       .dilation_w = 2,
       .groups = 8},
      {.n = 2,
       .c = 3,
       .h = 17,
       .w = 15,
       .o = 7,
       .kh = 5,
       .kw = 7,
       .stride_h = 2,
       .stride_w = 3,
       .pad_h = 2,
       .pad_w = 3},
      {.n = 5, .c = 16, .h = 7, .w = 7, .o = 24, .stride_h = 2, .stride_w = 2},
  };
}

// Straight from the definition, with explicit indices for both layouts.
struct Reference {
  std::vector<double> y, gx, gw, gb;
};

int64_t at(Layout l, int64_t n, int64_t c, int64_t h, int64_t w, int64_t C, int64_t H, int64_t W) {
  return l == Layout::kNhwc ? ((n * H + h) * W + w) * C + c : ((n * C + c) * H + h) * W + w;
}

Reference reference(const Conv2dShape& s, Layout l, const std::vector<double>& x,
                    const std::vector<double>& w, const std::vector<double>& b,
                    const std::vector<double>& gy) {
  Reference r{.y = std::vector<double>(gy.size()),
              .gx = std::vector<double>(x.size()),
              .gw = std::vector<double>(w.size()),
              .gb = std::vector<double>(s.o)};
  const int64_t cg = s.c / s.groups;
  for (int64_t n = 0; n < s.n; ++n)
    for (int64_t o = 0; o < s.o; ++o)
      for (int64_t i = 0; i < s.out_h(); ++i)
        for (int64_t j = 0; j < s.out_w(); ++j) {
          const int64_t out = at(l, n, o, i, j, s.o, s.out_h(), s.out_w());
          r.y[out] = b.empty() ? 0 : b[o];
          r.gb[o] += gy[out];
          for (int64_t c = 0; c < cg; ++c)
            for (int64_t p = 0; p < s.kh; ++p)
              for (int64_t q = 0; q < s.kw; ++q) {
                const int64_t h = i * s.stride_h - s.pad_h + p * s.dilation_h;
                const int64_t v = j * s.stride_w - s.pad_w + q * s.dilation_w;
                if (h < 0 || h >= s.h || v < 0 || v >= s.w) continue;
                const int64_t in = at(l, n, o / (s.o / s.groups) * cg + c, h, v, s.c, s.h, s.w);
                const int64_t k = ((o * cg + c) * s.kh + p) * s.kw + q;
                r.y[out] += x[in] * w[k];
                r.gx[in] += gy[out] * w[k];
                r.gw[k] += gy[out] * x[in];
              }
        }
  return r;
}

template <typename T>
class Conv : public ::testing::Test {};
using Types = ::testing::Types<float, double>;
TYPED_TEST_SUITE(Conv, Types);

TYPED_TEST(Conv, AllPassesMatchReferenceOnAnyThreads) {
  using T = TypeParam;
  const double tolerance = std::is_same_v<T, float> ? 2e-4 : 1e-11;
  for (const Conv2dShape& s : shapes()) {
    for (const Layout layout : {Layout::kNchw, Layout::kNhwc}) {
      SCOPED_TRACE(::testing::Message()
                   << "c=" << s.c << " o=" << s.o << " kh=" << s.kh << " groups=" << s.groups
                   << " nhwc=" << (layout == Layout::kNhwc));
      const auto x = random_values<float>(s.n * s.c * s.h * s.w, 1);
      const auto w = random_values<float>(s.o * (s.c / s.groups) * s.kh * s.kw, 2);
      const auto b = random_values<float>(s.o, 3);
      const auto gy = random_values<float>(s.n * s.o * s.out_h() * s.out_w(), 4);
      const auto tx = as<T>(x), tw = as<T>(w), tb = as<T>(b), tgy = as<T>(gy);
      const auto with =
          reference(s, layout, as<double>(x), as<double>(w), as<double>(b), as<double>(gy));
      const auto without = reference(s, layout, as<double>(x), as<double>(w), {}, as<double>(gy));
      expect_near(same_bits_on_any_threads([&] {
                    std::vector<T> y(gy.size(), T(NAN));
                    conv2d_forward(s, layout, tx.data(), tw.data(), tb.data(), y.data());
                    return y;
                  }),
                  with.y, tolerance);
      std::vector<T> y(gy.size(), T(NAN));
      conv2d_forward(s, layout, tx.data(), tw.data(), nullptr, y.data());
      expect_near(y, without.y, tolerance);
      expect_near(same_bits_on_any_threads([&] {
                    std::vector<T> gx(x.size(), T(NAN));
                    conv2d_backward_data(s, layout, tgy.data(), tw.data(), gx.data());
                    return gx;
                  }),
                  with.gx, tolerance);
      auto expected = with.gw;
      expected.insert(expected.end(), with.gb.begin(), with.gb.end());
      expect_near(same_bits_on_any_threads([&] {
                    std::vector<T> g(w.size() + s.o, T(NAN));
                    conv2d_backward_weights(s, layout, tx.data(), tgy.data(), g.data(),
                                            g.data() + w.size());
                    return g;
                  }),
                  expected, tolerance);
      std::vector<T> gw(w.size(), T(NAN));
      conv2d_backward_weights(s, layout, tx.data(), tgy.data(), gw.data(),
                              static_cast<T*>(nullptr));
      expect_near(gw, with.gw, tolerance);
    }
  }
}

TEST(ConvConcurrency, SeveralCallersAtOnce) {
  const Conv2dShape s{.n = 4, .c = 8, .h = 10, .w = 10, .o = 8, .kh = 3, .kw = 3};
  const auto x = random_values<float>(s.n * s.c * s.h * s.w, 1);
  const auto w = random_values<float>(s.o * s.c * 9, 2);
  std::vector<float> expected(s.n * s.o * 64);
  conv2d_forward(s, Layout::kNhwc, x.data(), w.data(), nullptr, expected.data());
  std::vector<std::vector<float>> results(4, std::vector<float>(expected.size()));
  std::vector<std::thread> threads;
  for (auto& result : results) {
    threads.emplace_back([&] {
      for (int repeat = 0; repeat < 20; ++repeat) {
        conv2d_forward(s, Layout::kNhwc, x.data(), w.data(), nullptr, result.data());
      }
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
  for (const auto& result : results) {
    EXPECT_EQ(result, expected);
  }
}

TEST(ConvEdges, EmptyBatchAndImpossibleShapes) {
  float gw[4] = {NAN, NAN, NAN, NAN};
  float gb[4] = {NAN, NAN, NAN, NAN};
  conv2d_backward_weights({.n = 0, .c = 1, .h = 2, .w = 2, .o = 4}, Layout::kNhwc, nullptr, nullptr,
                          gw, gb);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(gw[i], 0.0f);
    EXPECT_EQ(gb[i], 0.0f);
  }
  float v = 0;
  EXPECT_THROW(conv2d_forward({.n = 1, .c = 3, .h = 2, .w = 2, .o = 4, .groups = 2}, Layout::kNhwc,
                              &v, &v, &v, &v),
               ValueError);
  EXPECT_THROW(conv2d_forward({.n = 1, .c = 1, .h = 2, .w = 2, .o = 1, .kh = 3}, Layout::kNhwc, &v,
                              &v, &v, &v),
               ValueError);
}

}  // namespace
}  // namespace lockstep::cpu
