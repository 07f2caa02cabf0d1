#pragma once

#include <utility>

#include <fmt/format.h>

#include "lockstep/engine/tensor/error.h"

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
