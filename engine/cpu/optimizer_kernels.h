#pragma once

#include "lockstep/engine/backend.h"
#include "lockstep/engine/cpu/isa.h"

namespace lockstep::cpu {

// Elements [begin, end) of one segment. The formulas are those of optim/sgd.h and optim/adam.h.
struct OptimizerKernels {
  void (*sgd)(const OptimizerSegment& segment, int64_t begin, int64_t end, const SgdArgs& args);
  void (*adam)(const OptimizerSegment& segment, int64_t begin, int64_t end, const AdamArgs& args);
};
LOCKSTEP_ISA_DECLARE(OptimizerKernels, optimizer_kernels)

}  // namespace lockstep::cpu
