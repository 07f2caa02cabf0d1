#pragma once

#include <cstdint>

// Softmax and its relatives over the rows of contiguous matrices. float and double. The bits do not
// depend on num_threads().
namespace lockstep::cpu {

// Per row of a contiguous rows x cols matrix: y = x - max - log(sum(exp(x - max))). x may be y.
template <typename T>
void log_softmax_forward(int64_t rows, int64_t cols, const T* x, T* y);

// gx = gy - exp(y) * sum(gy), sum per row; y is what forward gave. gx may be gy.
template <typename T>
void log_softmax_backward(int64_t rows, int64_t cols, const T* gy, const T* y, T* gx);

// Per row: y = exp(x - max) / sum(exp(x - max)). x may be y.
template <typename T>
void softmax_forward(int64_t rows, int64_t cols, const T* x, T* y);

// gx = y * (gy - sum(gy * y)), sum per row; y is what forward gave. gx may be gy.
template <typename T>
void softmax_backward(int64_t rows, int64_t cols, const T* gy, const T* y, T* gx);

// Logits and the class of each row.
template <typename T>
struct ClassRows {
  int64_t rows = 0, cols = 0;
  const T* x = nullptr;
  const int64_t* target = nullptr;  // in [0, cols), or ignore_index
  const T* weight = nullptr;        // of each class; may be null
  int64_t ignore_index = 0;
};

// losses[row] = -weight[target] * log_softmax(x)[target], 0 where ignored. log_sums: two numbers
// for each row, max and log(sum(exp(x - max))).
template <typename T>
void cross_entropy_forward(const ClassRows<T>& given, T* losses, T* log_sums);

// gx = gy weight[target] (softmax(x) - one at the target) with gy per row, 0 where ignored.
template <typename T>
void cross_entropy_backward(const ClassRows<T>& given, const T* gy, const T* log_sums, T* gx);

}  // namespace lockstep::cpu
