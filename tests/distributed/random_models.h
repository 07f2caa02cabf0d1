#pragma once

#include <cstdint>

#include "lockstep/distributed/process_group.h"

namespace lockstep::distributed::testing {

constexpr uint64_t kRandomModels = 30;

// How often the models met what they are meant to meet; the same on every rank.
struct Coverage {
  int64_t steps = 0, failed_steps = 0, kept_gradients = 0;
  int64_t tied = 0, checkpointed = 0, mixed_dtypes = 0;              // models
  int64_t used_by_some_ranks = 0, used_by_no_rank = 0;               // parameters in a step
  int64_t frozen = 0, unfrozen_later = 0, frozen_on_some_ranks = 0;  // parameters in a step
};

// Trains the model of `seed`, drawn from it with everything else, for several steps on every rank
// of `group`. After each the gradients are compared with those of one process on the whole batch.
void train_random_model(ProcessGroup& group, uint64_t seed, Coverage& coverage);

// All seeds; then that nothing which `Coverage` counts has been missed.
void train_random_models(ProcessGroup& group);

}  // namespace lockstep::distributed::testing
