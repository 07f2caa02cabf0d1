// How OMP_NUM_THREADS becomes a number of threads.
#include <cstdlib>
#include <string>
#include <utility>

#include <gtest/gtest.h>

#include "lockstep/engine/threads.h"

namespace lockstep {
namespace {

TEST(ThreadRequest, IsTheFirstNumberOfTheVariable) {
  ASSERT_EQ(unsetenv("OMP_NUM_THREADS"), 0);
  EXPECT_TRUE(requested_threads().understood());
  EXPECT_EQ(requested_threads().threads, 0);
  for (const auto& [text, threads] :
       {std::pair("3", 3), {" 4 ", 4}, {"2,5", 2}, {"7 ,1", 7}, {"1024", 1024}, {"5000", 1024}}) {
    ASSERT_EQ(setenv("OMP_NUM_THREADS", text, 1), 0);
    EXPECT_EQ(requested_threads().threads, threads) << text;
    EXPECT_TRUE(requested_threads().understood()) << text;
  }
  for (const char* text : {"abc", "0", "-2", "4x", "2.5", ",3", "99999999999999999999x"}) {
    ASSERT_EQ(setenv("OMP_NUM_THREADS", text, 1), 0);
    EXPECT_FALSE(requested_threads().understood()) << text;
    EXPECT_EQ(requested_threads().threads, 0) << text;
    EXPECT_EQ(requested_threads().text, text);
  }
  ASSERT_EQ(setenv("OMP_NUM_THREADS", "", 1), 0);
  EXPECT_TRUE(requested_threads().understood());
  ASSERT_EQ(unsetenv("OMP_NUM_THREADS"), 0);
}

// In a process of its own each: the variable is looked at once.
TEST(NumThreadsDeathTest, WarnsOnceOfWhatIsNoNumber) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto first_use = [](const char* text, int expected) {
    setenv("OMP_NUM_THREADS", text, 1);
    const int threads = num_threads();
    std::exit(threads == num_threads() && (expected == 0 || threads == expected) ? 0 : 1);
  };
  EXPECT_EXIT(first_use("abc", 0), ::testing::ExitedWithCode(0),
              "^warning: OMP_NUM_THREADS=abc is not a number of threads; using [0-9]+\n$");
  EXPECT_EXIT(first_use("3", 3), ::testing::ExitedWithCode(0), "^$");
  // Who says it himself is not told.
  EXPECT_EXIT(
      {
        set_num_threads(5);
        first_use("abc", 5);
      },
      ::testing::ExitedWithCode(0), "^$");
}

}  // namespace
}  // namespace lockstep
