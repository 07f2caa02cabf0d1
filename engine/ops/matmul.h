#pragma once

#include "lockstep/engine/tensor/tensor.h"

namespace lockstep {

// PyTorch's matmul over 1-d and 2-d operands, and batches of matrices (B, M, K) x (B, K, N) or with
// a 2-d right operand.
Tensor matmul(const Tensor& a, const Tensor& b);
// (M, K) x (K, N).
Tensor mm(const Tensor& a, const Tensor& b);
// (B, M, K) x (B, K, N).
Tensor bmm(const Tensor& a, const Tensor& b);
// x W^T + bias: x (..., in), weight (out, in), bias (out) or undefined.
Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias = {});

}  // namespace lockstep
