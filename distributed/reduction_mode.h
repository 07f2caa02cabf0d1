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

ReductionMode parse_reduction_mode(std::string_view name);  // throws ValueError

}  // namespace lockstep::distributed
