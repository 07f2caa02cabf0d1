// Reduction mode bitwise with ranks as threads.
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include "bitwise_cases.h"
#include "thread_ranks.h"

namespace lockstep::distributed::testing {
namespace {

class BitwiseThreadRanks : public ::testing::TestWithParam<ThreadRanksParameters> {};

TEST_P(BitwiseThreadRanks, IsOneProcess) { run_on_thread_ranks(GetParam()); }

INSTANTIATE_TEST_SUITE_P(All, BitwiseThreadRanks,
                         ::testing::Combine(::testing::Values(1, 2, 3, 5),
                                            ::testing::ValuesIn(bitwise_cases())),
                         case_name);

// As many ranks as shards, and nearly: some cases are enough.
std::vector<Case> some_cases() {
  std::vector<Case> some;
  for (const Case& test : bitwise_cases()) {
    const std::string_view name = test.name;
    if (name == "branches" || name == "a_whole_training" || name == "a_failing_shard") {
      some.push_back(test);
    }
  }
  return some;
}
INSTANTIATE_TEST_SUITE_P(Many, BitwiseThreadRanks,
                         ::testing::Combine(::testing::Values(8, 15, 16),
                                            ::testing::ValuesIn(some_cases())),
                         case_name);

TEST(BitwiseSingleRank, IsOneProcess) {
  const auto group = make_single_group();
  for (const Case& test : bitwise_cases()) {
    SCOPED_TRACE(test.name);
    test.run(*group);
  }
}

}  // namespace
}  // namespace lockstep::distributed::testing
