#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "lockstep/data/loader.h"
#include "lockstep/data/sampler.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/launch/job.h"
#include "lockstep/launch/job_state.h"
#include "lockstep/launch/log.h"
#include "lockstep/launch/progress.h"

namespace lockstep::launch {
namespace {

constexpr size_t kReportedLosses = 1000;

bool is_bitwise(const Job& job) { return job.reduction() == distributed::ReductionMode::kBitwise; }

data::Sampler make_sampler(const Job& job, const data::Dataset& dataset) {
  const auto& o = job.options();
  return data::Sampler({.samples = dataset.size(),
                        .global_batch = o.global_batch,
                        .rank = job.rank(),
                        .world_size = job.world_size(),
                        .accumulate = o.accumulate,
                        .virtual_shards = is_bitwise(job) ? o.virtual_shards : 0,
                        .seed = o.seed,
                        .shuffle = true});
}

int64_t total_steps(const Options& o, int64_t per_epoch) {
  if (o.max_steps) return *o.max_steps;
  check(o.epochs <= std::numeric_limits<int64_t>::max() / per_epoch,
        "[steps] {} epochs of {} steps are too many", o.epochs, per_epoch);
  return o.epochs * per_epoch;
}

// Ranks that were told different things would take different samples, or a different number of
// steps, and train something that nobody asked for.
void check_agreement(Job& job, int64_t samples, int64_t steps) {
  const auto& o = job.options();
  constexpr size_t kCount = 6;
  constexpr std::array<const char*, kCount> kNames = {
      "samples in the dataset",
      "--global-batch",
      "--accumulate",
      "--seed",
      "--virtual-shards of --reduction bitwise (0: another --reduction)",
      "steps to train"};
  const std::array<int64_t, kCount> mine = {samples,
                                            o.global_batch,
                                            o.accumulate,
                                            static_cast<int64_t>(o.seed),
                                            is_bitwise(job) ? o.virtual_shards : 0,
                                            steps};
  const distributed::ProcessGroup::LabelScope label(*job.group(),
                                                    distributed::Label("the job's settings"));
  auto lowest = mine;
  auto highest = mine;
  const auto reduce = [&](std::array<int64_t, kCount>& values, distributed::ReduceOp op) {
    job.group()->all_reduce({values.data(), kCount, DType::kInt64, {}}, op).wait();
  };
  reduce(lowest, distributed::ReduceOp::kMin);
  reduce(highest, distributed::ReduceOp::kMax);
  for (size_t i = 0; i < mine.size(); ++i) {
    check<DistributedError>(
        lowest[i] == highest[i],
        "[steps] the ranks disagree on the {}: {} on one, {} on another, {} here", kNames[i],
        lowest[i], highest[i], mine[i]);
  }
}

std::string text_of_skip(const data::Step& step) {
  const std::string text =
      fmt::format("step {} is skipped: its gradients are not finite", step.index);
  if (!step.report.loss_scale) return text;
  return fmt::format("{}; the loss scale is {} now", text, *step.report.loss_scale);
}

}  // namespace

struct Steps::State {
  using Clock = Job::State::Clock;

  State(Job& job, const data::Dataset& dataset, const data::Sampler& sampler)
      : job(*job.state_),
        total(total_steps(job.options(), sampler.steps_per_epoch())),
        loader(dataset, sampler, {.first = 0, .last = total, .device = job.device()}) {
    if (job.rank() == 0) {
      progress.emplace(Progress::Options{.steps_per_epoch = sampler.steps_per_epoch(),
                                         .total_steps = total,
                                         .columns = terminal_columns()});
    }
  }

  void fetch() {
    using distributed::Phase;
    fetch_began = Clock::now();
    job.group->set_activity(Phase::kData, ++index);
    current = loader.next();
    step_began = Clock::now();
    if (current) {
      job.group->set_activity(Phase::kStep, current->index);
    } else {
      job.group->set_activity(Phase::kEnding, index - 1);
    }
    if (current && current->epoch != epoch) {
      epoch = current->epoch;
      epoch_changed = true;
    }
  }

  void count() {
    const auto& report = current->report;
    if (job.trace) job.trace->add(*current, fetch_began, step_began, Clock::now());
    if (epoch_changed) {
      job.epoch_loss_sum = 0.0;
      job.epoch_losses = 0;
      job.epochs = epoch + 1;
      epoch_changed = false;
    }
    // A step without an update says nothing about the training where its loss is not finite.
    const bool counts = report.has_loss && !(report.skipped && !std::isfinite(report.loss));
    if (report.has_loss) {
      if (counts) {
        job.epoch_loss_sum += report.loss;
        ++job.epoch_losses;
      }
      if (job.step_losses.size() < kReportedLosses) job.step_losses.push_back(report.loss);
      if (!std::isfinite(report.loss) && counts && !warned) {
        warned = true;
        if (progress) {
          log::warn(fmt::format("the loss of step {} is {}: training diverged", current->index,
                                report.loss));
        }
      }
    }
    if (report.skipped) {
      ++job.skipped_steps;
      if (progress) log::info(text_of_skip(*current));
    }
    if (report.loss_scale) job.loss_scale = report.loss_scale;
    job.communication += report.communication_seconds;
    job.exposed += report.exposed_communication_seconds;
    job.all_reduces += std::ssize(report.timeline.all_reduces);
    for (const auto& model : report.models) job.add_model(model);
    ++job.steps;
    job.samples += current->global_samples;
    job.training = Clock::now() - start - (job.not_training - not_training_before);
    if (progress) {
      progress->update(job.steps, counts ? std::optional(report.loss) : std::nullopt, job.samples,
                       job.training);
    }
  }

  Job::State& job;
  int64_t total;
  data::Loader loader;
  std::optional<Progress> progress;
  std::optional<data::Step> current;
  Clock::time_point start{}, fetch_began{}, step_began{};
  Job::State::Seconds not_training_before{0};
  int64_t index = -1;  // of the current step
  int64_t epoch = -1;
  bool epoch_changed = false;
  bool begun = false;
  bool warned = false;
};

Steps::Steps(std::unique_ptr<State> state) : state_(std::move(state)) {}

Steps::~Steps() = default;

Steps::Iterator Steps::begin() {
  auto& s = *state_;
  check(!s.begun, "[steps] the steps of a job can be iterated once");
  s.begun = true;
  s.start = State::Clock::now();
  s.not_training_before = s.job.not_training;
  s.fetch();
  return Iterator(this);
}

data::Step& Steps::current() { return *state_->current; }

void Steps::advance() {
  state_->count();
  state_->current.reset();  // frees its tensors before the next step's forward
  state_->fetch();
}

int64_t Steps::size() const { return state_->total; }
bool Steps::done() const { return !state_->current; }

Steps Job::steps(const data::Dataset& dataset) {
  check(!state_->steps_given, "[steps] a job has its training steps once");
  auto state = std::make_unique<Steps::State>(*this, dataset, make_sampler(*this, dataset));
  check_agreement(*this, dataset.size(), state->total);
  state_->steps_given = true;
  if (rank() == 0 && is_bitwise(*this) && options().accumulate != 1) {
    log::info(
        fmt::format("--accumulate {} has no effect with --reduction bitwise: the micro-batches "
                    "are the {} virtual shards",
                    options().accumulate, options().virtual_shards));
  }
  if (rank() == 0) {
    log::info(fmt::format("training on {} samples, {} {}, global batch {}, {} steps",
                          dataset.size(), world_size(), world_size() == 1 ? "rank" : "ranks",
                          options().global_batch, state->total));
  }
  return Steps(std::move(state));
}

}  // namespace lockstep::launch
