#pragma once

#include "lockstep/engine/backend.h"

namespace lockstep::cpu {

// GemmCall of bfloat16 or float16: operands are exact in float32, which multiplies and adds; the
// result is rounded once.
void gemm_half(const GemmCall& call);

}  // namespace lockstep::cpu
