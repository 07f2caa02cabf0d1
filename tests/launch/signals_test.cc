#include "lockstep/launch/signals.h"

#include <csignal>
#include <thread>

#include <gtest/gtest.h>
#include <unistd.h>

#include "lockstep/launch/log.h"

namespace lockstep::launch {
namespace {

[[noreturn]] void wait_forever() {
  for (;;) pause();
}

// A world of its own per case: the statement runs in a fresh process.
class SignalsDeathTest : public testing::Test {
 protected:
  SignalsDeathTest() { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

TEST_F(SignalsDeathTest, EndWithOneClearLine) {
  for (const int signal : {SIGTERM, SIGINT}) {
    EXPECT_EXIT(
        {
          log::start({.rank = 1, .size = 4, .directory = ""});
          const SignalWatch watch;
          std::thread other(wait_forever);  // the signal may be meant for any thread
          kill(getpid(), signal);
          wait_forever();
        },
        testing::ExitedWithCode(128 + signal),
        "^\\[rank 1/4\\] error: terminated by signal " + std::to_string(signal) +
            " \\(.*\\): a peer died or the job was cancelled\n$");
  }
}

TEST_F(SignalsDeathTest, AfterAReportedErrorNothingIsAdded) {
  EXPECT_EXIT(
      {
        SignalWatch watch;
        watch.error_was_reported();
        kill(getpid(), SIGTERM);
        wait_forever();
      },
      testing::ExitedWithCode(1), "^$");
}

TEST(Signals, AreLeftAsTheyWere) {
  sigset_t before, during, after;
  pthread_sigmask(SIG_SETMASK, nullptr, &before);
  {
    const SignalWatch watch;
    pthread_sigmask(SIG_SETMASK, nullptr, &during);
  }
  pthread_sigmask(SIG_SETMASK, nullptr, &after);
  EXPECT_EQ(sigismember(&during, SIGTERM), 1);
  EXPECT_EQ(sigismember(&during, SIGINT), 1);
  EXPECT_EQ(sigismember(&after, SIGTERM), sigismember(&before, SIGTERM));
  EXPECT_EQ(sigismember(&after, SIGINT), sigismember(&before, SIGINT));
}

}  // namespace
}  // namespace lockstep::launch
