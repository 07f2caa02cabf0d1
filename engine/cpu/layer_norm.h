#pragma once

#include <cstdint>

// Layer norm and RMS norm of the rows of contiguous matrices, (rows, cols). float and double. Sums
// over the rows run over fixed blocks and a tree, so the bits do not depend on num_threads().
namespace lockstep::cpu {

// y = (x - mean) * rstd * weight + bias, with mean and rstd = 1 / sqrt(variance + eps), `rows` of
// each, as further outputs. mean may be null: it is 0 then. weight and bias have cols elements or
// are null. y may be x.
template <typename T>
void layer_norm_forward(int64_t rows, int64_t cols, const T* x, const T* weight, const T* bias,
                        double eps, T* y, T* mean, T* rstd);

// The gradients of x, weight and bias from that of y; each of the three may be null.
template <typename T>
void layer_norm_backward(int64_t rows, int64_t cols, const T* gy, const T* x, const T* mean,
                         const T* rstd, const T* weight, T* gx, T* gweight, T* gbias);

}  // namespace lockstep::cpu
