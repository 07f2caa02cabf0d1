#pragma once

#include <cstdint>

#include "lockstep/engine/tensor/philox.h"

namespace lockstep {

// What a stream of random numbers is for. Streams of different purpose never overlap.
enum class RandomPurpose : uint32_t {
  kProgram = 0,  // outside of training steps: initialisation, a program's own draws
  kStep = 1,     // inside a training step: dropout
  kShuffle = 2,  // the order of samples
  kData = 3,     // augmentation
};

// Which random numbers an op draws: a pure function of the seed, the purpose, and where in the
// training run the op stands, so that a sample sees the same ones on whichever rank it lands.
struct RandomKey {
  Philox philox;
  uint32_t ordinal = 0;      // of the op within this forward
  uint32_t micro_batch = 0;  // global index of the micro-batch, or of the virtual shard
  uint32_t step = 0;

  // Four words for elements 4*block .. 4*block+3.
  LOCKSTEP_HD std::array<uint32_t, 4> words(uint32_t block) const {
    return philox(block, ordinal, micro_batch, step);
  }
};

RandomKey make_random_key(uint64_t seed, RandomPurpose purpose, uint32_t step = 0,
                          uint32_t micro_batch = 0, uint32_t ordinal = 0);

// Seeds the calling thread's generator and starts it over (thread: ranks may be threads).
void manual_seed(uint64_t seed);
uint64_t current_seed();

// The key of the next random op on this thread; counts one ordinal on.
RandomKey next_random_key();

// The calling thread's generator: to draw the same numbers again.
struct RandomState {
  uint64_t seed = 0;
  RandomPurpose purpose = RandomPurpose::kProgram;
  uint32_t step = 0, micro_batch = 0, ordinal = 0;
};
RandomState random_state();
void set_random_state(const RandomState& state);

// While it lives, this thread's ops draw the numbers of (step, micro_batch), from ordinal 0.
class RandomScope {
 public:
  RandomScope(uint64_t step, uint64_t micro_batch, RandomPurpose purpose = RandomPurpose::kStep);
  ~RandomScope();
  RandomScope(const RandomScope&) = delete;
  RandomScope& operator=(const RandomScope&) = delete;

 private:
  RandomState saved_;
};

}  // namespace lockstep
