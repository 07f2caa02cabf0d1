#pragma once

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "lockstep/launch/job.h"
#include "lockstep/launch/trace.h"

namespace lockstep::launch {

// What a job has been told and what it has seen so far; internal.
struct Job::State {
  using Clock = std::chrono::steady_clock;
  using Seconds = std::chrono::duration<double>;

  State(CommandLine command_line, std::shared_ptr<distributed::ProcessGroup> process_group)
      : line(std::move(command_line)), group(std::move(process_group)) {
    if (!line.options.trace.empty()) trace.emplace(1000, trace_events_per_rank(group->size()));
  }

  CommandLine line;
  std::shared_ptr<distributed::ProcessGroup> group;
  Device device;

  bool steps_given = false;
  bool has_graphed_step = false;
  int64_t steps = 0;
  int64_t epochs = 0;
  int64_t samples = 0;
  int64_t skipped_steps = 0;
  std::optional<double> loss_scale;  // after the last step
  Seconds training{0};               // wall time between the first step and the last
  Seconds not_training{0};           // evaluations inside that time
  double communication = 0.0;
  double exposed = 0.0;
  int64_t all_reduces = 0;
  double epoch_loss_sum = 0.0;  // of the epoch of the last step
  int64_t epoch_losses = 0;
  std::vector<double> step_losses;
  std::optional<double> test_accuracy;
  std::optional<double> validation_loss;
  std::optional<Trace> trace;                               // if asked for
  std::vector<std::shared_ptr<const NamedTensors>> models;  // in the order in which they came

  void add_evaluation(Clock::time_point start) {  // which ends now
    const auto end = Clock::now();
    not_training += end - start;
    if (trace) trace->add_evaluation(start, end);
  }

  void add_model(const std::shared_ptr<const NamedTensors>& model) {
    if (std::find(models.begin(), models.end(), model) == models.end()) models.push_back(model);
  }
};

}  // namespace lockstep::launch
