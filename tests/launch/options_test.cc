#include "lockstep/launch/options.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/launch/device_choice.h"

namespace lockstep::launch {
namespace {

CommandLine parse(std::vector<const char*> arguments, const ProgramOptions& extra = {}) {
  arguments.insert(arguments.begin(), "/somewhere/train");
  return parse_command_line(static_cast<int>(arguments.size()), arguments.data(), extra);
}

TEST(Options, Defaults) {
  const auto line = parse({});
  EXPECT_EQ(line.program, "train");
  EXPECT_TRUE(line.answer.empty());
  const auto& o = line.options;
  EXPECT_EQ(o.device, "cpu");
  EXPECT_EQ(o.group, "auto");
  EXPECT_EQ(o.epochs, 1);
  EXPECT_FALSE(o.max_steps.has_value());
  EXPECT_EQ(o.global_batch, 128);
  EXPECT_EQ(o.accumulate, 1);
  EXPECT_EQ(o.seed, 0u);
  EXPECT_EQ(o.reduction, "repeatable");
  EXPECT_EQ(o.virtual_shards, 16);
  EXPECT_EQ(o.compression, "none");
  EXPECT_EQ(o.watchdog, 300.0);
  EXPECT_EQ(o.precision, "fp32");
  EXPECT_EQ(o.matmul_precision, "highest");
  EXPECT_EQ(o.data + o.log_dir + o.report + o.checkpoint_dir + o.trace, "");
  EXPECT_EQ(o.matmul_table + o.tune_matmul, "");
}

TEST(Options, EveryAvailableFlag) {
  const auto o = parse({"--device",
                        "cpu",
                        "--group",
                        "mpi",
                        "--epochs",
                        "3",
                        "--max-steps=50",
                        "--global-batch",
                        "96",
                        "--accumulate",
                        "4",
                        "--seed",
                        "18446744073709551615",
                        "--reduction",
                        "fast",
                        "--compression",
                        "powersgd",
                        "--powersgd-rank",
                        "2",
                        "--powersgd-start=0",
                        "--precision",
                        "fp32",
                        "--matmul-precision",
                        "highest",
                        "--data",
                        "/d",
                        "--log-dir",
                        "l",
                        "--report",
                        "r.json",
                        "--watchdog",
                        "2.5",
                        "--trace",
                        "t.json"})
                     .options;
  EXPECT_EQ(o.group, "mpi");
  EXPECT_EQ(o.epochs, 3);
  EXPECT_EQ(o.max_steps, 50);
  EXPECT_EQ(o.global_batch, 96);
  EXPECT_EQ(o.accumulate, 4);
  EXPECT_EQ(o.seed, 18446744073709551615u);
  EXPECT_EQ(o.reduction, "fast");
  EXPECT_EQ(o.compression, "powersgd");
  EXPECT_EQ(o.powersgd_rank, 2);
  EXPECT_EQ(o.powersgd_start, 0);
  EXPECT_EQ(o.data, "/d");
  EXPECT_EQ(o.log_dir, "l");
  EXPECT_EQ(o.report, "r.json");
  EXPECT_EQ(o.trace, "t.json");
  EXPECT_EQ(o.watchdog, 2.5);
}

struct BadLine {
  const char* what;
  std::vector<const char*> arguments;
  std::vector<std::string> mentions;
};

class OptionsBad : public testing::TestWithParam<BadLine> {};

TEST_P(OptionsBad, IsRefused) {
  try {
    parse(GetParam().arguments);
    FAIL() << "was accepted";
  } catch (const UsageError& error) {
    for (const auto& text : GetParam().mentions) {
      EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
    }
  }
}

const std::vector<BadLine> kBad = {
    {"UnknownFlag", {"--learning-rat", "3"}, {"--learning-rat", "--help"}},
    {"UnknownShortFlag", {"-x"}, {"-x"}},
    {"StrayWord", {"train"}, {"train"}},
    {"AbbreviatedFlag", {"--epoch", "3"}, {"--epoch"}},
    {"MissingValue", {"--epochs"}, {"--epochs"}},
    {"GivenTwice", {"--epochs", "1", "--epochs", "2"}, {"--epochs"}},
    {"ZeroEpochs", {"--epochs", "0"}, {"--epochs 0", "at least 1"}},
    {"ZeroSteps", {"--max-steps", "0"}, {"--max-steps 0", "at least 1"}},
    {"ZeroBatch", {"--global-batch", "0"}, {"--global-batch 0", "at least 1"}},
    {"NegativeBatch", {"--global-batch", "-5"}, {"--global-batch -5", "at least 1"}},
    {"ZeroAccumulate", {"--accumulate", "0"}, {"--accumulate 0", "at least 1"}},
    {"NegativeWatchdog", {"--watchdog", "-1"}, {"--watchdog -1", "or 0"}},
    {"NoWatchdog", {"--watchdog", "nan"}, {"--watchdog nan", "number of seconds"}},
    {"TextForNumber", {"--epochs", "many"}, {"--epochs", "many"}},
    {"FractionForInteger", {"--epochs", "1.5"}, {"--epochs", "1.5"}},
    {"HugeNumber", {"--epochs", "99999999999999999999"}, {"--epochs"}},
    {"NegativeSeed", {"--seed", "-1"}, {"--seed", "-1"}},
    {"UnknownReduction", {"--reduction", "exact"}, {"--reduction", "exact", "repeatable"}},
    {"UnknownCompression", {"--compression", "zip"}, {"--compression", "zip", "powersgd"}},
    {"CompressionInModeBitwise",
     {"--reduction", "bitwise", "--compression", "bf16"},
     {"--compression bf16", "--reduction bitwise"}},
    {"PowerSgdRankWithoutPowerSgd",
     {"--powersgd-rank", "4"},
     {"--powersgd-rank", "--compression powersgd only", "none"}},
    {"PowerSgdOfRankZero",
     {"--compression", "powersgd", "--powersgd-rank", "0"},
     {"--powersgd-rank 0", "at least 1"}},
    {"PowerSgdStartsBeforeTheBeginning",
     {"--compression", "powersgd", "--powersgd-start", "-1"},
     {"--powersgd-start -1"}},
    {"UnknownDevice", {"--device", "tpu"}, {"--device", "tpu"}},
    {"UnknownGroup", {"--group", "gloo"}, {"--group", "gloo"}},
    {"CudaIndex", {"--device", "cuda:1"}, {"--device", "cuda:1"}},
    {"Nccl", {"--group", "nccl"}, {"--group nccl", "--device cuda"}},
    {"ShardsWithoutBitwise",
     {"--virtual-shards", "16"},
     {"--virtual-shards", "--reduction bitwise only", "repeatable"}},
    {"NoShards", {"--reduction", "bitwise", "--virtual-shards", "0"}, {"--virtual-shards 0"}},
    {"TwelveShards",
     {"--reduction", "bitwise", "--virtual-shards", "12", "--global-batch", "24"},
     {"--virtual-shards 12", "power of two"}},
    {"ShardsOfUnequalSize",
     {"--reduction", "bitwise", "--global-batch", "100"},
     {"--global-batch 100", "16 virtual shards of equal size"}},
    {"Fp64", {"--precision", "fp64"}, {"--precision", "fp64"}},
    {"Fp16WithPowerSgd",
     {"--precision", "fp16", "--compression", "powersgd"},
     {"--precision fp16", "powersgd"}},
    {"MatmulLow", {"--matmul-precision", "low"}, {"--matmul-precision", "low"}},
    {"TableOnTheCpu",
     {"--matmul-table", "t.json"},
     {"--matmul-table", "--device cuda only", "--device cpu"}},
    {"TuningOnTheCpu", {"--tune-matmul", "t.json"}, {"--tune-matmul", "--device cuda only"}},
    {"TuningByATable",
     {"--device", "cuda", "--tune-matmul", "t.json", "--matmul-table", "t.json"},
     {"--tune-matmul", "--matmul-table", "one of them"}},
    {"CheckpointDir", {"--checkpoint-dir", "c"}, {"--checkpoint-dir", "not available"}},
    {"CheckpointEvery", {"--checkpoint-every", "10"}, {"--checkpoint-every", "not available"}},
    {"Resume", {"--resume"}, {"--resume", "not available"}},
};

INSTANTIATE_TEST_SUITE_P(Table, OptionsBad, testing::ValuesIn(kBad),
                         [](const auto& info) { return std::string(info.param.what); });

TEST(Options, TablesOfAlgorithms) {
  EXPECT_EQ(parse({"--device", "cuda", "--matmul-table", "t.json"}).options.matmul_table, "t.json");
  EXPECT_EQ(parse({"--device", "cuda", "--tune-matmul", "u.json"}).options.tune_matmul, "u.json");
}

TEST(ChooseDevice, GivesEveryRankOfAMachineAGpuInTurns) {
  EXPECT_EQ(choose_device("cuda", -1, 1, "").str(), "cuda:0");
  EXPECT_EQ(choose_device("cuda", 0, 8, "").str(), "cuda:0");
  EXPECT_EQ(choose_device("cuda", 7, 8, "").str(), "cuda:7");
  EXPECT_EQ(choose_device("cuda", 8, 8, "").str(), "cuda:0");
  EXPECT_EQ(choose_device("cuda", 5, 1, "").str(), "cuda:0");  // or each rank sees its own only
  EXPECT_EQ(choose_device("cpu", 3, 0, "no driver").str(), "cpu");
}

TEST(ChooseDevice, SaysWhyThereIsNoGpu) {
  try {
    choose_device("cuda", 0, 0, "the moon is in the way");
    FAIL() << "no error";
  } catch (const Error& error) {
    const std::string text = error.what();
    for (const char* part :
         {"--device cuda", "the moon is in the way", "lockstep doctor", "--device cpu"}) {
      EXPECT_NE(text.find(part), std::string::npos) << text;
    }
  }
}

TEST(Options, EpochsReplaceTheProgramsOwnSteps) {
  Options defaults;
  defaults.max_steps = 2000;
  const ProgramOptions extra("Trains something.", defaults);
  EXPECT_EQ(parse({}, extra).options.max_steps, 2000);
  const auto line = parse({"--epochs", "2"}, extra);
  EXPECT_EQ(line.options.epochs, 2);
  EXPECT_FALSE(line.options.max_steps.has_value());
  EXPECT_EQ(parse({"--epochs", "2", "--max-steps", "7"}, extra).options.max_steps, 7);
}

TEST(Options, Bitwise) {
  EXPECT_EQ(parse({"--reduction", "bitwise"}).options.virtual_shards, 16);
  const auto o = parse({"--reduction", "bitwise", "--virtual-shards", "64"}).options;
  EXPECT_EQ(o.reduction, "bitwise");
  EXPECT_EQ(o.virtual_shards, 64);
}

TEST(Options, ProgramsAddFlagsAndDefaults) {
  std::string model = "cnn";
  std::string note;
  int64_t width = 7;
  double rate = 0.5;
  bool fast = false;
  Options defaults;
  defaults.epochs = 4;
  ProgramOptions extra("Trains something.", defaults);
  extra.choice("--model", model, {"mlp", "cnn"}, "Which network")
      .text("--note", note, "Anything")
      .integer("--width", width, "Of the network")
      .number("--rate", rate, "Of learning")
      .toggle("--quick", fast, "Less of everything");
  EXPECT_EQ(parse({}, extra).options.epochs, 4);
  EXPECT_EQ(model, "cnn");
  const auto line = parse({"--model", "mlp", "--note", "a b", "--width", "9", "--rate", "1e-3",
                           "--quick", "--epochs", "2"},
                          extra);
  EXPECT_EQ(line.options.epochs, 2);
  EXPECT_EQ(model, "mlp");
  EXPECT_EQ(note, "a b");
  EXPECT_EQ(width, 9);
  EXPECT_EQ(rate, 1e-3);
  EXPECT_TRUE(fast);
  EXPECT_THROW(parse({"--model", "vgg"}, extra), UsageError);
  EXPECT_THROW(parse({"--width", "1.5"}, extra), UsageError);
  EXPECT_THROW(parse({"--model", "mlp"}), UsageError);  // not without the program's own flags
}

TEST(Options, AProgramCannotTakeACommonFlag) {
  std::string epochs;
  ProgramOptions extra;
  extra.text("--epochs", epochs, "Mine");
  EXPECT_THROW(parse({}, extra), ValueError);
}

TEST(Options, HelpNamesEveryFlag) {
  std::string model = "cnn";
  ProgramOptions extra("Trains something.");
  extra.choice("--model", model, {"mlp", "cnn"}, "Which network");
  const auto answer = parse({"--help"}, extra).answer;
  for (const char* text : {"Trains something.",
                           "--device",
                           "--group",
                           "--epochs",
                           "--max-steps",
                           "--global-batch",
                           "--accumulate",
                           "--seed",
                           "--reduction",
                           "--virtual-shards",
                           "--compression",
                           "--powersgd-rank",
                           "--powersgd-start",
                           "--precision",
                           "--matmul-precision",
                           "--data",
                           "--checkpoint-dir",
                           "--checkpoint-every",
                           "--resume",
                           "--watchdog",
                           "--trace",
                           "--log-dir",
                           "--report",
                           "--version",
                           "--model",
                           "128",
                           "repeatable"}) {
    EXPECT_NE(answer.find(text), std::string::npos) << text << " is not in\n" << answer;
  }
}

TEST(Options, Version) {
  const auto answer = parse({"--version"}).answer;
  EXPECT_EQ(answer.rfind("train (Lockstep ", 0), 0u) << answer;
  EXPECT_EQ(answer.find("unknown"), std::string::npos) << answer;
}

}  // namespace
}  // namespace lockstep::launch
