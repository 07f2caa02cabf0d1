#include "lockstep/launch/summary.h"

#include <algorithm>

#include <fmt/format.h>

namespace lockstep::launch {

std::string overlap_advice(const Report& r) {
  const double total = r.communication_seconds_per_step;
  const double exposed = r.exposed_communication_seconds_per_step;
  if (r.world_size == 1 || exposed <= 0.5 * total || exposed <= 0.1 * r.seconds_per_step) return "";
  if (total > r.seconds_per_step - exposed) {
    return fmt::format(
        "communication takes longer than the computation: more samples per step (--global-batch, "
        "now {}; with --accumulate, now {}, where memory is short) need fewer all-reduces",
        r.global_batch, r.accumulate);
  }
  if (r.all_reduces_per_step < 1.5) {
    return "all gradients leave in one bucket, after backward: with smaller ones (bucket_bytes in "
           "DataParallelOptions) the first all-reduce starts earlier";
  }
  return fmt::format(
      "with {:.0f} buckets most all-reduces still end after backward: try smaller ones "
      "(first_bucket_bytes and bucket_bytes in DataParallelOptions), and see in a --trace whether "
      "they wait for a slow rank",
      r.all_reduces_per_step);
}

std::string format_summary(const Report& r, const std::string& report_path,
                           const std::string& trace_path) {
  std::string text;
  const auto line = [&](const char* what, const std::string& value) {
    text += fmt::format("{:<15}{}\n", what, value);
  };
  line("trained", fmt::format("{} steps in {} {} on {} {} ({})", r.steps, r.epochs,
                              r.epochs == 1 ? "epoch" : "epochs", r.world_size,
                              r.world_size == 1 ? "rank" : "ranks", r.device));
  if (r.train_loss) line("train loss", fmt::format("{:.4f}", *r.train_loss));
  if (r.test_accuracy) line("test accuracy", fmt::format("{:.2f} %", 100.0 * *r.test_accuracy));
  if (r.validation_loss) line("validation", fmt::format("loss {:.4f}", *r.validation_loss));
  line("samples/s", fmt::format("{:.0f}", r.samples_per_second));
  const double total = r.communication_seconds_per_step;
  if (r.world_size == 1) {
    line("communication", "none");
  } else if (total > 0.0) {
    const double exposed = r.exposed_communication_seconds_per_step;
    line("communication",
         fmt::format("{:.0f} % hidden behind backward ({:.2f} of {:.2f} ms per step exposed)",
                     100.0 * std::clamp(1.0 - exposed / total, 0.0, 1.0), 1e3 * exposed,
                     1e3 * total));
  }
  const std::string advice = overlap_advice(r);
  if (!advice.empty()) line("advice", advice);
  if (!r.weights_sha256.empty()) line("weights", "sha256 " + r.weights_sha256);
  if (!r.log.empty()) line("log", r.log);
  if (!report_path.empty()) line("report", report_path);
  if (!trace_path.empty()) line("trace", trace_path);
  return text;
}

}  // namespace lockstep::launch
