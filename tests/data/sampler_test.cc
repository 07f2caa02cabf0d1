#include "lockstep/data/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/engine/tensor/error.h"

namespace lockstep::data {
namespace {

using Samples = std::vector<int64_t>;

Samples iota(int64_t count) {
  Samples samples(static_cast<size_t>(count));
  std::iota(samples.begin(), samples.end(), int64_t{0});
  return samples;
}

// All micro-batches of one step over all ranks, in the order of their numbers.
std::vector<Samples> micros_of_world(Sampler::Options options, int64_t step) {
  std::vector<Samples> all;
  for (options.rank = 0; options.rank < options.world_size; ++options.rank) {
    const auto plan = Sampler(options).plan(step);
    EXPECT_EQ(static_cast<int64_t>(plan.micros.size()), options.accumulate);
    for (const auto& micro : plan.micros) {
      EXPECT_EQ(micro.index, static_cast<int64_t>(all.size()));
      all.push_back(micro.samples);
    }
  }
  return all;
}

// Shards are the same on any number of ranks, and of equal size.
TEST(Sampler, VirtualShardsDependOnNothingElse) {
  Sampler::Options options{.samples = 100, .global_batch = 48, .virtual_shards = 16, .seed = 3};
  const auto shards_of_world = [&](int world_size, int64_t step) {
    std::vector<Samples> all;
    options.world_size = world_size;
    options.accumulate = world_size;  // has no effect
    for (options.rank = 0; options.rank < world_size; ++options.rank) {
      const auto range = shards_of(16, options.rank, world_size);
      EXPECT_EQ(range.begin, std::ssize(all));
      for (const auto& micro : Sampler(options).plan(step).micros) {
        EXPECT_EQ(micro.index, std::ssize(all));
        EXPECT_EQ(micro.samples.size(), 3u);
        all.push_back(micro.samples);
      }
      EXPECT_EQ(range.end, std::ssize(all));
    }
    options.rank = 0;
    return all;
  };
  for (const int64_t step : {0, 1, 5}) {
    const auto one = shards_of_world(1, step);
    ASSERT_EQ(one.size(), 16u);
    for (const int world_size : {2, 3, 5, 8, 16}) {
      EXPECT_EQ(shards_of_world(world_size, step), one) << world_size << " ranks";
    }
  }
  EXPECT_EQ(shards_of(16, 1, 3), (Range{5, 10}));
  options.world_size = 17;
  EXPECT_THROW(Sampler{options}, ValueError);
  options.world_size = 1;
  options.virtual_shards = 32;  // does not divide 48
  EXPECT_THROW(Sampler{options}, ValueError);
  EXPECT_THROW(shards_of(4, 0, 5), ValueError);
}

TEST(Share, CoversEverythingOnceAndEvenly) {
  EXPECT_EQ(share(10, 0, 4), (Range{0, 3}));
  EXPECT_EQ(share(10, 1, 4), (Range{3, 6}));
  EXPECT_EQ(share(10, 2, 4), (Range{6, 8}));
  EXPECT_EQ(share(10, 3, 4), (Range{8, 10}));
  for (const int64_t total : {0, 1, 7, 128, 10000}) {
    for (const int64_t parts : {1, 2, 3, 7, 16}) {
      int64_t at = 0;
      for (int64_t part = 0; part < parts; ++part) {
        const auto range = share(total, part, parts);
        EXPECT_EQ(range.begin, at);
        EXPECT_GE(range.size(), total / parts);
        EXPECT_LE(range.size(), (total + parts - 1) / parts);
        at = range.end;
      }
      EXPECT_EQ(at, total);
    }
  }
  EXPECT_THROW(share(10, 4, 4), ValueError);
  EXPECT_THROW(share(10, -1, 4), ValueError);
  EXPECT_THROW(share(10, 0, 0), ValueError);
}

TEST(Permutation, IsOneAndDependsOnSeedAndEpochOnly) {
  const auto order = permutation(60000, 7, 3);
  EXPECT_EQ(order, permutation(60000, 7, 3));
  EXPECT_NE(order, permutation(60000, 7, 4));
  EXPECT_NE(order, permutation(60000, 8, 3));
  EXPECT_NE(order, permutation(60000, 7 + (uint64_t{1} << 32), 3));
  Samples sorted = order;
  EXPECT_FALSE(std::is_sorted(sorted.begin(), sorted.end()));
  std::sort(sorted.begin(), sorted.end());
  EXPECT_EQ(sorted, iota(60000));
}

TEST(Permutation, SmallOnes) {
  EXPECT_TRUE(permutation(0, 1, 0).empty());
  EXPECT_EQ(permutation(1, 1, 0), Samples{0});
  EXPECT_THROW(permutation(-1, 1, 0), ValueError);
  EXPECT_THROW(permutation(1, 1, -1), ValueError);
}

// Every one of the 24 orders of 4 samples is equally likely. Chi-squared with 23 degrees of freedom
// exceeds 60 with probability 4e-5; the draws are fixed, so the test cannot fail by chance.
TEST(Permutation, IsUniform) {
  constexpr int kTrials = 24000;
  std::vector<int> count(256, 0);
  for (int epoch = 0; epoch < kTrials; ++epoch) {
    const auto order = permutation(4, 11, epoch);
    ++count[static_cast<size_t>(order[0] * 64 + order[1] * 16 + order[2] * 4 + order[3])];
  }
  double chi_squared = 0.0;
  int seen = 0;
  for (const int n : count) {
    if (n == 0) continue;
    ++seen;
    chi_squared += (n - kTrials / 24.0) * (n - kTrials / 24.0) / (kTrials / 24.0);
  }
  EXPECT_EQ(seen, 24);
  EXPECT_LT(chi_squared, 60.0);
}

// Neither position nor sample favours one another in a longer permutation.
TEST(Permutation, SpreadsEverySampleOverAllPositions) {
  constexpr int kSamples = 100;
  constexpr int kTrials = 4000;
  std::vector<double> sum(kSamples, 0.0);
  for (int epoch = 0; epoch < kTrials; ++epoch) {
    const auto order = permutation(kSamples, 5, epoch);
    for (size_t at = 0; at < order.size(); ++at) {
      sum[static_cast<size_t>(order[at])] += static_cast<double>(at);
    }
  }
  // The mean position of a sample over T epochs has standard deviation 28.9 / sqrt(T) = 0.456.
  for (const double s : sum) EXPECT_NEAR(s / kTrials, 49.5, 5 * 0.457);
}

TEST(Sampler, StepsTakeContiguousPiecesOfTheEpochsPermutation) {
  const Sampler::Options options{.samples = 103, .global_batch = 10, .seed = 3};
  Sampler sampler(options);
  EXPECT_EQ(sampler.steps_per_epoch(), 10);  // the last 3 samples of each epoch are dropped
  for (const int64_t step : {0, 1, 9, 10, 25, 3}) {
    const auto plan = sampler.plan(step);
    EXPECT_EQ(plan.index, step);
    EXPECT_EQ(plan.epoch, step / 10);
    EXPECT_EQ(plan.global_samples, 10);
    ASSERT_EQ(plan.micros.size(), 1u);
    const auto order = permutation(103, 3, step / 10);
    const auto begin = order.begin() + step % 10 * 10;
    EXPECT_EQ(plan.micros[0].samples, Samples(begin, begin + 10)) << "step " << step;
  }
}

TEST(Sampler, NoSampleTwiceInAnEpochWhateverTheWorld) {
  for (const int world : {1, 2, 3, 4}) {
    for (const int64_t accumulate : {1, 2, 3}) {
      const Sampler::Options options{.samples = 205,
                                     .global_batch = 25,
                                     .world_size = world,
                                     .accumulate = accumulate,
                                     .seed = 1};
      std::set<int64_t> seen;
      int64_t count = 0;
      for (int64_t step = 0; step < 8; ++step) {
        for (const auto& micro : micros_of_world(options, step)) {
          EXPECT_FALSE(micro.empty());
          seen.insert(micro.begin(), micro.end());
          count += static_cast<int64_t>(micro.size());
        }
      }
      EXPECT_EQ(count, 200);
      EXPECT_EQ(seen.size(), 200u);
    }
  }
}

// One rank accumulating 4, two accumulating 2 and four ranks see the same micro-batches with the
// same numbers, even where the batch does not divide.
TEST(Sampler, AccumulationAndRanksAreInterchangeable) {
  for (const int64_t batch : {8, 10, 128, 131}) {
    Sampler::Options options{.samples = 1000, .global_batch = batch, .seed = 1};
    for (const int64_t step : {0, 1, 5, 9, 130}) {
      options.world_size = 1;
      options.accumulate = 4;
      const auto alone = micros_of_world(options, step);
      EXPECT_EQ(alone.size(), 4u);
      options.world_size = 4;
      options.accumulate = 1;
      EXPECT_EQ(micros_of_world(options, step), alone);
      options.world_size = 2;
      options.accumulate = 2;
      EXPECT_EQ(micros_of_world(options, step), alone);
    }
  }
}

TEST(Sampler, TheStepsSamplesDoNotDependOnTheWorld) {
  const auto flat = [](const std::vector<Samples>& micros) {
    Samples all;
    for (const auto& micro : micros) all.insert(all.end(), micro.begin(), micro.end());
    return all;
  };
  Sampler::Options options{.samples = 500, .global_batch = 50, .seed = 9};
  const auto alone = flat(micros_of_world(options, 7));
  for (const int world : {2, 3, 7, 50}) {
    options.world_size = world;
    EXPECT_EQ(flat(micros_of_world(options, 7)), alone) << world << " ranks";
  }
}

TEST(Sampler, WithoutShuffling) {
  Sampler sampler({.samples = 6, .global_batch = 3, .shuffle = false});
  EXPECT_EQ(sampler.plan(1).micros[0].samples, (Samples{3, 4, 5}));
  EXPECT_EQ(sampler.plan(2).micros[0].samples, (Samples{0, 1, 2}));
}

TEST(Sampler, ImpossibleSplitsAreErrors) {
  const auto message = [](Sampler::Options options) -> std::string {
    try {
      Sampler sampler(options);
      return "nothing was thrown";
    } catch (const ValueError& error) {
      return error.what();
    }
  };
  EXPECT_NE(message({.samples = 100, .global_batch = 3, .world_size = 4}).find("global batch of 3"),
            std::string::npos);
  EXPECT_NE(message({.samples = 100, .global_batch = 7, .world_size = 2, .accumulate = 4})
                .find("2 x 4 micro-batches"),
            std::string::npos);
  EXPECT_NE(message({.samples = 100, .global_batch = 101}).find("less than one global batch"),
            std::string::npos);
  EXPECT_NE(message({.samples = 100, .global_batch = 0}).find("must be at least 1"),
            std::string::npos);
  EXPECT_NE(message({.samples = 100, .global_batch = 10, .accumulate = 0}).find("accumulate is 0"),
            std::string::npos);
  EXPECT_NE(
      message({.samples = 100, .global_batch = 10, .rank = 2, .world_size = 2}).find("rank 2"),
      std::string::npos);
  // The product of ranks and micro-batches must not overflow into something acceptable.
  EXPECT_NE(
      message({.samples = 100, .global_batch = 10, .world_size = 2, .accumulate = int64_t{1} << 62})
          .find("cannot be cut"),
      std::string::npos);
  EXPECT_THROW(Sampler({.samples = 10, .global_batch = 5}).plan(-1), ValueError);
}

}  // namespace
}  // namespace lockstep::data
