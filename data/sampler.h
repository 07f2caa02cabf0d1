#pragma once

#include <cstdint>
#include <vector>

namespace lockstep::data {

// A half-open range of positions.
struct Range {
  int64_t begin = 0;
  int64_t end = 0;

  int64_t size() const { return end - begin; }
  friend bool operator==(Range, Range) = default;
};

// The `part`-th of `parts` contiguous parts of `total` positions; the first total % parts of them
// are one longer. Nothing is padded, nothing appears twice.
Range share(int64_t total, int64_t part, int64_t parts);

// The contiguous ones of `shards` virtual shards that fall to `rank`: [rank*S/n, (rank+1)*S/n).
// Throws ValueError unless every rank gets one.
Range shards_of(int64_t shards, int rank, int world_size);

// The order of samples in one epoch: a uniformly random permutation of 0 .. samples-1 that depends
// on seed and epoch only, so that every rank computes the same one.
std::vector<int64_t> permutation(int64_t samples, uint64_t seed, int64_t epoch);

// Says which samples each rank sees in each training step.
//
// Step t of an epoch takes the contiguous samples [t*G, (t+1)*G) of the epoch's permutation; a last
// partial batch is dropped. Those G samples are cut into world_size * accumulate contiguous
// micro-batches (see share()), numbered globally; rank r owns the numbers
// [r * accumulate, (r+1) * accumulate). So the micro-batches and their numbers depend only on the
// product: one rank accumulating 4 sees what 4 ranks see.
//
// With virtual shards the micro-batches are the shards, all of the same size, whatever the number
// of ranks; rank r owns shards_of(r), and `accumulate` has no effect.
class Sampler {
 public:
  struct Options {
    int64_t samples = 0;       // in the dataset
    int64_t global_batch = 0;  // G
    int rank = 0;
    int world_size = 1;
    int64_t accumulate = 1;      // micro-batches per rank and step
    int64_t virtual_shards = 0;  // 0: none
    uint64_t seed = 0;
    bool shuffle = true;
  };
  struct MicroPlan {
    int64_t index = 0;  // global number of the micro-batch in its step
    std::vector<int64_t> samples;
  };
  struct StepPlan {
    int64_t index = 0;  // optimizer step, from 0 over all epochs
    int64_t epoch = 0;  // from 0
    int64_t global_samples = 0;
    std::vector<MicroPlan> micros;
  };

  // Throws ValueError if a micro-batch would be empty (G < world_size * accumulate), the virtual
  // shards do not divide the global batch or are fewer than the ranks, or the dataset holds less
  // than one global batch.
  explicit Sampler(Options options);

  const Options& options() const { return options_; }
  int64_t steps_per_epoch() const { return options_.samples / options_.global_batch; }
  StepPlan plan(int64_t step);  // any order; consecutive steps share the epoch's permutation

 private:
  Options options_;
  int64_t epoch_ = -1;
  std::vector<int64_t> order_;  // of epoch_
};

}  // namespace lockstep::data
