// Reduction mode bitwise with ranks as threads.
#include <atomic>

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

INSTANTIATE_TEST_SUITE_P(All, BitwiseThreadRanks,
                         ::testing::Combine(::testing::Values(1, 2, 3, 5, 16),
                                            ::testing::ValuesIn(bitwise_cases())),
                         [](const ::testing::TestParamInfo<Parameters>& info) {
                           return std::string(std::get<1>(info.param).name) + "_" +
                                  std::to_string(std::get<0>(info.param));
                         });

TEST(BitwiseSingleRank, IsOneProcess) {
  const auto group = make_single_group();
  for (const Case& test : bitwise_cases()) {
    SCOPED_TRACE(test.name);
    test.run(*group);
  }
}

}  // namespace
}  // namespace lockstep::distributed::testing
