// The example programs with --device cuda: the losses of the first steps are the CPU's.
#include <cstdlib>

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

// --cuda-graph changes no bit, and says where it changes nothing else.
TEST(CudaJobs, StepsAsCudaGraphs) {
  const Folder folder;
  const auto job = [&](const std::string& arguments, int ranks, const char* said) {
    const std::string report = (folder.path() / "report.json").string();
    const Outcome outcome =
        run_job(LINEAR_REGRESSION, "--max-steps 40 " + arguments + " --report " + report, ranks);
    EXPECT_EQ(outcome.code, 0) << outcome.output;
    EXPECT_NE(outcome.output.find(said), std::string::npos) << outcome.output;
    nlohmann::json json;
    std::ifstream(report) >> json;
    return json;
  };
  for (const std::string arguments :
       {"--device cuda", "--device cuda --accumulate 4", "--device cuda --precision bf16",
        "--device cuda --precision fp16 --accumulate 2"}) {
    const auto plain = job(arguments, 0, "training on");
    const auto graph =
        job(arguments + " --cuda-graph", 0, "from step 3 on a step is one CUDA graph");
    for (const char* key : {"weights_sha256", "step_losses", "train_loss", "steps", "epochs"}) {
      EXPECT_EQ(graph.at(key), plain.at(key)) << key << " " << arguments;
    }
    EXPECT_EQ(graph.value("skipped_steps", -1), plain.value("skipped_steps", -1));
    EXPECT_EQ(graph.value("loss_scale", -1.0), plain.value("loss_scale", -1.0));
  }
  const auto without = [&](const std::string& arguments, int ranks, const char* said) {
    EXPECT_EQ(job(arguments + " --cuda-graph", ranks, said).at("weights_sha256"),
              job(arguments, ranks, "training on").at("weights_sha256"));
  };
  without("--device cpu", 0, "--cuda-graph has no effect: CUDA graphs need --device cuda");
  without("--device cuda", 2, "--cuda-graph has no effect: the host issues what several ranks");
  without("--device cuda --reduction bitwise --virtual-shards 4", 0,
          "in reduction mode bitwise cannot be captured: use mode repeatable");
}

TEST(CudaJobs, CharGptBitwise) {
  expect_same_losses(CHAR_GPT,
                     "--text " GPT_TEXT
                     " --layers 1 --width 32 --heads 2 --context 16 --max-steps 3 --global-batch 8"
                     " --reduction bitwise --virtual-shards 2 --generate 4 --prompt In",
                     1e-5);
}

TEST(CudaJobs, MixedPrecision) {
  for (const char* precision : {"bf16", "fp16"}) {
    expect_same_losses(CHAR_GPT,
                       "--text " GPT_TEXT
                       " --layers 1 --width 32 --heads 2 --context 16 --max-steps 3"
                       " --global-batch 8 --generate 0 --precision " +
                           std::string(precision),
                       5e-3);
  }
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

// Where every rank has a device of its own NCCL is chosen, and has to give one rank's bits, too.
TEST(CudaJobs, RanksWithAGpuEachUseNccl) {
  const std::string arguments =
      "--max-steps 8 --device cuda --global-batch 16 --reduction bitwise --virtual-shards 4";
  const auto one = report_of(LINEAR_REGRESSION, arguments, 0);
  ASSERT_FALSE(one.is_null());
  const std::string two_ranks = mpirun() + "-n 2 -x LOCKSTEP_EMULATED_GPUS=";
  const Folder folder;
  const std::string report = (folder.path() / "report.json").string();
  const std::string job = std::string(" ") + LINEAR_REGRESSION + " " + arguments;
  const Outcome two = run(two_ranks + "2" + job + " --report " + report);
  EXPECT_EQ(two.code, 0) << two.output;
  if (two.output.find("pass from GPU to GPU by NCCL 2.") == std::string::npos) {
    // On a machine whose ranks have to share a GPU.
    EXPECT_NE(two.output.find("not by NCCL: ranks 0, 1 share a GPU"), std::string::npos)
        << two.output;
    EXPECT_EQ(std::getenv("LOCKSTEP_CUDA_PLUGIN"), nullptr) << two.output;
  }
  std::ifstream file(report);
  EXPECT_EQ(nlohmann::json::parse(file).at("weights_sha256"), one.at("weights_sha256"));

  const Outcome refused = run(two_ranks + "1" + job + " --group nccl");
  if (std::getenv("LOCKSTEP_CUDA_PLUGIN")) {
    EXPECT_EQ(refused.code, 1) << refused.output;
    EXPECT_NE(refused.output.find("--group nccl cannot be used: ranks 0, 1 share a GPU"),
              std::string::npos)
        << refused.output;
  }
}

TEST(CudaJobs, ThreeRanksTrainTogether) {
  expect_same_losses(LINEAR_REGRESSION, "--max-steps 20 --global-batch 60", 1e-5, 3);
}

TEST(CudaJobs, CharGptByPowerSgd) {
  expect_same_losses(CHAR_GPT,
                     "--text " GPT_TEXT
                     " --layers 1 --width 32 --heads 2 --context 16 --max-steps 4 --global-batch 8"
                     " --generate 0 --compression powersgd --powersgd-rank 2 --powersgd-start 1",
                     1e-4, 2);
}

// One run times algorithms and writes a table, others take the table, all ranks the same.
TEST(CudaJobs, TablesOfAlgorithmsForProducts) {
  const Folder folder;
  const std::string table = (folder.path() / "table.json").string();
  const std::string job = "--device cuda --max-steps 3 --reduction bitwise --virtual-shards 4";
  const Outcome tuned = run_job(LINEAR_REGRESSION, job + " --tune-matmul " + table, 2);
  ASSERT_EQ(tuned.code, 0) << tuned.output;
  EXPECT_NE(tuned.output.find("is not --reduction bitwise"), std::string::npos) << tuned.output;
  nlohmann::json json;
  std::ifstream(table) >> json;
  ASSERT_FALSE(json.at("algorithms").empty());

  const auto report = report_of(LINEAR_REGRESSION, job + " --matmul-table " + table, 2);
  EXPECT_EQ(report.at("world_size"), 2);

  const auto refusal = [&](const nlohmann::json& other) {
    const std::string file = (folder.path() / "other.json").string();
    std::ofstream(file) << other.dump();
    const Outcome outcome = run_job(LINEAR_REGRESSION, job + " --matmul-table " + file, 2);
    EXPECT_EQ(outcome.code, 1) << outcome.output;
    return outcome.output;
  };
  nlohmann::json other = json;
  other["gpu"] = "another";
  const std::string text = refusal(other);
  EXPECT_NE(text.find("was made for the GPU \"another\""), std::string::npos) << text;
  EXPECT_NE(text.find("--tune-matmul FILE makes a new one"), std::string::npos) << text;
  if (std::getenv("LOCKSTEP_CUDA_PLUGIN")) {  // the emulated library takes anything but this
    other = json;
    for (auto& [product, algorithm] : other["algorithms"].items()) algorithm = "unknown";
    const std::string used = refusal(other);
    EXPECT_NE(used.find("to unknown"), std::string::npos) << used;
  }
  const Outcome missing =
      run_job(LINEAR_REGRESSION, job + " --matmul-table /nowhere/table.json", 2);
  EXPECT_EQ(missing.code, 1) << missing.output;
  EXPECT_NE(missing.output.find("/nowhere/table.json cannot be read"), std::string::npos)
      << missing.output;
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
  const Outcome no_nccl = run("LOCKSTEP_NCCL_LIBRARY=/nowhere/n.so " LOCKSTEP " doctor");
  for (const char* part : {"NCCL", "none: NCCL cannot be loaded (/nowhere/n.so"}) {
    EXPECT_NE(no_nccl.output.find(part), std::string::npos) << no_nccl.output;
  }
  if (std::getenv("LOCKSTEP_CUDA_PLUGIN")) {  // the emulated one takes orders
    const Outcome old = run("LOCKSTEP_EMULATED_NCCL_VERSION=21903 " LOCKSTEP " doctor");
    EXPECT_NE(old.output.find("none: NCCL 2.19.3 ("), std::string::npos) << old.output;
    EXPECT_NE(here.output.find(" 2.28.9\n"), std::string::npos) << here.output;
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
