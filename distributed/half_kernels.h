#pragma once

#include <cstdint>

#include "lockstep/engine/cpu/isa.h"

namespace lockstep::cpu {

// Runs of 16-bit floats to float32 and back, rounded to nearest even: what the constructors and
// conversions of BFloat16 and Float16 give, many at a time. Neither side may be part of the other.
struct HalfKernels {
  void (*from_bfloat16)(const uint16_t* from, float* to, int64_t n);
  void (*from_float16)(const uint16_t* from, float* to, int64_t n);
  void (*to_bfloat16)(const float* from, uint16_t* to, int64_t n);
  void (*to_float16)(const float* from, uint16_t* to, int64_t n);
};
LOCKSTEP_ISA_DECLARE(HalfKernels, half_kernels)

}  // namespace lockstep::cpu
