// DataParallel on random models, with ranks as threads.
#include "random_models.h"

#include <gtest/gtest.h>

#include "thread_ranks.h"

namespace lockstep::distributed::testing {
namespace {

class RandomModels : public ::testing::TestWithParam<int> {};

TEST_P(RandomModels, HaveTheGradientsOfOneProcess) {
  run_on_thread_ranks(GetParam(), train_random_models);
}

INSTANTIATE_TEST_SUITE_P(Ranks, RandomModels, ::testing::Values(2, 3, 4));

}  // namespace
}  // namespace lockstep::distributed::testing
