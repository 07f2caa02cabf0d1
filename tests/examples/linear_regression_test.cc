#include <regex>

#include "run_job.h"

namespace lockstep::examples {
namespace {

// The line that the example prints, alone and with two ranks.
TEST(LinearRegression, FindsTheLine) {
  for (const int ranks : {0, 2}) {
    const Outcome outcome = run_job(LINEAR_REGRESSION, "--epochs 2", ranks);
    ASSERT_EQ(outcome.code, 0) << outcome.output;
    std::smatch found;
    ASSERT_TRUE(
        std::regex_search(outcome.output, found, std::regex("y = ([-0-9.]+) x ([+-][0-9.]+) ")))
        << outcome.output;
    EXPECT_NEAR(std::stod(found[1]), 3.0, 0.03) << outcome.output;
    EXPECT_NEAR(std::stod(found[2]), -2.0, 0.03) << outcome.output;
  }
}

}  // namespace
}  // namespace lockstep::examples
