#pragma once

#include <cstdint>
#include <type_traits>

#include "lockstep/engine/tensor/dtype.h"
#include "lockstep/engine/tensor/host_device.h"

namespace lockstep {

// A number of one dtype as another, as PyTorch converts: bool is "not zero", floats lose their
// fraction, what has 16 bits is rounded to nearest even.
template <typename Out, typename In>
LOCKSTEP_HD Out convert(In value) {
  if constexpr (std::is_same_v<In, BFloat16> || std::is_same_v<In, Float16>) {
    return convert<Out>(static_cast<float>(value));
  } else if constexpr (std::is_same_v<Out, BFloat16> || std::is_same_v<Out, Float16>) {
    return Out(static_cast<float>(value));
  } else if constexpr (std::is_same_v<Out, bool>) {
    return value != In(0);
  } else if constexpr (std::is_same_v<Out, uint8_t> && std::is_floating_point_v<In>) {
    return static_cast<uint8_t>(static_cast<int64_t>(value));  // wraps, as integers do
  } else {
    return static_cast<Out>(value);
  }
}

}  // namespace lockstep
