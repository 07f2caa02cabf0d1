#pragma once

#include <cstdint>

namespace lockstep::cpu {

// How 4-d activations of logical shape (n, c, h, w) lie in memory, contiguous in either case.
enum class Layout : uint8_t { kNchw, kNhwc };

}  // namespace lockstep::cpu
