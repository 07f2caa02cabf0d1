#pragma once

#include <utility>

#include <fmt/format.h>

#include "lockstep/engine/tensor/device.h"
#include "lockstep/engine/tensor/dims.h"
#include "lockstep/engine/tensor/error.h"

// Sizes and devices as arguments of check(), which become text only when it fails.
template <>
struct fmt::formatter<lockstep::Dims> : fmt::formatter<fmt::string_view> {
  auto format(const lockstep::Dims& dims, format_context& context) const {
    return fmt::formatter<fmt::string_view>::format(dims.str(), context);
  }
};
template <>
struct fmt::formatter<lockstep::Device> : fmt::formatter<fmt::string_view> {
  auto format(lockstep::Device device, format_context& context) const {
    return fmt::formatter<fmt::string_view>::format(device.str(), context);
  }
};

// Internal: formatted argument checks. Kept out of public headers so that users need no fmt.
namespace lockstep {

template <typename Exception = ValueError, typename... Args>
[[noreturn]] void fail(fmt::format_string<Args...> text, Args&&... args) {
  throw Exception(fmt::format(text, std::forward<Args>(args)...));
}

template <typename Exception = ValueError, typename... Args>
inline void check(bool ok, fmt::format_string<Args...> text, Args&&... args) {
  if (!ok) [[unlikely]] {
    fail<Exception>(text, std::forward<Args>(args)...);
  }
}

}  // namespace lockstep
