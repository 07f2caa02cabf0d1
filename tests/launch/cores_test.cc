#include "lockstep/launch/cores.h"

#include <cstdlib>

#include <gtest/gtest.h>

#include "lockstep/distributed/threads_group.h"
#include "lockstep/engine/threads.h"
#include "lockstep/launch/log.h"

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

TEST(CoresTest, AnOmpNumThreadsThatIsNoNumberIsSaidOnce) {
  const int before = num_threads();
  log::start({});
  ASSERT_EQ(setenv("OMP_NUM_THREADS", "two", 1), 0);
  for (const int ranks : {1, 3}) {
    set_num_threads(1023);  // so that a change is seen on any machine
    ::testing::internal::CaptureStderr();
    distributed::run_thread_ranks(ranks,
                                  [](distributed::ProcessGroup& group) { share_cores(group); });
    const std::string text = ::testing::internal::GetCapturedStderr();
    const int threads = num_threads();
    EXPECT_NE(threads, 1023);
    const std::string warning =
        "OMP_NUM_THREADS=two is not a number of threads; using " + std::to_string(threads) + "\n";
    const size_t at = text.find(warning);
    ASSERT_NE(at, std::string::npos) << text;
    EXPECT_EQ(text.find("OMP_NUM_THREADS", at + 1), std::string::npos) << text;
  }
  ASSERT_EQ(setenv("OMP_NUM_THREADS", "2", 1), 0);
  ::testing::internal::CaptureStderr();
  distributed::run_thread_ranks(2, [](distributed::ProcessGroup& group) { share_cores(group); });
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
  ASSERT_EQ(unsetenv("OMP_NUM_THREADS"), 0);
  set_num_threads(before);
}

}  // namespace
}  // namespace lockstep::launch
