#pragma once

#include <cstdint>

#include "lockstep/engine/cpu/isa.h"

namespace lockstep::cpu {

// Whether all of x[0, n) are finite. By the bits: an exponent of ones means NaN or infinity.
struct FiniteKernels {
  bool (*all_finite32)(const uint32_t* x, int64_t n);
  bool (*all_finite64)(const uint64_t* x, int64_t n);
};
LOCKSTEP_ISA_DECLARE(FiniteKernels, finite_kernels)

}  // namespace lockstep::cpu
