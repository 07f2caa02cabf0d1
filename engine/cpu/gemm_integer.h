#pragma once

#include "lockstep/engine/backend.h"

namespace lockstep::cpu {

// Products of matrices of int64, int32 or uint8, modulo 2^64, 2^32 or 2^8.
void gemm_integer(const GemmCall& call);

}  // namespace lockstep::cpu
