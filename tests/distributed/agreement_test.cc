#include "lockstep/distributed/agreement.h"

#include <limits>
#include <vector>

#include <gtest/gtest.h>

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
