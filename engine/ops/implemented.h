#pragma once

#include <string_view>

#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/dtype.h"

// Internal: PyTorch's text for an op that has no kernel for a dtype.
namespace lockstep {

[[noreturn]] inline void not_implemented(std::string_view op, DType dtype) {
  fail("\"{}\" not implemented for '{}'", op, type_name(dtype));
}

inline void check_floating(std::string_view op, DType dtype) {
  if (!is_floating(dtype)) [[unlikely]] {
    not_implemented(op, dtype);
  }
}

}  // namespace lockstep
