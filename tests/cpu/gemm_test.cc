#include "lockstep/engine/cpu/gemm.h"

#include <array>
#include <limits>

#include <gtest/gtest.h>

#include "lockstep/engine/tensor/error.h"

#include "cpu/support.h"

namespace lockstep::cpu {
namespace {

struct Case {
  int64_t m, n, k;
  bool transpose_a, transpose_b;
  double alpha, beta;
};

template <typename T>
struct Problem {
  Case c;
  int64_t lda, ldb, ldc;
  std::vector<T> a, b, out;
  GemmArgs<T> args() {
    return {.transpose_a = c.transpose_a,
            .transpose_b = c.transpose_b,
            .m = c.m,
            .n = c.n,
            .k = c.k,
            .alpha = static_cast<T>(c.alpha),
            .a = a.data(),
            .lda = lda,
            .b = b.data(),
            .ldb = ldb,
            .beta = static_cast<T>(c.beta),
            .c = out.data(),
            .ldc = ldc};
  }
};

// Rows lie a few elements apart beyond what they need.
template <typename T>
Problem<T> make(const Case& c) {
  Problem<T> p{.c = c,
               .lda = (c.transpose_a ? c.m : c.k) + 3,
               .ldb = (c.transpose_b ? c.k : c.n) + 1,
               .ldc = c.n + 2,
               .a = {},
               .b = {},
               .out = {}};
  p.a = as<T>(random_values<float>(p.lda * (c.transpose_a ? c.k : c.m) + 1, 1));
  p.b = as<T>(random_values<float>(p.ldb * (c.transpose_b ? c.n : c.k) + 1, 2));
  p.out = as<T>(random_values<float>(p.ldc * c.m + 1, 3));
  return p;
}

template <typename T>
std::vector<double> reference(const Problem<T>& p) {
  const Case& c = p.c;
  std::vector<double> out = as<double>(p.out);
  for (int64_t i = 0; i < c.m; ++i) {
    for (int64_t j = 0; j < c.n; ++j) {
      double sum = 0;
      for (int64_t k = 0; k < c.k; ++k) {
        sum += static_cast<double>(p.a[c.transpose_a ? k * p.lda + i : i * p.lda + k]) *
               static_cast<double>(p.b[c.transpose_b ? j * p.ldb + k : k * p.ldb + j]);
      }
      double& to = out[i * p.ldc + j];
      to = c.alpha * sum + (c.beta == 0 ? 0 : c.beta * to);
    }
  }
  return out;
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const bool ta : {false, true}) {
    for (const bool tb : {false, true}) {
      for (const auto& [m, n, k] : std::vector<std::array<int64_t, 3>>{{1, 1, 1},
                                                                       {1, 37, 5},
                                                                       {33, 1, 8},
                                                                       {65, 67, 129},
                                                                       {64, 512, 100},
                                                                       {300, 530, 17},
                                                                       {513, 70, 33},
                                                                       {3, 1100, 700}}) {
        all.push_back({m, n, k, ta, tb, 1.0, 0.0});
        all.push_back({m, n, k, ta, tb, -0.5, 2.0});
      }
    }
  }
  return all;
}

template <typename T>
class Gemm : public ::testing::Test {};
using Types = ::testing::Types<float, double>;
TYPED_TEST_SUITE(Gemm, Types);

TYPED_TEST(Gemm, MatchesReferenceOnAnyThreads) {
  const double tolerance = std::is_same_v<TypeParam, float> ? 1e-4 : 1e-12;
  for (const Case& c : cases()) {
    SCOPED_TRACE(::testing::Message() << c.m << "x" << c.n << "x" << c.k << " ta=" << c.transpose_a
                                      << " tb=" << c.transpose_b << " beta=" << c.beta);
    const auto expected = reference(make<TypeParam>(c));
    const auto actual = same_bits_on_any_threads([&] {
      auto p = make<TypeParam>(c);
      gemm(p.args());
      return p.out;
    });
    expect_near(actual, expected, tolerance);
  }
}

TYPED_TEST(Gemm, ZeroBetaOverwritesNaN) {
  for (const int64_t k : {0, 4}) {
    auto p = make<TypeParam>({20, 30, k, false, false, 1.0, 0.0});
    const auto expected = reference(p);
    for (int64_t i = 0; i < 20; ++i) {
      for (int64_t j = 0; j < 30; ++j) {
        p.out[i * p.ldc + j] = std::numeric_limits<TypeParam>::quiet_NaN();
      }
    }
    gemm(p.args());
    expect_near(p.out, expected, 1e-5);
  }
}

TYPED_TEST(Gemm, EmptySizes) {
  auto p = make<TypeParam>({3, 4, 0, false, false, 1.0, 0.5});
  const auto expected = reference(p);
  gemm(p.args());
  expect_near(p.out, expected, 1e-6);
  gemm(GemmArgs<TypeParam>{.m = 0, .n = 4, .k = 4, .lda = 4, .ldb = 4, .ldc = 4});
  gemm(GemmArgs<TypeParam>{.m = 4, .n = 0, .k = 4, .lda = 4, .ldb = 4, .ldc = 4});
  EXPECT_THROW(gemm(GemmArgs<TypeParam>{.m = -1, .n = 1, .k = 1}), ValueError);
  EXPECT_THROW(gemm(GemmArgs<TypeParam>{.m = 2, .n = 2, .k = 2, .lda = 1, .ldb = 2, .ldc = 2}),
               ValueError);
}

TYPED_TEST(Gemm, Batched) {
  constexpr int64_t kBatch = 5, m = 7, n = 9, k = 11;
  const auto a = random_values<TypeParam>(kBatch * m * k, 1);
  const auto b = random_values<TypeParam>(k * n, 2);  // the same for all
  const auto c = same_bits_on_any_threads([&] {
    std::vector<TypeParam> out(kBatch * m * n);
    batched_gemm({.m = m,
                  .n = n,
                  .k = k,
                  .a = a.data(),
                  .lda = k,
                  .b = b.data(),
                  .ldb = n,
                  .c = out.data(),
                  .ldc = n},
                 kBatch, m * k, 0, m * n);
    return out;
  });
  std::vector<double> expected(c.size());
  for (int64_t row = 0; row < kBatch * m; ++row) {
    for (int64_t j = 0; j < n; ++j) {
      for (int64_t p = 0; p < k; ++p) {
        expected[row * n + j] += static_cast<double>(a[row * k + p]) * b[p * n + j];
      }
    }
  }
  expect_near(c, expected, 1e-5);
}

}  // namespace
}  // namespace lockstep::cpu
