#include "lockstep/launch/report.h"

#include <fstream>
#include <iterator>
#include <limits>
#include <string>

#include <gtest/gtest.h>
#include <unistd.h>

#include "lockstep/engine/tensor/error.h"

#include "data/temp_dir.h"

namespace lockstep::launch {
namespace {

using test::TempDir;

std::string content_of(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

size_t files_in(const std::filesystem::path& path) {
  return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(path),
                                           std::filesystem::directory_iterator()));
}

Report example() {
  Report r;
  r.program = "train";
  r.world_size = 2;
  r.device = "cpu";
  r.steps = 3;
  r.epochs = 1;
  r.train_loss = 0.1;
  r.test_accuracy = 0.875;
  r.validation_loss = 1.5;
  r.samples_per_second = 1e6;
  r.seconds_per_step = 1.0 / 3.0;
  r.communication_seconds_per_step = 0.25;
  r.exposed_communication_seconds_per_step = 0.125;
  r.all_reduces_per_step = 3.0;
  r.peak_memory_bytes = 123456789012;
  r.weights_sha256 = "ab";
  r.reduction = "bitwise";
  r.virtual_shards = 16;
  r.compression = "bf16";
  r.precision = "fp16";
  r.loss_scale = 32768.0;
  r.skipped_steps = 1;
  r.global_batch = 128;
  r.accumulate = 2;
  r.seed = 18446744073709551615u;
  r.log = "logs/rank_0000.log";
  r.step_losses = {2.5, 2.302585092994046, 0.1f};
  return r;
}

TEST(Report, Json) {
  EXPECT_EQ(to_json(example()),
            R"({
  "program": "train",
  "world_size": 2,
  "device": "cpu",
  "steps": 3,
  "epochs": 1,
  "train_loss": 0.1,
  "test_accuracy": 0.875,
  "validation_loss": 1.5,
  "samples_per_second": 1000000.0,
  "seconds_per_step": 0.3333333333333333,
  "communication_seconds_per_step": 0.25,
  "exposed_communication_seconds_per_step": 0.125,
  "all_reduces_per_step": 3.0,
  "peak_memory_bytes": 123456789012,
  "weights_sha256": "ab",
  "reduction": "bitwise",
  "virtual_shards": 16,
  "compression": "bf16",
  "precision": "fp16",
  "loss_scale": 32768.0,
  "skipped_steps": 1,
  "global_batch": 128,
  "accumulate": 2,
  "seed": 18446744073709551615,
  "log": "logs/rank_0000.log",
  "step_losses": [
    2.5,
    2.302585092994046,
    0.10000000149011612
  ]
}
)");
}

TEST(Report, WhatIsNotKnownIsNullOrLeftOut) {
  Report r = example();
  r.train_loss = std::numeric_limits<double>::quiet_NaN();
  r.test_accuracy.reset();
  r.weights_sha256.clear();
  r.log.clear();
  r.program.assign(1, '\xff');  // not UTF-8
  const auto json = to_json(r);
  EXPECT_NE(json.find("\"train_loss\": null"), std::string::npos);
  EXPECT_EQ(json.find("test_accuracy"), std::string::npos);
  EXPECT_NE(json.find("\"weights_sha256\": null"), std::string::npos);
  EXPECT_NE(json.find("\"log\": null"), std::string::npos);
  r.train_loss.reset();
  EXPECT_NE(to_json(r).find("\"train_loss\": null"), std::string::npos);
}

TEST(Report, ReplacesTheFileAndLeavesNothingElse) {
  const TempDir dir;
  const auto path = dir / "report.json";
  std::ofstream(path) << std::string(100000, 'x');
  check_report_path(path);
  EXPECT_EQ(content_of(path).size(), 100000u);  // the check touches nothing
  EXPECT_EQ(files_in(dir.path()), 1u);
  write_report(path, example());
  EXPECT_EQ(content_of(path), to_json(example()));
  EXPECT_EQ(files_in(dir.path()), 1u);
}

// A reader that opened the old file keeps reading the old content: the new one came by rename.
TEST(Report, IsPublishedByRename) {
  const TempDir dir;
  const auto path = dir / "report.json";
  std::ofstream(path) << "old";
  std::ifstream reader(path);
  write_report(path, example());
  std::string text;
  reader >> text;
  EXPECT_EQ(text, "old");
}

TEST(Report, UnwritablePathsAreErrorsBeforehand) {
  const TempDir dir;
  std::ofstream(dir / "file") << "x";
  for (const auto& path : {dir / "absent/report.json", dir / "file/report.json", dir.path()}) {
    try {
      check_report_path(path);
      ADD_FAILURE() << path << " was accepted";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(path.string()), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find("--report"), std::string::npos) << error.what();
    }
    EXPECT_THROW(write_report(path, example()), Error);
  }
  EXPECT_EQ(files_in(dir.path()), 1u);
}

TEST(Report, AFailedRenameRemovesTheTemporaryFile) {
  const TempDir dir;
  const auto path = dir / "taken";
  std::filesystem::create_directories(path / "inside");
  EXPECT_THROW(write_report(path, example()), Error);
  EXPECT_EQ(files_in(dir.path()), 1u);
}

}  // namespace
}  // namespace lockstep::launch
