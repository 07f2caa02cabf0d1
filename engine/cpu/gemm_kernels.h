#pragma once

#include "lockstep/engine/cpu/gemm.h"
#include "lockstep/engine/cpu/isa.h"

namespace lockstep::cpu {

// One tile in double on the calling thread. `packed` holds k * kDoublePanel elements.
inline constexpr int kDoublePanel = 16;

struct GemmKernels {
  void (*tile)(const GemmArgs<double>& args, double* packed);
};
LOCKSTEP_ISA_DECLARE(GemmKernels, gemm_kernels)

}  // namespace lockstep::cpu
