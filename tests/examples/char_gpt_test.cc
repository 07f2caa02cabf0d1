#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "lockstep/engine/tensor/error.h"

#include "char_gpt/text.h"
#include "golden/golden.h"
#include "run_job.h"

namespace lockstep::examples {
namespace {

using nlohmann::json;

const std::string kText = GPT_TEXT;
// Small enough for a test, at the end of the line so that a test may say otherwise before.
const std::string kSmall =
    " --text " + kText + " --layers 2 --width 32 --heads 2 --context 32 --seed 1";

std::vector<double> losses_of(const json& report) { return report.at("step_losses"); }

double worst_ratio(const std::vector<double>& actual, const std::vector<double>& expected) {
  EXPECT_EQ(actual.size(), expected.size());
  double worst = 0.0;
  for (size_t i = 0; i < std::min(actual.size(), expected.size()); ++i) {
    worst = std::max(worst, std::abs(actual[i] / expected[i] - 1.0));
  }
  return worst;
}

// PyTorch from the same initial weights and windows (golden/make_gpt_curve.py), which differs from
// itself by up to 6.9e-6.
TEST(CharGpt, LossCurveIsPyTorchs) {
  const json golden = golden::read("gpt_curve.json");
  const std::string arguments =
      golden.at("arguments").get<std::string>() + " --text " + kText + " --generate 0";
  for (const int ranks : {0, 2}) {
    const json report = report_of(CHAR_GPT, arguments, ranks);
    ASSERT_FALSE(report.is_null());
    ASSERT_EQ(losses_of(report).size(), 50u);
    EXPECT_EQ(report.at("world_size"), ranks == 0 ? 1 : ranks);
    EXPECT_LE(worst_ratio(losses_of(report), golden.at("losses")), 2e-5) << ranks << " ranks";
    const double validation = report.at("validation_loss");
    EXPECT_NEAR(validation / golden.at("validation_loss").get<double>(), 1.0, 2e-5);
  }
}

TEST(CharGpt, AccumulatingFourIsFourRanks) {
  const std::string arguments = "--global-batch 10 --max-steps 20 --generate 0" + kSmall;
  const json one = report_of(CHAR_GPT, arguments + " --accumulate 4", 0);
  const json four = report_of(CHAR_GPT, arguments, 4);
  ASSERT_FALSE(one.is_null() || four.is_null());
  EXPECT_EQ(losses_of(one).size(), 20u);
  EXPECT_LE(worst_ratio(losses_of(four), losses_of(one)), 5e-6);
}

// An epoch is the training text, nine tenths of it, once: in windows of 32 bytes side by side.
// In float16 the loss scale moves alike on every rank, so that bits stay independent of their
// number.
TEST(CharGpt, MixedPrecisionFollowsFloat32) {
  const std::string arguments = "--global-batch 8 --max-steps 6 --generate 0" + kSmall;
  const json exact = report_of(CHAR_GPT, arguments, 0);
  ASSERT_FALSE(exact.is_null());
  EXPECT_EQ(exact.at("precision"), "fp32");
  EXPECT_FALSE(exact.contains("loss_scale"));
  for (const std::string precision : {"bf16", "fp16"}) {
    const std::string mixed =
        arguments + " --reduction bitwise --virtual-shards 4 --precision " + precision;
    const json one = report_of(CHAR_GPT, mixed, 0), two = report_of(CHAR_GPT, mixed, 2);
    ASSERT_FALSE(one.is_null() || two.is_null());
    EXPECT_EQ(one.at("precision"), precision);
    const double worst = worst_ratio(losses_of(one), losses_of(exact));
    EXPECT_GT(worst, 1e-7) << precision;
    EXPECT_LE(worst, precision == "bf16" ? 2e-4 : 5e-5) << precision;
    EXPECT_EQ(one.at("weights_sha256"), two.at("weights_sha256")) << precision;
    if (precision == "bf16") continue;
    EXPECT_EQ(one.at("loss_scale"), 65536.0);
    EXPECT_EQ(two.at("loss_scale"), 65536.0);
    EXPECT_EQ(one.at("skipped_steps"), 0);
  }
}

TEST(CharGpt, EpochsArePassesOverTheText) {
  const auto bytes = static_cast<int64_t>(std::filesystem::file_size(kText)) / 10 * 9;
  const int64_t windows = (bytes - 1) / 32, batch = 16;
  const json report =
      report_of(CHAR_GPT, "--epochs 2 --global-batch 16 --warmup 5 --generate 0" + kSmall, 0);
  ASSERT_FALSE(report.is_null());
  EXPECT_EQ(report.at("steps"), 2 * (windows / batch));
  EXPECT_EQ(report.at("epochs"), 2);
  const auto losses = losses_of(report);
  EXPECT_LT(losses.back(), 0.85 * losses.front());
}

// The same bits and the same sample twice; another seed gives others.
TEST(CharGpt, RunsRepeat) {
  const std::string arguments =
      "--global-batch 4 --max-steps 6 --validate-every 2 --generate 80 --prompt And" + kSmall;
  const auto sample_of = [](const std::string& output) {
    const size_t begin = output.find("---\n"), end = output.find("\n---\n", begin);
    return begin < end && end != std::string::npos ? output.substr(begin + 4, end - begin - 4) : "";
  };
  const Outcome first = run_job(CHAR_GPT, arguments, 2), second = run_job(CHAR_GPT, arguments, 2);
  ASSERT_EQ(first.code, 0) << first.output;
  EXPECT_EQ(sample_of(first.output).size(), 3u + 80u) << first.output;
  EXPECT_EQ(sample_of(first.output).substr(0, 3), "And");
  EXPECT_EQ(sample_of(first.output), sample_of(second.output));
  const Outcome other = run_job(CHAR_GPT, arguments + "0", 2);  // seed 10
  ASSERT_EQ(other.code, 0) << other.output;
  EXPECT_NE(sample_of(first.output), sample_of(other.output));
}

// Debian's text as gzip unpacks it, which knows the stream inside the file.
TEST(CharGpt, ReadsTheText) {
  const std::string text = char_gpt::read_text(char_gpt::kBible);
  const Outcome gzip = run("tail -c +369 " + std::string(char_gpt::kBible) + " | gzip -dc");
  EXPECT_GT(text.size(), 4000000u);
  EXPECT_TRUE(text == gzip.output) << text.size() << " and " << gzip.output.size() << " bytes";
  const std::string excerpt = char_gpt::read_text(kText);  // what lies here comes from there
  EXPECT_EQ(text.substr(text.find("Ge1:1 "), excerpt.size()), excerpt);
}

TEST(CharGpt, RefusesDamagedTexts) {
  std::ifstream file(char_gpt::kBible, std::ios::binary);
  const std::string whole{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  ASSERT_GT(whole.size(), 1000u);
  const std::string packed = whole.substr(368);
  EXPECT_THROW(char_gpt::unpack_lzw(""), DataError);
  EXPECT_THROW(char_gpt::unpack_lzw("\x1f\x8b\x08"), DataError);
  EXPECT_THROW(char_gpt::unpack_lzw("\x1f\x9d\x9f"), DataError);          // 31 bits
  EXPECT_THROW(char_gpt::unpack_lzw("\x1f\x9d\x90\xff\xff"), DataError);  // begins with code 511
  // Whatever is overwritten, it ends with text or with an error.
  int errors = 0;
  for (size_t at = 3; at < 3000; at += 7) {
    std::string damaged = packed.substr(0, 4000);
    damaged[at] = static_cast<char>(~damaged[at]);
    try {
      EXPECT_LT(char_gpt::unpack_lzw(damaged).size(), 1u << 20);
    } catch (const DataError&) {
      ++errors;
    }
  }
  EXPECT_GT(errors, 0);
}

TEST(CharGpt, SaysWhatIsWrong) {
  const auto expect = [](const std::string& arguments, int code, const std::string& text) {
    const Outcome outcome = run_job(CHAR_GPT, arguments + " --max-steps 1", 0);
    EXPECT_EQ(outcome.code, code) << arguments << "\n" << outcome.output;
    EXPECT_NE(outcome.output.find(text), std::string::npos) << arguments << "\n" << outcome.output;
  };
  expect("--text /nowhere/book", 1,
         "/nowhere/book cannot be read or is empty; name a text with --text FILE");
  expect("--width 100 --heads 3" + kSmall.substr(0, kSmall.find(" --layers")), 1,
         "a width of 100 cannot be cut into 3 heads");
  expect("--context 20000 --text " + kText, 1, "use a longer text or a smaller --context");
  expect("--temperature 0", 1, "--temperature must be positive");
}

// The command of the README, on two cores about a minute: the first 1000 steps of what three
// minutes allow.
TEST(LongCharGpt, LearnsDebiansText) {
  const json report = report_of(
      CHAR_GPT, "--layers 2 --width 128 --context 64 --lr 3e-3 --max-steps 1000 --seed 1", 2);
  ASSERT_FALSE(report.is_null());
  EXPECT_LT(report.at("validation_loss").get<double>(), 1.9);
}

}  // namespace
}  // namespace lockstep::examples
