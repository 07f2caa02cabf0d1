#include "lockstep/data/sampler.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>

#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/random.h"

namespace lockstep::data {
namespace {

// The random words of one epoch's shuffle.
class Words {
 public:
  Words(uint64_t seed, int64_t epoch)
      : key_(make_random_key(seed, RandomPurpose::kShuffle, static_cast<uint32_t>(epoch))) {}

  uint64_t next() {
    if (used_ == words_.size()) {
      const auto block = key_.words(block_);
      if (++block_ == 0) ++key_.ordinal;
      words_ = {uint64_t{block[1]} << 32 | block[0], uint64_t{block[3]} << 32 | block[2]};
      used_ = 0;
    }
    return words_[used_++];
  }

  // Uniform in [0, bound): the high word of a 128-bit product, where the few low words that would
  // favour some results are drawn again (Lemire, "Fast random integer generation in an interval").
  uint64_t below(uint64_t bound) {
    __extension__ using Wide = unsigned __int128;
    Wide product = Wide{next()} * bound;
    if (static_cast<uint64_t>(product) < bound) {
      const uint64_t unfair = (0 - bound) % bound;  // 2^64 mod bound
      while (static_cast<uint64_t>(product) < unfair) product = Wide{next()} * bound;
    }
    return static_cast<uint64_t>(product >> 64);
  }

 private:
  RandomKey key_;
  uint32_t block_ = 0;
  std::array<uint64_t, 2> words_{};
  size_t used_ = 2;
};

}  // namespace

Range share(int64_t total, int64_t part, int64_t parts) {
  check(total >= 0 && parts >= 1 && part >= 0 && part < parts,
        "[share] part {} of {} of {} positions: the part must be in [0, parts)", part, parts,
        total);
  const int64_t length = total / parts;
  const int64_t longer = total % parts;
  const int64_t begin = part * length + std::min(part, longer);
  return {begin, begin + length + (part < longer ? 1 : 0)};
}

Range shards_of(int64_t shards, int rank, int world_size) {
  check(world_size >= 1 && rank >= 0 && rank < world_size && shards >= world_size,
        "[shards_of] {} virtual shards for rank {} of {}: every rank needs one", shards, rank,
        world_size);
  return {shards * rank / world_size, shards * (rank + 1) / world_size};
}

std::vector<int64_t> permutation(int64_t samples, uint64_t seed, int64_t epoch) {
  check(samples >= 0 && epoch >= 0, "[permutation] {} samples in epoch {}: neither may be negative",
        samples, epoch);
  std::vector<int64_t> order(static_cast<size_t>(samples));
  std::iota(order.begin(), order.end(), int64_t{0});
  Words words(seed, epoch);
  for (size_t left = order.size(); left > 1; --left) {  // Fisher-Yates
    std::swap(order[left - 1], order[words.below(left)]);
  }
  return order;
}

Sampler::Sampler(Options options) : options_(options) {
  const auto& o = options_;
  check(o.world_size >= 1 && o.rank >= 0 && o.rank < o.world_size,
        "[sampler] rank {} in a world of {}: the rank must be in [0, world size)", o.rank,
        o.world_size);
  check(o.accumulate >= 1, "[sampler] accumulate is {}, must be at least 1", o.accumulate);
  check(o.global_batch >= 1, "[sampler] the global batch is {}, must be at least 1",
        o.global_batch);
  check(o.virtual_shards >= 0, "[sampler] {} virtual shards", o.virtual_shards);
  if (o.virtual_shards > 0) {
    check(o.virtual_shards >= o.world_size,
          "[sampler] {} virtual shards cannot be spread over {} ranks: every rank needs one",
          o.virtual_shards, o.world_size);
    check(o.global_batch % o.virtual_shards == 0,
          "[sampler] a global batch of {} cannot be cut into {} virtual shards of equal size",
          o.global_batch, o.virtual_shards);
  }
  check(o.virtual_shards > 0 || o.accumulate <= o.global_batch / o.world_size,
        "[sampler] a global batch of {} cannot be cut into {} x {} micro-batches (world size x "
        "accumulate) without leaving one empty; enlarge the global batch or use fewer ranks",
        o.global_batch, o.world_size, o.accumulate);
  check(o.samples >= o.global_batch,
        "[sampler] the dataset has {} samples, less than one global batch of {}; use a smaller "
        "global batch",
        o.samples, o.global_batch);
}

Sampler::StepPlan Sampler::plan(int64_t step) {
  check(step >= 0, "[sampler] step {} is negative", step);
  const int64_t epoch = step / steps_per_epoch();
  const int64_t batch = options_.global_batch;
  if (epoch != epoch_) {
    if (options_.shuffle) {
      order_ = permutation(options_.samples, options_.seed, epoch);
    } else if (order_.empty()) {
      order_.resize(static_cast<size_t>(options_.samples));
      std::iota(order_.begin(), order_.end(), int64_t{0});
    }
    epoch_ = epoch;
  }
  StepPlan plan{step, epoch, batch, {}};
  const bool shards = options_.virtual_shards > 0;
  const int64_t parts =
      shards ? options_.virtual_shards : options_.world_size * options_.accumulate;
  const Range mine = shards ? shards_of(parts, options_.rank, options_.world_size)
                            : Range{options_.rank * options_.accumulate,
                                    (options_.rank + 1) * options_.accumulate};
  const auto start = order_.begin() + (step % steps_per_epoch()) * batch;
  for (int64_t index = mine.begin; index < mine.end; ++index) {
    const Range part = share(batch, index, parts);
    plan.micros.push_back({index, {start + part.begin, start + part.end}});
  }
  return plan;
}

}  // namespace lockstep::data
