// DataParallel on random models, with ranks as threads.
#include "random_models.h"

#include <atomic>

#include <gtest/gtest.h>

#include "lockstep/distributed/threads_group.h"

namespace lockstep::distributed::testing {
namespace {

class RandomModels : public ::testing::TestWithParam<int> {};

TEST_P(RandomModels, HaveTheGradientsOfOneProcess) {
  std::atomic<int> ended = 0;
  run_thread_ranks(GetParam(), [&](ProcessGroup& group) {
    train_random_models(group);
    ++ended;
  });
  EXPECT_EQ(ended, GetParam());
}

INSTANTIATE_TEST_SUITE_P(Ranks, RandomModels, ::testing::Values(2, 3, 4));

}  // namespace
}  // namespace lockstep::distributed::testing
