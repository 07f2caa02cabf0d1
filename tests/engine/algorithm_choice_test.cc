#include "lockstep/engine/algorithm_choice.h"

#include <limits>
#include <vector>

#include <gtest/gtest.h>

namespace lockstep {
namespace {

// Plays a time per candidate and run; 0 stands for a run that fails.
class Clock {
 public:
  explicit Clock(std::vector<std::vector<double>> times) : times_(std::move(times)) {}
  std::optional<size_t> fastest() {
    asked_.assign(times_.size(), 0);
    const int runs = times_.empty() ? 3 : static_cast<int>(times_[0].size());
    return fastest_of(times_.size(), runs, [&](size_t i) -> std::optional<double> {
      const double seconds = times_.at(i).at(asked_.at(i)++);
      if (seconds == 0) return std::nullopt;
      return seconds;
    });
  }
  const std::vector<size_t>& asked() const { return asked_; }

 private:
  std::vector<std::vector<double>> times_;
  std::vector<size_t> asked_;
};

TEST(FastestOf, TakesTheLeastMedian) {
  // The least time and the least sum are other candidates'.
  Clock clock({{5, 5, 5}, {1, 6, 6}, {90, 4, 4}, {5, 1, 5}});
  EXPECT_EQ(clock.fastest(), 2u);
  EXPECT_EQ(clock.asked(), std::vector<size_t>(4, 3));
}

TEST(FastestOf, TakesTheFirstOfEqualOnes) {
  EXPECT_EQ(Clock({{3, 3, 3}, {2, 2, 9}, {2, 1, 2}}).fastest(), 1u);
}

TEST(FastestOf, LeavesOutWhatFails) {
  Clock clock({{0, 1, 1}, {3, 3, 3}, {1, 0, 1}});
  EXPECT_EQ(clock.fastest(), 1u);
  EXPECT_EQ(clock.asked(), (std::vector<size_t>{1, 3, 2}));  // and asks no further
}

TEST(FastestOf, FindsNothingWhereAllFail) {
  EXPECT_EQ(Clock({{0, 1}, {1, 0}}).fastest(), std::nullopt);
  EXPECT_EQ(Clock({}).fastest(), std::nullopt);
}

TEST(AlgorithmChoice, KeepsTableAndRecordApart) {
  EXPECT_EQ(algorithm_choice(), AlgorithmChoice::kHeuristic);
  EXPECT_EQ(algorithm_of_table("2x3"), std::nullopt);
  set_algorithm_choice(AlgorithmChoice::kTable, {{"2x3", "a"}});
  EXPECT_EQ(algorithm_choice(), AlgorithmChoice::kTable);
  EXPECT_EQ(algorithm_of_table("2x3"), "a");
  EXPECT_EQ(algorithm_of_table("3x2"), std::nullopt);
  record_timed_algorithm("3x2", "b");
  record_timed_algorithm("3x2", "c");
  EXPECT_EQ(algorithm_of_table("3x2"), std::nullopt);
  EXPECT_EQ(timed_algorithms(), (AlgorithmTable{{"3x2", "c"}}));
  const uint64_t number = algorithm_choice_number();
  set_algorithm_choice(AlgorithmChoice::kTimed);
  EXPECT_GT(algorithm_choice_number(), number);
  EXPECT_EQ(algorithm_of_table("2x3"), std::nullopt);
}

}  // namespace
}  // namespace lockstep
