// Reduction mode bitwise with ranks as threads.
#include <atomic>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/distributed/threads_group.h"

#include "bitwise_cases.h"

namespace lockstep::distributed::testing {
namespace {

using Parameters = std::tuple<int, Case>;

class BitwiseThreadRanks : public ::testing::TestWithParam<Parameters> {};

TEST_P(BitwiseThreadRanks, IsOneProcess) {
  const auto& [size, test] = GetParam();
  std::atomic<int> ended = 0;
  run_thread_ranks(size, [&](ProcessGroup& group) {
    test.run(group);
    ++ended;
  });
  EXPECT_EQ(ended, size);
}

std::string case_name(const ::testing::TestParamInfo<Parameters>& info) {
  return std::string(std::get<1>(info.param).name) + "_" + std::to_string(std::get<0>(info.param));
}

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
