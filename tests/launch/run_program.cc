// A job that communicates in every step and, when told to, goes wrong on one rank; run_test.sh
// starts it and looks at how it ends.
#include <csignal>
#include <iostream>
#include <stdexcept>
#include <string>

#include <unistd.h>

#include "lockstep/data/dataset.h"
#include "lockstep/data/fashion_mnist.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/launch/run.h"

using namespace lockstep;

namespace {

constexpr int64_t kBadStep = 3;

// What goes wrong in step kBadStep on the rank concerned.
void go_wrong(const std::string& mode) {
  if (mode == "throw") throw std::runtime_error("deliberate failure");
  if (mode == "throw-int") throw 42;
  if (mode == "kill") raise(SIGKILL);
  if (mode == "segv") raise(SIGSEGV);
  if (mode == "term") {
    kill(getpid(), SIGTERM);
    for (;;) pause();
  }
}

void train(launch::Job& job, const std::string& mode, int64_t bad_rank) {
  const bool bad = job.rank() == bad_rank;
  if (mode == "data" && bad) data::fashion_mnist("/nonexistent", data::Split::kTrain);
  const data::TensorDataset dataset(arange(1000), arange(1000));
  const Tensor weights = zeros({4});
  job.track({{"weights", weights}});
  for (auto& step : job.steps(dataset)) {
    if (bad && step.index == kBadStep) go_wrong(mode);
    double sum = 0.0;
    for (const auto& micro : step.micros) {
      for (const double value : micro.x.to_vector()) sum += value;
    }
    job.group()->all_reduce({&sum, 1, DType::kFloat64, {}}).wait();
    step.report.loss = sum / static_cast<double>(step.global_samples);
    step.report.has_loss = true;
    if (mode == "slow") usleep(100000);
    weights.data<float>()[step.index % 4] += static_cast<float>(step.report.loss);
  }
  if (mode == "weights" && bad) weights.data<float>()[0] += 1.0f;
  job.evaluate(dataset, [](const data::Batch& batch) { return zeros({batch.size(), 10}); });
}

}  // namespace

int main(int argc, char** argv) {
  std::string mode = "ok";
  int64_t bad_rank = 1;
  launch::ProgramOptions extra("Tests how jobs end.");
  extra.text("--mode", mode, "What goes wrong").integer("--bad-rank", bad_rank, "Where");
  return launch::run(
      argc, argv, [&](launch::Job& job) { train(job, mode, bad_rank); }, extra);
}
