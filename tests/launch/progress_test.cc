#include "lockstep/launch/progress.h"

#include <string>

#include <gtest/gtest.h>

#include "lockstep/launch/log.h"

namespace lockstep::launch {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

const ProgressState kState{.epoch = 1,
                           .epochs = 4,
                           .step = 117,
                           .steps = 468,
                           .loss = 0.43214,
                           .samples_per_second = 12345.4,
                           .seconds_left = 83.0};

template <typename Function>
std::string stderr_of(Function function) {
  testing::internal::CaptureStderr();
  function();
  return testing::internal::GetCapturedStderr();
}

TEST(FormatDuration, Table) {
  EXPECT_EQ(format_duration(0.0), "0:00");
  EXPECT_EQ(format_duration(7.4), "0:07");
  EXPECT_EQ(format_duration(59.7), "1:00");
  EXPECT_EQ(format_duration(754.0), "12:34");
  EXPECT_EQ(format_duration(3723.0), "1:02:03");
  EXPECT_EQ(format_duration(1.0 / 0.0), "?");
  EXPECT_EQ(format_duration(-1.0), "?");
}

TEST(FormatBar, FillsTheWidthUpToALimit) {
  EXPECT_EQ(format_bar(kState, 200),
            "epoch 2/4 [==========>                             ] 117/468  loss 0.4321  "
            "12345 samples/s  1:23 left");
  EXPECT_EQ(format_bar(kState, 80).size(), 79u);
  EXPECT_EQ(format_bar(kState, 80),
            "epoch 2/4 [====>             ] 117/468  loss 0.4321  12345 samples/s  1:23 left");
}

TEST(FormatBar, NarrowTerminals) {
  EXPECT_EQ(format_bar(kState, 70),
            "epoch 2/4 [==>     ] 117/468  loss 0.4321  12345 samples/s  1:23 left");
  EXPECT_EQ(format_bar(kState, 69), "epoch 2/4 117/468  loss 0.4321  12345 samples/s  1:23 left");
  EXPECT_EQ(format_bar(kState, 20), "epoch 2/4 117/468  ");
  EXPECT_EQ(format_bar(kState, 1), "");
  EXPECT_EQ(format_bar(kState, 0), "");
  for (int width = 1; width < 150; ++width) {
    EXPECT_LT(format_bar(kState, width).size(), static_cast<size_t>(width));
  }
}

TEST(FormatBar, FullAndWithoutLoss) {
  ProgressState state = kState;
  state.loss.reset();
  state.step = state.steps;
  const auto bar = format_bar(state, 120);
  EXPECT_NE(bar.find("[" + std::string(40, '=') + "] 468/468  12345 samples/s"), std::string::npos)
      << bar;
}

TEST(FormatLine, Text) {
  EXPECT_EQ(format_line(kState),
            "epoch 2/4, step 117/468, loss 0.4321, 12345 samples/s, 1:23 left");
}

TEST(Progress, PlainLinesComeEveryTenSecondsAndAtTheEndOfEachEpoch) {
  log::start({});
  const auto text = stderr_of([] {
    Progress progress({.steps_per_epoch = 4, .total_steps = 6, .columns = 0});
    const Progress::Clock::time_point start{};
    for (int step = 1; step <= 6; ++step) {
      // Four seconds a step; the third step is the first one ten seconds after the first.
      progress.update(step, 0.5 * step, 100 * step, seconds(4 * step), start + seconds(5 * step));
    }
  });
  EXPECT_EQ(text,
            "[rank 0/1] epoch 1/2, step 3/4, loss 1.5000, 25 samples/s, 0:12 left\n"
            "[rank 0/1] epoch 1/2: 4 steps, mean loss 1.2500, 25 samples/s, 0:16\n"
            "[rank 0/1] epoch 2/2: 2 steps, mean loss 2.7500, 25 samples/s, 0:08\n");
}

TEST(Progress, TheBarIsRedrawnAtMostTenTimesASecondAndTakenAway) {
  log::start({});
  const auto text = stderr_of([] {
    Progress progress({.steps_per_epoch = 100, .total_steps = 100, .columns = 40});
    const Progress::Clock::time_point start{};
    for (int step = 1; step <= 12; ++step) {
      progress.update(step, std::nullopt, 10 * step, milliseconds(20 * step),
                      start + milliseconds(20 * step));
    }
  });
  const std::string clear = "\r\x1b[K";
  size_t drawn = 0;
  for (size_t at = text.find(clear); at != std::string::npos; at = text.find(clear, at + 1))
    ++drawn;
  EXPECT_EQ(drawn, 4u) << text;  // steps 1, 6 and 11, and the removal
  EXPECT_EQ(text.substr(text.size() - clear.size()), clear);
  EXPECT_NE(text.find("1/100  500 samples/s"), std::string::npos) << text;
  EXPECT_NE(text.find("11/100  500 samples/s"), std::string::npos) << text;
}

}  // namespace
}  // namespace lockstep::launch
