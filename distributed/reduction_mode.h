#pragma once

#include <cstdint>
#include <string_view>

namespace lockstep::distributed {

// What is promised about the bits of a training run.
enum class ReductionMode : uint8_t {
  kFast,        // whatever is quickest
  kRepeatable,  // same binary, same world size: the same bits on every run and every rank
  kBitwise,     // the same bits for any number of ranks and any accumulation split
};

// A mode, and what it needs to know. A mode alone is one, too.
struct ReductionChoice {
  constexpr ReductionChoice(ReductionMode chosen = ReductionMode::kRepeatable, int64_t shards = 16)
      : mode(chosen), virtual_shards(shards) {}
  constexpr operator ReductionMode() const { return mode; }

  ReductionMode mode;
  int64_t virtual_shards;  // kBitwise: of a global batch, a power of two
};

ReductionMode parse_reduction_mode(std::string_view name);  // throws ValueError

}  // namespace lockstep::distributed
