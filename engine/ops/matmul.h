#pragma once

#include "lockstep/engine/tensor/tensor.h"

// Operands are numbers of one dtype; bfloat16 and float16 are added up in float32 and rounded once,
// integers wrap.
namespace lockstep {

// PyTorch's matmul: vectors, matrices, and batches of matrices (..., M, K) x (..., K, N) whose
// leading dimensions broadcast.
Tensor matmul(const Tensor& a, const Tensor& b);
// (M, K) x (K, N).
Tensor mm(const Tensor& a, const Tensor& b);
// The sum of a_i b_i of two vectors, and (M, K) x (K).
Tensor dot(const Tensor& a, const Tensor& b);
Tensor mv(const Tensor& a, const Tensor& b);
// (B, M, K) x (B, K, N).
Tensor bmm(const Tensor& a, const Tensor& b);
// beta c + alpha a b: a (M, K), b (K, N), c broadcast to (M, N).
Tensor addmm(const Tensor& c, const Tensor& a, const Tensor& b, double beta = 1, double alpha = 1);
// a_i b_j of two vectors.
Tensor outer(const Tensor& a, const Tensor& b);

}  // namespace lockstep
