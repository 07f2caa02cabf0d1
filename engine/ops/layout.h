#pragma once

#include "lockstep/engine/tensor/tensor.h"

// Internal: the memory format of 4-d activations. Where the backend prefers it, convolutions turn
// what they get into channels-last and everything after them keeps that, so that a chain of layers
// converts once at its start; sizes and indices stay (N, C, H, W) throughout.
namespace lockstep {

// `x` dense in the layout that convolutions want; differentiable.
Tensor activation_layout(const Tensor& x);
// `x` dense in whichever layout it already has, contiguous if it is neither.
Tensor any_dense_layout(const Tensor& x);
// `x` in the dense layout that `other` has.
Tensor like_layout(const Tensor& x, const Tensor& other);
// Uninitialised, in the dense layout that `other` has.
Tensor empty_in_layout_of(const Tensor& other, const Dims& sizes);

}  // namespace lockstep
