#include <algorithm>
#include <cmath>
#include <fstream>
#include <vector>

#include "golden/golden.h"
#include "run_job.h"

namespace lockstep::examples {
namespace {

using nlohmann::json;

json train(const std::string& arguments, int ranks = 0) {
  return report_of(FASHION_MNIST, "--seed 1 " + arguments, ranks);
}

std::vector<double> losses_of(const json& report) { return report.at("step_losses"); }

void expect_close(const std::vector<double>& actual, const std::vector<double>& expected,
                  size_t steps, double tolerance, const std::string& what) {
  ASSERT_GE(actual.size(), steps) << what;
  ASSERT_GE(expected.size(), steps) << what;
  for (size_t i = 0; i < steps; ++i) {
    EXPECT_LE(std::abs(actual[i] / expected[i] - 1.0), tolerance)
        << what << ", step " << i << ": " << actual[i] << " instead of " << expected[i];
  }
}

// PyTorch from the same initial weights and batches. golden/make_mlp_curve.py says why the larger
// learning rate is compared so closely in its first five steps only.
TEST(FashionMnist, LossCurveOfTheMlpIsPyTorchs) {
  const json golden = golden::read("mlp_curve.json");
  for (const auto& curve : golden.at("curves")) {
    const double lr = curve.at("lr");
    const json report = train("--model mlp --max-steps 50 --lr " + std::to_string(lr));
    ASSERT_FALSE(report.is_null());
    ASSERT_EQ(losses_of(report).size(), 50u);
    ASSERT_EQ(report.at("global_batch"), golden.at("global_batch"));
    const bool tame = lr < 5e-4;
    const std::string what = "lr " + std::to_string(lr);
    expect_close(losses_of(report), curve.at("losses"), tame ? 50 : 5, 1e-5, what);
    expect_close(losses_of(report), curve.at("losses"), 50, 0.05, what);
    EXPECT_LT(losses_of(report).back(), 0.3 * losses_of(report).front());
  }
}

TEST(FashionMnist, AccumulatingFourIsFourRanks) {
  const std::string arguments = "--model mlp --max-steps 50";
  const json one = train(arguments + " --accumulate 4");
  const json four = train(arguments, 4);
  ASSERT_FALSE(one.is_null() || four.is_null());
  EXPECT_EQ(one.at("world_size"), 1);
  EXPECT_EQ(four.at("world_size"), 4);
  expect_close(losses_of(four), losses_of(one), 50, 1e-5, "four ranks");
}

TEST(FashionMnist, TwoRunsGiveTheSameBits) {
  const std::string arguments = "--model mlp --max-steps 100";
  const json first = train(arguments, 2), second = train(arguments, 2);
  ASSERT_FALSE(first.is_null() || second.is_null());
  EXPECT_EQ(first.at("weights_sha256").get<std::string>().size(), 64u);
  EXPECT_EQ(first.at("weights_sha256"), second.at("weights_sha256"));
  EXPECT_EQ(losses_of(first), losses_of(second));
  const json other = report_of(FASHION_MNIST, "--seed 2 " + arguments, 2);
  ASSERT_FALSE(other.is_null());
  EXPECT_NE(first.at("weights_sha256"), other.at("weights_sha256"));
}

TEST(FashionMnist, TrainsAloneWithoutMpirun) {
  const json report = train("--model mlp --max-steps 60");
  ASSERT_FALSE(report.is_null());
  EXPECT_EQ(report.at("program"), "fashion_mnist");
  EXPECT_EQ(report.at("world_size"), 1);
  EXPECT_EQ(report.at("steps"), 60);
  EXPECT_EQ(report.at("communication_seconds_per_step"), 0.0);
  EXPECT_GT(report.at("test_accuracy").get<double>(), 0.75);
  EXPECT_GT(report.at("samples_per_second").get<double>(), 0.0);
  // mpirun with one rank is no different.
  const json launched = train("--model mlp --max-steps 60", 1);
  ASSERT_FALSE(launched.is_null());
  EXPECT_EQ(report.at("weights_sha256"), launched.at("weights_sha256"));
}

// Writes an IDX file of bytes.
void write_idx(const std::filesystem::path& file, const std::vector<uint32_t>& dims,
               const std::vector<uint8_t>& bytes) {
  std::ofstream out(file, std::ios::binary);
  const auto put = [&](uint32_t v) {
    for (int shift = 24; shift >= 0; shift -= 8) out.put(static_cast<char>(v >> shift & 255));
  };
  put(0x0800u + static_cast<uint32_t>(dims.size()));
  for (const uint32_t d : dims) put(d);
  out.write(reinterpret_cast<const char*>(bytes.data()),
            static_cast<std::streamsize>(bytes.size()));
  ASSERT_TRUE(out.good()) << file;
}

// Ten kinds of noisy stripes, so that the convolutional nets need not evaluate 10,000 images.
void write_stripes(const std::filesystem::path& folder) {
  uint32_t noise = 1;
  for (const auto& [name, count] : {std::pair("train", 512u), std::pair("t10k", 50u)}) {
    std::vector<uint8_t> images, labels;
    for (uint32_t i = 0; i < count; ++i) {
      labels.push_back(static_cast<uint8_t>(i % 10));
      for (uint32_t pixel = 0; pixel < 28 * 28; ++pixel) {
        noise = noise * 1664525u + 1013904223u;
        const bool bright = pixel % 28 / 2 == i % 10 + 2;
        images.push_back(static_cast<uint8_t>((bright ? 150 : 0) + (noise >> 26)));
      }
    }
    const auto prefix = folder / name;
    write_idx(prefix.string() + "-images-idx3-ubyte", {count, 28, 28}, images);
    write_idx(prefix.string() + "-labels-idx1-ubyte", {count}, labels);
  }
}

// The report is refused unless all ranks agree on the hash, which covers the buffers too.
TEST(FashionMnist, RanksAgreeOnEveryModel) {
  const Folder folder;
  write_stripes(folder.path());
  for (const char* model : {"cnn", "cnn_bn"}) {
    const std::string arguments = "--model " + std::string(model) +
                                  " --max-steps 12 --global-batch 33 --data " +
                                  folder.path().string();
    const json first = train(arguments, 2), second = train(arguments, 2);
    ASSERT_FALSE(first.is_null() || second.is_null());
    EXPECT_EQ(first.at("weights_sha256"), second.at("weights_sha256")) << model;
    EXPECT_EQ(first.at("steps"), 12);
    EXPECT_LT(losses_of(first).back(), losses_of(first).front()) << model;
    // Dropout draws by micro-batch and the shares are equal, batch statistics too.
    const json accumulated = train(arguments + " --accumulate 2");
    ASSERT_FALSE(accumulated.is_null());
    expect_close(losses_of(first), losses_of(accumulated), 5, 1e-4, model);
  }
}

// Ranks and threads: what weights_sha256 must not depend on in mode bitwise.
void expect_same_weights(const std::string& program, const std::string& arguments,
                         const std::vector<std::pair<int, int>>& ranks_and_threads) {
  json first;
  for (const auto& [ranks, threads] : ranks_and_threads) {
    const std::string set = "OMP_NUM_THREADS=" + std::to_string(threads) + " ";
    const Folder folder;
    const auto path = folder.path() / "report.json";
    const std::string launcher = ranks > 0 ? mpirun() + "-n " + std::to_string(ranks) + " " : "";
    const Outcome outcome = run(set + launcher + program + " --reduction bitwise " + arguments +
                                " --report " + path.string());
    ASSERT_EQ(outcome.code, 0) << outcome.output;
    const json report = json::parse(std::ifstream(path));
    EXPECT_EQ(report.at("world_size"), std::max(ranks, 1));
    EXPECT_EQ(report.at("reduction"), "bitwise");
    if (first.is_null()) first = report;
    const std::string what = arguments + " on " + std::to_string(ranks) + " ranks";
    EXPECT_EQ(report.at("weights_sha256"), first.at("weights_sha256")) << what;
    EXPECT_EQ(losses_of(report), losses_of(first)) << what;
  }
}

TEST(Bitwise, AnyNumberOfRanksAndThreads) {
  const Folder folder;
  write_stripes(folder.path());
  const std::string data = " --seed 7 --data " + folder.path().string();
  // 11 steps of 48 samples: there is a last partial batch to be dropped, and a second epoch.
  expect_same_weights(FASHION_MNIST, "--model mlp --global-batch 48 --max-steps 11" + data,
                      {{0, 1}, {1, 2}, {2, 1}, {3, 1}, {4, 2}, {5, 1}});
  expect_same_weights(FASHION_MNIST, "--model cnn_bn --global-batch 32 --max-steps 5" + data,
                      {{0, 1}, {0, 2}, {2, 1}, {3, 1}, {5, 1}});
  // AdamW, gradient clipping, a schedule, dropout-free attention.
  expect_same_weights(
      CHAR_GPT,
      std::string("--text ") + GPT_TEXT +
          " --layers 2 --width 32 --heads 2 --context 32 --max-steps 10 "
          "--global-batch 16 --virtual-shards 8 --accumulate 3 --generate 0 --seed 7",
      {{0, 1}, {2, 1}, {3, 2}, {4, 1}});
}

TEST(Bitwise, RefusesAMixtureOfInstructionSets) {
  const std::string program = FASHION_MNIST " --model mlp --max-steps 1 --reduction bitwise";
  const Outcome outcome =
      run(mpirun() + "-n 1 " + program + " : -n 2 -x LOCKSTEP_ISA=baseline " + program);
  EXPECT_NE(outcome.code, 0);
  for (const char* part : {"the ranks would not compute the same bits", "rank 0: Lockstep",
                           "ranks 1, 2: Lockstep", "kernels for baseline", "oneDNN"}) {
    EXPECT_NE(outcome.output.find(part), std::string::npos) << part << "\n" << outcome.output;
  }
}

// Two hundred steps, as the README runs it, differ in nothing but time.
TEST(LongBitwise, EveryModelOnEveryNumberOfRanks) {
  const std::vector<std::pair<int, int>> all = {{1, 1}, {1, 2}, {2, 2}, {3, 1},
                                                {4, 2}, {5, 1}, {8, 1}};
  for (const char* model : {"mlp", "cnn_bn"}) {
    expect_same_weights(FASHION_MNIST,
                        "--virtual-shards 16 --max-steps 60 --seed 7 --model " + std::string(model),
                        all);
  }
  expect_same_weights(CHAR_GPT,
                      std::string("--virtual-shards 16 --max-steps 60 --seed 7 --text ") +
                          GPT_TEXT + " --layers 2 --width 64 --context 32 --generate 0",
                      all);
}

// An epoch, as the README runs it.
TEST(LongFashionMnist, AnEpochTwiceGivesTheSameBits) {
  const json first = train("--model mlp --epochs 1", 2),
             second = train("--model mlp --epochs 1", 2);
  ASSERT_FALSE(first.is_null() || second.is_null());
  EXPECT_EQ(first.at("steps"), 468);
  EXPECT_EQ(first.at("weights_sha256"), second.at("weights_sha256"));
  EXPECT_GT(first.at("test_accuracy").get<double>(), 0.82);
}

}  // namespace
}  // namespace lockstep::examples
