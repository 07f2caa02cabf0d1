#include <regex>
#include <string>
#include <utility>

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

// Every program heeds --compression: also alone, where gradients are rounded all the same.
TEST(Programs, CompressGradients) {
  const std::pair<std::string, std::string> jobs[] = {
      {LINEAR_REGRESSION, "--max-steps 5"},
      {FASHION_MNIST, "--model mlp --max-steps 5"},
      {CHAR_GPT, "--text " GPT_TEXT
                 " --layers 1 --width 32 --heads 2 --context 16 --max-steps 5 --generate 0"}};
  for (const auto& [program, arguments] : jobs) {
    const auto plain = report_of(program, arguments, 0);
    const auto rounded = report_of(program, arguments + " --compression bf16", 0);
    ASSERT_FALSE(plain.is_null() || rounded.is_null());
    EXPECT_EQ(plain.at("compression"), "none");
    EXPECT_EQ(rounded.at("compression"), "bf16");
    EXPECT_NE(plain.at("weights_sha256"), rounded.at("weights_sha256")) << program;
    const double loss = plain.at("step_losses").back();
    EXPECT_NEAR(rounded.at("step_losses").back().get<double>(), loss, 0.02 * loss) << program;
  }
}

}  // namespace
}  // namespace lockstep::examples
