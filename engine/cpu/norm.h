#pragma once

#include <cstdint>

#include "lockstep/engine/cpu/layout.h"

namespace lockstep::cpu {

// Activations of logical shape (n, c, spatial), with channels second (kNchw) or last (kNhwc).
struct NormShape {
  int64_t n = 0;
  int64_t c = 0;
  int64_t spatial = 1;
  Layout layout = Layout::kNchw;
};

// All of these: float and double; per-channel arrays have c elements; sums over the batch run over
// fixed blocks and a tree, so the bits do not depend on num_threads().

// Mean and biased variance per channel, in two passes. Throws ValueError on an empty batch.
template <typename T>
void batch_statistics(const NormShape& shape, const T* x, T* mean, T* var);

// y = (x - mean) / sqrt(var + eps) * weight + bias. weight and bias may be null (1 and 0), y may
// be x.
template <typename T>
void batch_norm_forward(const NormShape& shape, const T* x, const T* mean, const T* var,
                        const T* weight, const T* bias, double eps, T* y);

// The gradients of x, weight and bias from that of y; each of the three may be null. `batch`: mean
// and var came from x, so gx also flows through them; otherwise they are constants.
template <typename T>
void batch_norm_backward(const NormShape& shape, const T* gy, const T* x, const T* mean,
                         const T* var, const T* weight, double eps, bool batch, T* gx, T* gweight,
                         T* gbias);

}  // namespace lockstep::cpu
