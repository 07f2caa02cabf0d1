#include <algorithm>
#include <limits>
#include <optional>
#include <vector>

#include "lockstep/data/sampler.h"
#include "lockstep/distributed/metrics.h"
#include "lockstep/engine/autograd/autocast.h"
#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/sync_debug.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/launch/job.h"
#include "lockstep/launch/job_state.h"
#include "lockstep/launch/log.h"

namespace lockstep::launch {
namespace {

// How many rows of `logits` have their largest value at the label.
template <typename T>
int64_t count_correct(const Tensor& logits, const Tensor& labels) {
  const int64_t classes = logits.size(1);
  const T* row = logits.data<T>();
  int64_t correct = 0;
  for (int64_t i = 0; i < logits.size(0); ++i, row += classes) {
    int64_t best = -1;  // stays, and counts as wrong, if nothing compares: a row of NaN
    T highest = -std::numeric_limits<T>::infinity();
    for (int64_t c = 0; c < classes; ++c) {
      if (row[c] > highest) {
        highest = row[c];
        best = c;
      }
    }
    if (best == labels.data<int64_t>()[i]) ++correct;
  }
  return correct;
}

int64_t count_correct(const Tensor& logits, const data::Batch& batch) {
  check(logits.defined() && logits.dim() == 2 && logits.size(0) == batch.size() &&
            is_floating(logits.dtype()),
        "[evaluate] the function must return floating-point logits of shape ({}, classes), got {}",
        batch.size(), logits.defined() ? logits.sizes().str() : "an undefined tensor");
  const SyncAllowed allowed;
  const Tensor labels = batch.y.to(Device{}).to(DType::kInt64).contiguous();
  const Tensor values = logits.to(Device{});
  if (values.dtype() == DType::kFloat64) return count_correct<double>(values.contiguous(), labels);
  return count_correct<float>(values.to(DType::kFloat32).contiguous(), labels);
}

// Calls `measure(batch, metrics)` for the batches of this rank's share of `dataset`, a contiguous
// one; what the metrics say over all ranks.
template <typename Measure>
distributed::MetricValues measure_all(Job& job, const data::Dataset& dataset, int64_t batch_size,
                                      const Measure& measure) {
  check(batch_size >= 1, "[evaluate] the batch size is {}, must be at least 1", batch_size);
  check(dataset.size() >= 1, "[evaluate] the dataset is empty");
  using distributed::ProcessGroup;
  const ProcessGroup::ActivityScope activity(*job.group(), distributed::Phase::kEvaluation);
  const autograd::NoGrad no_grad;
  std::optional<autograd::Autocast> autocast;  // fp32 leaves a scope of the program's own alone
  if (job.precision() != DType::kFloat32) autocast.emplace(job.precision());
  distributed::Metrics metrics(job.group(), "an evaluation");
  const auto mine = data::share(dataset.size(), job.rank(), job.world_size());
  std::vector<int64_t> indices;
  for (int64_t at = mine.begin; at < mine.end; at += batch_size) {
    indices.clear();
    for (int64_t i = at; i < std::min(at + batch_size, mine.end); ++i) indices.push_back(i);
    auto batch = dataset.get(indices);
    for (Tensor* t : {&batch.x, &batch.y}) {
      if (t->defined()) *t = t->to(job.device());
    }
    measure(batch, metrics);
    metrics.sum("samples", static_cast<double>(batch.size()));  // exact below 2^53
  }
  const auto all = metrics.reduce();
  check<Error>(all["samples"] == static_cast<double>(dataset.size()),
               "[evaluate] {} of {} samples were seen", all["samples"], dataset.size());
  return all;
}

}  // namespace

double Job::evaluate(const data::Dataset& dataset, const Logits& logits, int64_t batch_size) {
  const auto start = State::Clock::now();
  const auto all = measure_all(
      *this, dataset, batch_size, [&](const data::Batch& batch, distributed::Metrics& metrics) {
        metrics.sum("correct", static_cast<double>(count_correct(logits(batch), batch)));
      });
  const double accuracy = all["correct"] / all["samples"];
  state_->test_accuracy = accuracy;
  state_->add_evaluation(start);
  if (rank() == 0) {
    log::info(fmt::format("accuracy {:.2f} % ({} of {} samples)", 100.0 * accuracy, all["correct"],
                          dataset.size()));
  }
  return accuracy;
}

double Job::evaluate_loss(const data::Dataset& dataset, const Loss& loss, int64_t batch_size) {
  const auto start = State::Clock::now();
  const auto all = measure_all(
      *this, dataset, batch_size, [&](const data::Batch& batch, distributed::Metrics& metrics) {
        const Tensor mean = loss(batch);
        check(mean.defined() && mean.numel() == 1,
              "[evaluate_loss] the function must return one number, the mean over the batch, got "
              "{}",
              mean.defined() ? "a tensor of shape " + mean.sizes().str() : "an undefined tensor");
        metrics.add("loss", mean, static_cast<double>(batch.size()));
      });
  state_->validation_loss = all["loss"];
  state_->add_evaluation(start);
  if (rank() == 0) {
    log::info(fmt::format("validation loss {:.4f} ({} samples)", all["loss"], dataset.size()));
  }
  return all["loss"];
}

}  // namespace lockstep::launch
