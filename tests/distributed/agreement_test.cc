#include "lockstep/distributed/agreement.h"

#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/distributed/step_trailer.h"
#include "lockstep/distributed/threads_group.h"
#include "lockstep/engine/tensor/error.h"

namespace lockstep::distributed {
namespace {

// As a float32 all-reduce would add them.
bool agree(const std::vector<int64_t>& numbers) {
  const int world = static_cast<int>(numbers.size());
  float values = 0.0f, squares = 0.0f;
  for (const int64_t number : numbers) {
    const NumberMark mark = mark_of(number, world);
    values += static_cast<float>(mark.value);
    squares += static_cast<float>(mark.square);
  }
  return marks_agree({values, squares}, world);
}

TEST(NumberMark, EqualNumbersAgreeInAnyWorld) {
  for (const int world : {1, 2, 3, 5, 8, 100, 1000, 4097, 20000}) {
    for (const int64_t number :
         {int64_t{0}, int64_t{1}, int64_t{-1}, int64_t{4095}, int64_t{4096}, int64_t{123456789},
          std::numeric_limits<int64_t>::max(), std::numeric_limits<int64_t>::min()}) {
      const std::vector<int64_t> numbers(static_cast<size_t>(world), number);
      EXPECT_TRUE(agree(numbers)) << number << " on " << world << " ranks";
    }
  }
}

TEST(NumberMark, OneRankElsewhereIsNoticedInAnyWorld) {
  for (const int world : {2, 3, 5, 8, 100, 1000, 4097, 20000}) {
    for (const int64_t number : {int64_t{0}, int64_t{4095}, int64_t{123456789}}) {
      for (const int64_t distance : {-20, -1, 1, 2, 20}) {
        for (const size_t rank : {size_t{0}, static_cast<size_t>(world) - 1}) {
          std::vector<int64_t> numbers(static_cast<size_t>(world), number);
          numbers[rank] += distance;
          EXPECT_FALSE(agree(numbers)) << number << " + " << distance << ", " << world << " ranks";
        }
      }
    }
  }
}

TEST(NumberMark, DifferencesThatCancelAreNoticed) {
  EXPECT_FALSE(agree({4, 5, 6}));
  EXPECT_FALSE(agree({-1, 1}));
  EXPECT_FALSE(agree({7, 8, 9, 8}));
}

// What rank r says is shares[r]; float32 is what the trailer of most models is summed in.
StepTrailer::Sums sums_of(const std::vector<StepTrailer::Share>& shares) {
  const int world = static_cast<int>(shares.size());
  std::vector<float> sum;
  for (int r = 0; r < world; ++r) {
    const auto extras = StepTrailer(r, world, 1)
                            .write(shares[static_cast<size_t>(r)], false, {r == world - 1, false});
    sum.resize(extras.size());
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += static_cast<float>(extras[i]);
  }
  return StepTrailer(0, world, 1).read(std::vector<double>(sum.begin(), sum.end()));
}

TEST(StepTrailer, SaysExactlyWhoHasJoinedAndWhatIsLeft) {
  for (const int world : {1, 2, 16, 17, 300, 5000}) {
    // Rank r has r + 1 million samples, and every third rank has none left.
    std::vector<StepTrailer::Share> shares;
    double present = 0.0;
    const int64_t all = int64_t{world} * 1'000'003;
    for (int r = 0; r < world; ++r) {
      const bool joined = r % 3 == 1;
      shares.push_back({joined, 1234567, 1, 1'000'000 + r, all, {0.25}});
      if (!joined) present += static_cast<double>(1'000'000 + r);
    }
    StepTrailer::Sums sums = sums_of(shares);
    for (int r = 0; r < world; ++r) EXPECT_EQ(sums.joined[static_cast<size_t>(r)], r % 3 == 1);
    EXPECT_EQ(sums.active(), world - (world + 1) / 3);
    EXPECT_EQ(sums.first_active(), 0);
    EXPECT_TRUE(sums.same_step && sums.same_backwards);
    EXPECT_DOUBLE_EQ(sums.scale, world == 1 ? 1.0 : static_cast<double>(all) / present);
    EXPECT_EQ(sums.wanted, std::vector<bool>({true, false}));
    if (world < 3) continue;
    ++shares[2].step;
    EXPECT_FALSE(sums_of(shares).same_step);
    --shares[2].step;
    ++shares[2].backwards;
    EXPECT_FALSE(sums_of(shares).same_backwards);
    --shares[2].backwards;
    ++shares[1].step;  // of no importance any more
    EXPECT_TRUE(sums_of(shares).same_step);
  }
  std::vector<StepTrailer::Share> none(3, {true, 0, 0, 0, 0, {0.0}});
  EXPECT_EQ(sums_of(none).active(), 0);
  EXPECT_EQ(sums_of(none).scale, 1.0);
}

TEST(Agreement, SameTextsPassAndOthersNameTheRanks) {
  run_thread_ranks(4, [](ProcessGroup& group) {
    verify_same_text(group, "[test] the arithmetic differs", "oneDNN 2.6");
    const bool odd = group.rank() == 2;
    try {
      verify_same_text(group, "[test] the arithmetic differs", odd ? "oneDNN 3.5" : "oneDNN 2.6");
      ADD_FAILURE() << "a mixture passed";
    } catch (const DistributedError& error) {
      EXPECT_STREQ(error.what(),
                   "[test] the arithmetic differs: ranks 0, 1, 3: oneDNN 2.6; rank 2: oneDNN 3.5");
    }
  });
}

}  // namespace
}  // namespace lockstep::distributed
