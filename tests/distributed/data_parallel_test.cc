// DataParallel with ranks as threads.
#include "lockstep/distributed/data_parallel.h"

#include <atomic>

#include <gtest/gtest.h>

#include "lockstep/distributed/threads_group.h"

#include "data_parallel_cases.h"

namespace lockstep::distributed::testing {
namespace {

using Parameters = std::tuple<int, Case>;

std::string case_name(const ::testing::TestParamInfo<Parameters>& info) {
  return std::string(std::get<1>(info.param).name) + "_" + std::to_string(std::get<0>(info.param));
}

class ThreadRanks : public ::testing::TestWithParam<Parameters> {};

TEST_P(ThreadRanks, DataParallel) {
  const auto& [size, test] = GetParam();
  std::atomic<int> ended = 0;
  run_thread_ranks(size, [&](ProcessGroup& group) {
    test.run(group);
    ++ended;
  });
  EXPECT_EQ(ended, size);
}

INSTANTIATE_TEST_SUITE_P(All, ThreadRanks,
                         ::testing::Combine(::testing::Values(1, 2, 3, 4),
                                            ::testing::ValuesIn(data_parallel_cases())),
                         case_name);
INSTANTIATE_TEST_SUITE_P(Several, ThreadRanks,
                         ::testing::Combine(::testing::Values(2, 3),
                                            ::testing::ValuesIn(several_ranks_cases())),
                         case_name);

TEST(SingleRank, DataParallel) {
  const auto group = make_single_group();
  for (const Case& test : data_parallel_cases()) {
    SCOPED_TRACE(test.name);
    test.run(*group);
  }
}

}  // namespace
}  // namespace lockstep::distributed::testing
