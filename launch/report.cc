#include "lockstep/launch/report.h"

#include <span>

#include <nlohmann/json.hpp>

#include "lockstep/data/atomic_file.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::launch {
namespace {

// The file's errors, with the flag that named it.
template <typename Act>
void with_flag_named(const Act& act) {
  try {
    act();
  } catch (const DataError& error) {
    fail<Error>("[report] --report: {}", error.what());
  }
}

}  // namespace

std::string to_json(const Report& r) {
  nlohmann::ordered_json json;
  const auto number_or_null = [](const std::optional<double>& value) {
    return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json();
  };
  const auto text_or_null = [](const std::string& text) {
    return text.empty() ? nlohmann::ordered_json() : nlohmann::ordered_json(text);
  };
  json["program"] = r.program;
  json["world_size"] = r.world_size;
  json["device"] = r.device;
  json["steps"] = r.steps;
  json["epochs"] = r.epochs;
  json["train_loss"] = number_or_null(r.train_loss);
  if (r.test_accuracy) json["test_accuracy"] = *r.test_accuracy;
  if (r.validation_loss) json["validation_loss"] = *r.validation_loss;
  json["samples_per_second"] = r.samples_per_second;
  json["seconds_per_step"] = r.seconds_per_step;
  json["communication_seconds_per_step"] = r.communication_seconds_per_step;
  json["exposed_communication_seconds_per_step"] = r.exposed_communication_seconds_per_step;
  json["all_reduces_per_step"] = r.all_reduces_per_step;
  json["peak_memory_bytes"] = r.peak_memory_bytes;
  json["weights_sha256"] = text_or_null(r.weights_sha256);
  json["reduction"] = r.reduction;
  if (r.virtual_shards) json["virtual_shards"] = *r.virtual_shards;
  json["compression"] = r.compression;
  json["precision"] = r.precision;
  if (r.loss_scale) json["loss_scale"] = *r.loss_scale;
  if (r.skipped_steps) json["skipped_steps"] = *r.skipped_steps;
  json["global_batch"] = r.global_batch;
  json["accumulate"] = r.accumulate;
  json["seed"] = r.seed;
  json["log"] = text_or_null(r.log);
  json["step_losses"] = r.step_losses;
  // Paths may hold bytes that are not UTF-8; they become U+FFFD rather than an exception.
  return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

void check_report_path(const std::filesystem::path& path) {
  with_flag_named([&] { const data::AtomicFile probe(path); });
}

void write_report(const std::filesystem::path& path, const Report& report) {
  with_flag_named([&] {
    const std::string text = to_json(report);
    data::AtomicFile file(path);
    file.write(std::as_bytes(std::span(text)));
    file.publish();
  });
}

}  // namespace lockstep::launch
