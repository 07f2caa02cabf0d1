#pragma once

#include <cstdint>

#include "lockstep/engine/tensor/dtype.h"

namespace lockstep::cpu {

// One product of bfloat16 matrices, stored as in gemm.h; C is dense.
struct Bf16Product {
  bool transpose_a = false, transpose_b = false;
  int64_t m = 0, n = 0, k = 0;
  const BFloat16* a = nullptr;
  int64_t lda = 0;
  const BFloat16* b = nullptr;
  int64_t ldb = 0;
  float* c = nullptr;
};

// Whether this machine multiplies bfloat16 faster than float32 (and LOCKSTEP_ISA allows it).
bool has_bf16_matmul();

// C = op(A) op(B), added up in float32, on oneDNN. The bits do not depend on num_threads().
void bf16_matmul(const Bf16Product& product);

}  // namespace lockstep::cpu
