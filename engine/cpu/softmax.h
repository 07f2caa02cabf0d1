#pragma once

#include <cstdint>

namespace lockstep::cpu {

// Per row of a contiguous rows x cols matrix: y = x - max - log(sum(exp(x - max))). x may be y.
// float and double. The bits do not depend on num_threads().
template <typename T>
void log_softmax_forward(int64_t rows, int64_t cols, const T* x, T* y);

// gx = gy - exp(y) * sum(gy), sum per row; y is what forward gave. gx may be gy.
template <typename T>
void log_softmax_backward(int64_t rows, int64_t cols, const T* gy, const T* y, T* gx);

}  // namespace lockstep::cpu
