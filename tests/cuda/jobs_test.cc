// The example programs with --device cuda: the losses of the first steps are the CPU's.
#include "examples/run_job.h"

namespace lockstep::examples {
namespace {

void expect_same_losses(const std::string& program, const std::string& arguments, double tolerance,
                        int ranks = 0) {
  const auto cpu = report_of(program, arguments, 0);
  const auto cuda = report_of(program, arguments + " --device cuda", ranks);
  ASSERT_FALSE(cpu.is_null() || cuda.is_null());
  EXPECT_EQ(cuda.at("device"), "cuda:0");
  const auto& expected = cpu.at("step_losses");
  const auto& got = cuda.at("step_losses");
  ASSERT_EQ(got.size(), expected.size());
  ASSERT_GE(got.size(), 3u);
  for (size_t i = 0; i < got.size(); ++i) {
    const double loss = expected[i];
    EXPECT_NEAR(got[i].get<double>(), loss, tolerance * loss) << program << ", step " << i;
  }
}

TEST(CudaJobs, LinearRegression) {
  expect_same_losses(LINEAR_REGRESSION, "--max-steps 40 --accumulate 2", 1e-5);
}

TEST(CudaJobs, CharGptBitwise) {
  expect_same_losses(CHAR_GPT,
                     "--text " GPT_TEXT
                     " --layers 1 --width 32 --heads 2 --context 16 --max-steps 3 --global-batch 8"
                     " --reduction bitwise --virtual-shards 2 --generate 4 --prompt In",
                     1e-5);
}

// In mode bitwise two ranks get the bits of one; they share a device if there is only one.
TEST(CudaJobs, TwoRanksGetTheBitsOfOne) {
  const std::pair<std::string, std::string> jobs[] = {
      {LINEAR_REGRESSION, "--max-steps 20"},
      {CHAR_GPT, "--text " GPT_TEXT
                 " --layers 1 --width 32 --heads 2 --context 16 --max-steps 3 --generate 0"}};
  for (const auto& [program, arguments] : jobs) {
    const std::string all = arguments +
                            " --device cuda --global-batch 16 --reduction bitwise"
                            " --virtual-shards 4";
    const auto one = report_of(program, all, 0);
    const auto two = report_of(program, all, 2);
    ASSERT_FALSE(one.is_null() || two.is_null());
    EXPECT_EQ(two.at("world_size"), 2);
    EXPECT_EQ(two.at("weights_sha256"), one.at("weights_sha256")) << program;
  }
}

TEST(CudaJobs, ThreeRanksTrainTogether) {
  expect_same_losses(LINEAR_REGRESSION, "--max-steps 20 --global-batch 60", 1e-5, 3);
}

// What does not work on a GPU yet says so.
TEST(CudaJobs, RefusesWhatIsNotThere) {
  const Outcome compressed =
      run_job(LINEAR_REGRESSION, "--device cuda --compression bf16 --max-steps 1", 0);
  EXPECT_EQ(compressed.code, 1) << compressed.output;
  EXPECT_NE(compressed.output.find("compression"), std::string::npos) << compressed.output;
}

TEST(CudaJobs, WithoutADeviceSaysWhy) {
  const Outcome outcome =
      run("LOCKSTEP_CUDA_PLUGIN=/nowhere/plugin.so " LINEAR_REGRESSION " --device cuda");
  EXPECT_EQ(outcome.code, 1) << outcome.output;
  for (const char* part : {"--device cuda cannot be used", "/nowhere/plugin.so", "doctor"}) {
    EXPECT_NE(outcome.output.find(part), std::string::npos) << outcome.output;
  }
}

TEST(Doctor, SaysWhatThereIsAndFailsWhenAskedForMore) {
  const Outcome here = run(LOCKSTEP " doctor --device cuda");
  EXPECT_EQ(here.code, 0) << here.output;
  for (const char* part : {"CPU\n", "MPI\n", "CUDA\n", "cuda:0", "Fashion-MNIST"}) {
    EXPECT_NE(here.output.find(part), std::string::npos) << here.output;
  }
  const Outcome missing =
      run("LOCKSTEP_CUDA_PLUGIN=/nowhere/p.so " LOCKSTEP " doctor --device cuda");
  EXPECT_EQ(missing.code, 1) << missing.output;
  EXPECT_NE(missing.output.find("none: there is no /nowhere/p.so"), std::string::npos)
      << missing.output;
  EXPECT_EQ(run("LOCKSTEP_CUDA_PLUGIN=/nowhere/p.so " LOCKSTEP " doctor").code, 0);
  EXPECT_EQ(run(LOCKSTEP " doctor --device tpu").code, 2);
}

}  // namespace
}  // namespace lockstep::examples
