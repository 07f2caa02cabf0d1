#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "lockstep/engine/tensor/tensor.h"

namespace lockstep::data {

// Some samples with their targets; the first dimension of both tensors counts the samples.
struct Batch {
  Tensor x, y;
  int64_t samples = 0;

  int64_t size() const { return samples; }
};

// What one forward and backward pass takes.
struct MicroBatch {
  Tensor x, y;
  int64_t index = 0;    // global number within the step: rank * accumulate + k
  int64_t samples = 0;  // the first dimension of x and y

  int64_t size() const { return samples; }
};

// When the parts of a step ran on this rank, each list in order of time.
struct StepTimeline {
  using Time = std::chrono::steady_clock::time_point;
  struct Pass {  // one micro-batch: forward, then backward up to its last kernel
    int64_t micro_batch = 0;
    Time forward, backward, end;
  };
  struct AllReduce {  // one bucket: handed over, begun, complete
    int64_t bucket = 0;
    size_t bytes = 0;
    Time launched, started, finished;
  };
  struct Wait {  // the training stands still until the gradients are complete
    Time begin, end;
  };
  std::vector<Pass> passes;
  std::vector<AllReduce> all_reduces;
  std::vector<Wait> waits;
};

// Filled in by DataParallel while the step runs. Where several of them take part in a step (a
// generator and a critic, say) their losses and times add up.
struct StepReport {
  double loss = 0.0;  // mean over the step's global samples
  bool has_loss = false;
  bool skipped = false;                // its gradients were not finite and have been discarded
  std::optional<double> loss_scale;    // that of the next step, where losses are scaled
  double communication_seconds = 0.0;  // launch to completion, summed over the buckets
  double exposed_communication_seconds = 0.0;  // the wait after backward's last kernel
  StepTimeline timeline;
  // What is being trained, parameters before buffers, each model once: how a job learns whose hash
  // to report.
  std::vector<std::shared_ptr<const NamedTensors>> models;
};

// One optimizer step's share of this rank.
struct Step {
  int64_t index = 0;           // optimizer step, from 0 over all epochs
  int64_t epoch = 0;           // from 0
  int64_t global_samples = 0;  // over all ranks and micro-batches
  std::vector<MicroBatch> micros;
  StepReport report;
};

}  // namespace lockstep::data
