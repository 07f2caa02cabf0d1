#pragma once

#include "lockstep/engine/tensor/tensor.h"

// Layers that are one product. As matmul.h's: bfloat16 and float16 are added up in float32.
namespace lockstep {

// x W^T + bias: x (..., in), weight (out, in), bias (out) or undefined. A weight (in) gives (...),
// and then takes no bias.
Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias = {});
// gelu(linear(x, weight, bias), "tanh"), for floating x, in one pass where the backend can: then 16
// bits are rounded once only. PyTorch's _addmm_activation(bias, x, weight.t(), use_gelu=True), with
// a derivative.
Tensor linear_gelu(const Tensor& x, const Tensor& weight, const Tensor& bias = {});

}  // namespace lockstep
