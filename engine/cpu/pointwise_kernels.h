#pragma once

#include "lockstep/engine/cpu/isa.h"
#include "lockstep/engine/ops/pointwise_call.h"

namespace lockstep::cpu {

struct PointwiseKernels {
  // Elements [begin, end) of the call's index space, in the order of call.sizes (innermost last).
  // `begin` and `end` are multiples of the innermost size, or dims is 1.
  void (*run)(PointwiseOp op, const PointwiseCall& call, int64_t begin, int64_t end);
};
LOCKSTEP_ISA_DECLARE(PointwiseKernels, pointwise_kernels)

}  // namespace lockstep::cpu
