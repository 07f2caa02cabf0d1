#include "lockstep/engine/tensor/random.h"

namespace lockstep {

RandomKey make_random_key(uint64_t seed, RandomPurpose purpose, uint32_t step, uint32_t micro_batch,
                          uint32_t ordinal) {
  RandomKey key;
  key.philox.key0 = static_cast<uint32_t>(seed);
  // Spreads the purpose over the word, so that nearby seeds never share a stream.
  key.philox.key1 =
      static_cast<uint32_t>(seed >> 32) ^ (static_cast<uint32_t>(purpose) * 0x9E3779B9u);
  key.ordinal = ordinal;
  key.micro_batch = micro_batch;
  key.step = step;
  return key;
}

namespace {

RandomState& current() {
  thread_local RandomState state;
  return state;
}

}  // namespace

RandomState random_state() { return current(); }
void set_random_state(const RandomState& state) { current() = state; }

RandomScope::RandomScope(uint64_t step, uint64_t micro_batch, RandomPurpose purpose)
    : saved_(current()) {
  RandomState& state = current();
  state.purpose = purpose;
  state.step = static_cast<uint32_t>(step);
  state.micro_batch = static_cast<uint32_t>(micro_batch);
  state.ordinal = 0;
}

RandomScope::~RandomScope() { current() = saved_; }

void manual_seed(uint64_t seed) {
  current() = {};
  current().seed = seed;
}

uint64_t current_seed() { return current().seed; }

RandomKey next_random_key() {
  RandomState& s = current();
  return make_random_key(s.seed, s.purpose, s.step, s.micro_batch, s.ordinal++);
}

}  // namespace lockstep
