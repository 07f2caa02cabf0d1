#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace lockstep::launch {

// What --report writes. Times are seconds, memory is bytes.
struct Report {
  std::string program;
  int world_size = 1;
  std::string device;
  int64_t steps = 0;                      // optimizer steps
  int64_t epochs = 0;                     // begun
  std::optional<double> train_loss;       // mean over the steps of the last epoch
  std::optional<double> test_accuracy;    // a fraction; left out where there is none
  std::optional<double> validation_loss;  // left out where there is none
  double samples_per_second = 0.0;
  double seconds_per_step = 0.0;                        // these four: the maximum over ranks
  double communication_seconds_per_step = 0.0;          // launch to completion
  double exposed_communication_seconds_per_step = 0.0;  // the wait after backward's last kernel
  double all_reduces_per_step = 0.0;                    // buckets; on this rank
  int64_t peak_memory_bytes = 0;
  std::string weights_sha256;  // empty (null in the file) if the job knew of no weights
  std::string reduction;
  std::optional<int64_t> virtual_shards;  // left out unless `reduction` is bitwise
  std::string compression = "none";
  std::string precision = "fp32";
  std::optional<double> loss_scale;      // at the end; these two are left out unless losses are
  std::optional<int64_t> skipped_steps;  // scaled
  int64_t global_batch = 0;
  int64_t accumulate = 1;
  uint64_t seed = 0;
  std::string log;                  // rank 0's log file, or empty
  std::vector<double> step_losses;  // the first 1000 steps' means over the global batch
};

// One JSON object, keys in the order above, floats in the shortest form that reads back to the same
// value, null for what is not known or not finite.
std::string to_json(const Report& report);

// Throws Error, naming the path and the reason, if write_report could not create the file: for the
// start of a job, so that hours of training do not end in a mistyped directory.
void check_report_path(const std::filesystem::path& path);

// Writes to a temporary file beside `path`, syncs it and renames it: readers see the old content or
// the whole new one. Throws Error; the temporary file is gone in any case.
void write_report(const std::filesystem::path& path, const Report& report);

}  // namespace lockstep::launch
