#include "lockstep/launch/cores.h"

#include <cstdlib>

#include <gtest/gtest.h>

#include "lockstep/distributed/threads_group.h"
#include "lockstep/engine/threads.h"

namespace lockstep::launch {
namespace {

TEST(CoresTest, RanksWithOneMaskDivideIt) {
  const std::vector<std::string> places = {"a 0-7", "a 0-7", "a 0-7", "b 0-7"};
  EXPECT_EQ(threads_of(places, 0, 8), 2);
  EXPECT_EQ(threads_of(places, 2, 8), 2);
  EXPECT_EQ(threads_of(places, 3, 8), 8);
}

TEST(CoresTest, AMaskOfOnesOwnIsUsedWhole) {
  const std::vector<std::string> places = {"a 0-3", "a 4-7"};
  EXPECT_EQ(threads_of(places, 0, 4), 4);
  EXPECT_EQ(threads_of(places, 1, 4), 4);
}

TEST(CoresTest, EveryRankGetsOneAtLeast) {
  EXPECT_EQ(threads_of({"a 0-1", "a 0-1", "a 0-1"}, 1, 2), 1);
}

TEST(CoresTest, OmpNumThreadsIsLeftAlone) {
  const int before = num_threads();
  ASSERT_EQ(setenv("OMP_NUM_THREADS", "3", 1), 0);
  set_num_threads(3);
  distributed::run_thread_ranks(2, [](distributed::ProcessGroup& group) { share_cores(group); });
  EXPECT_EQ(num_threads(), 3);
  ASSERT_EQ(unsetenv("OMP_NUM_THREADS"), 0);
  set_num_threads(1023);  // so that a change is seen on any machine
  distributed::run_thread_ranks(2, [](distributed::ProcessGroup& group) { share_cores(group); });
  EXPECT_NE(num_threads(), 1023);
  set_num_threads(before);
}

}  // namespace
}  // namespace lockstep::launch
