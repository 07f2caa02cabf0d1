// DataParallel with ranks as threads.
#include "lockstep/distributed/data_parallel.h"

#include <gtest/gtest.h>

#include "data_parallel_cases.h"
#include "more_cases.h"
#include "thread_ranks.h"

namespace lockstep::distributed::testing {
namespace {

class ThreadRanks : public ::testing::TestWithParam<ThreadRanksParameters> {};

TEST_P(ThreadRanks, DataParallel) { run_on_thread_ranks(GetParam()); }

INSTANTIATE_TEST_SUITE_P(All, ThreadRanks,
                         ::testing::Combine(::testing::Values(1, 2, 3, 4),
                                            ::testing::ValuesIn(data_parallel_cases())),
                         case_name);
INSTANTIATE_TEST_SUITE_P(Hooks, ThreadRanks,
                         ::testing::Combine(::testing::Values(1, 2, 3),
                                            ::testing::ValuesIn(hook_cases())),
                         case_name);
INSTANTIATE_TEST_SUITE_P(Several, ThreadRanks,
                         ::testing::Combine(::testing::Values(2, 3),
                                            ::testing::ValuesIn(several_ranks_cases())),
                         case_name);
INSTANTIATE_TEST_SUITE_P(More, ThreadRanks,
                         ::testing::Combine(::testing::Values(1, 2, 3, 4),
                                            ::testing::ValuesIn(more_cases())),
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
