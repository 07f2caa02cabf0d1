// Philox, streams of random numbers, and dropout.
#include "lockstep/engine/tensor/random.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <thread>

#include <gtest/gtest.h>

#include "lockstep/engine/autograd/gradcheck.h"
#include "lockstep/engine/ops/ops.h"

namespace lockstep::testing {
namespace {

using Words = std::array<uint32_t, 4>;
using Values = std::vector<double>;

// The vectors that Random123 publishes for philox4x32-10.
TEST(Philox, KnownAnswers) {
  EXPECT_EQ((Philox{0, 0}(0, 0, 0, 0)), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr uint32_t kOnes = 0xffffffff;
  EXPECT_EQ((Philox{kOnes, kOnes}(kOnes, kOnes, kOnes, kOnes)),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ((Philox{0xa4093822, 0x299f31d0}(0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344)),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, WordsToUniform) {
  EXPECT_EQ(uniform_float(0), 0.0f);
  EXPECT_EQ(uniform_float(0xffffffff), 1.0f - 0x1p-24f);
  EXPECT_EQ(uniform_float(0x80000000), 0.5f);
  EXPECT_EQ(uniform_double(0, 0), 0.0);
  EXPECT_EQ(uniform_double(0xffffffff, 0xffffffff), 1.0 - 0x1p-53);
  EXPECT_EQ(uniform_double(0x80000000, 0), 0.5);
}

TEST(Random, ElementsComeFromTheKey) {
  manual_seed(77);
  const RandomKey key = make_random_key(77, RandomPurpose::kProgram);
  const Tensor u = rand({10});
  for (int64_t i = 0; i < 10; ++i) {
    EXPECT_EQ(u.data<float>()[i],
              uniform_float(key.words(static_cast<uint32_t>(i / 4))[static_cast<size_t>(i % 4)]));
  }
}

TEST(Random, SeedsAndOrdinals) {
  manual_seed(5);
  EXPECT_EQ(current_seed(), 5u);
  const auto a = rand({8}).to_vector(), b = rand({8}).to_vector();
  EXPECT_NE(a, b) << "every op draws new numbers";
  manual_seed(5);
  EXPECT_EQ(rand({8}).to_vector(), a);
  EXPECT_EQ(rand({8}).to_vector(), b);
  manual_seed(6);
  EXPECT_NE(rand({8}).to_vector(), a);
  manual_seed(5 + (uint64_t{1} << 32));
  EXPECT_NE(rand({8}).to_vector(), a) << "all 64 bits of the seed count";
  // Each thread has a generator of its own, which starts at seed 0.
  manual_seed(5);
  uint64_t elsewhere = 1;
  std::thread([&] { elsewhere = current_seed(); }).join();
  EXPECT_EQ(elsewhere, 0u);
}

TEST(Random, ScopesNameTheirPlaceInTheRun) {
  const auto draw = [](uint64_t step, uint64_t micro_batch, RandomPurpose purpose) {
    const RandomScope scope(step, micro_batch, purpose);
    return rand({4}).to_vector();
  };
  manual_seed(9);
  std::set<Values> seen;
  for (uint64_t step = 0; step < 3; ++step) {
    for (uint64_t micro_batch = 0; micro_batch < 3; ++micro_batch) {
      for (auto purpose : {RandomPurpose::kStep, RandomPurpose::kShuffle, RandomPurpose::kData}) {
        seen.insert(draw(step, micro_batch, purpose));
      }
    }
  }
  EXPECT_EQ(seen.size(), 27u) << "all streams differ";
  // The same place gives the same numbers, whatever was drawn in between, and leaves no trace.
  manual_seed(9);
  const auto first = rand({4}).to_vector();
  const auto second = rand({4}).to_vector();
  manual_seed(9);
  EXPECT_EQ(rand({4}).to_vector(), first);
  const auto inside = draw(2, 1, RandomPurpose::kStep);
  {
    const RandomScope outer(7, 7);
    EXPECT_EQ(draw(2, 1, RandomPurpose::kStep), inside);
    const auto a = rand({4}).to_vector();
    EXPECT_EQ(draw(7, 7, RandomPurpose::kStep), a);
  }
  EXPECT_EQ(rand({4}).to_vector(), second);
}

struct Moments {
  double mean = 0, variance = 0, skewness = 0, kurtosis = 0, low = INFINITY, high = -INFINITY;

  explicit Moments(const Tensor& t) {
    const auto v = t.to_vector();
    const auto n = static_cast<double>(v.size());
    for (double x : v) {
      mean += x / n;
      low = std::min(low, x);
      high = std::max(high, x);
    }
    for (double x : v) variance += (x - mean) * (x - mean) / n;
    for (double x : v) {
      const double z = (x - mean) / std::sqrt(variance);
      skewness += z * z * z / n;
      kurtosis += z * z * z * z / n;
    }
  }
};

// Bounds are five standard errors at a million samples; the seed is fixed.
TEST(Random, NormalMoments) {
  manual_seed(1);
  for (DType dtype : {DType::kFloat32, DType::kFloat64}) {
    const Moments m(randn({1000, 1000}, {dtype}));
    EXPECT_NEAR(m.mean, 0, 5e-3);
    EXPECT_NEAR(m.variance, 1, 7.1e-3);
    EXPECT_NEAR(m.skewness, 0, 1.3e-2);
    EXPECT_NEAR(m.kurtosis, 3, 2.5e-2);
    EXPECT_GT(m.high, 4);
    EXPECT_LT(m.low, -4);
  }
  const Moments shifted(empty({1000000}).normal_(10, 0.5));
  EXPECT_NEAR(shifted.mean, 10, 2.5e-3);
  EXPECT_NEAR(shifted.variance, 0.25, 1.8e-3);
}

TEST(Random, UniformMomentsAndCells) {
  manual_seed(2);
  for (DType dtype : {DType::kFloat32, DType::kFloat64}) {
    const Tensor t = rand({1000000}, {dtype});
    const Moments m(t);
    EXPECT_NEAR(m.mean, 0.5, 1.5e-3);
    EXPECT_NEAR(m.variance, 1.0 / 12, 4e-4);
    EXPECT_GE(m.low, 0);
    EXPECT_LT(m.high, 1);
    std::vector<int> cells(100);
    for (double x : t.to_vector()) ++cells[static_cast<size_t>(x * 100)];
    double chi_square = 0;
    for (int c : cells) chi_square += (c - 1e4) * (c - 1e4) / 1e4;
    EXPECT_LT(chi_square, 170) << "99 degrees of freedom";
    EXPECT_GT(chi_square, 45);
  }
  const Moments m(empty({100000}).uniform_(-3, 5));
  EXPECT_GE(m.low, -3);
  EXPECT_LT(m.high, 5);
  EXPECT_NEAR(m.mean, 1, 0.04);
  EXPECT_THROW(empty({2}, {DType::kInt64}).uniform_(), ValueError);
}

TEST(Random, ViewsAndHalvesAreFilledToo) {
  manual_seed(3);
  const Tensor dense = rand({3, 4});
  manual_seed(3);
  const Tensor space = full({3, 8}, 7.0);
  space.slice(1, 0, 8, 2).uniform_();
  EXPECT_EQ(space.slice(1, 0, 8, 2).to_vector(), dense.to_vector());
  EXPECT_EQ(space.slice(1, 1, 8, 2).to_vector(), Values(12, 7.0));
  manual_seed(3);
  EXPECT_EQ(rand({3, 4}, {DType::kBFloat16}).to_vector(), dense.to(DType::kBFloat16).to_vector());
  EXPECT_EQ(rand({0, 3}).numel(), 0);
}

TEST(Dropout, DropsWithProbabilityAndScales) {
  manual_seed(4);
  constexpr int64_t kCount = 1000000;
  const Tensor x = ones({kCount});
  for (double p : {0.1, 0.5, 0.8}) {
    const auto y = dropout(x, p, true).to_vector();
    const auto kept = static_cast<float>(1 / (1 - p));
    int64_t dropped = 0, runs = 0;
    for (size_t i = 0; i < y.size(); ++i) {
      ASSERT_TRUE(y[i] == 0 || y[i] == kept) << y[i];
      dropped += y[i] == 0;
      runs += i > 0 && y[i] == 0 && y[i - 1] == 0;
    }
    const double error = 5 * std::sqrt(p * (1 - p) / kCount);
    EXPECT_NEAR(static_cast<double>(dropped) / kCount, p, error);
    EXPECT_NEAR(static_cast<double>(runs) / kCount, p * p, 2 * error)
        << "neighbours are independent";
  }
  EXPECT_EQ(sum(dropout(x, 1, true)).item(), 0);
  EXPECT_TRUE(dropout(x, 0.5, false).is_same(x));
  EXPECT_TRUE(dropout(x, 0, true).is_same(x));
}

TEST(Dropout, GradientUsesTheSameMask) {
  manual_seed(5);
  const Tensor x = rand({50}, {.requires_grad = true});
  const Tensor y = dropout(x, 0.3, true);
  y.sum().backward();
  const auto xs = x.to_vector(), ys = y.to_vector(), g = x.grad().to_vector();
  for (size_t i = 0; i < xs.size(); ++i) EXPECT_NEAR(ys[i], xs[i] * g[i], 1e-6);
  const auto function = [](const std::vector<Tensor>& inputs) {
    const RandomScope scope(3, 4);
    return dropout(inputs[0], 0.4, true);
  };
  const Tensor wide = rand({3, 4}, {.dtype = DType::kFloat64, .requires_grad = true});
  EXPECT_NO_THROW(autograd::gradcheck(function, {wide}));
  EXPECT_NO_THROW(autograd::gradgradcheck(function, {wide}));
}

// The mask belongs to the indices (N, C, H, W), not to the memory.
TEST(Dropout, DoesNotDependOnLayout) {
  const Tensor x = rand({2, 3, 5, 4});
  const Tensor last = x.permute({0, 2, 3, 1}).contiguous().permute({0, 3, 1, 2});
  const auto run = [](const Tensor& t) {
    const RandomScope scope(1, 1);
    return dropout(t, 0.5, true);
  };
  EXPECT_EQ(run(x).to_vector(), run(last).to_vector());
  EXPECT_TRUE(run(last).is_channels_last());
  EXPECT_EQ(run(x).to_vector(), run(x.transpose(2, 3).contiguous().transpose(2, 3)).to_vector());
}

}  // namespace
}  // namespace lockstep::testing
