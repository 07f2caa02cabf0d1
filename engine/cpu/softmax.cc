#include "lockstep/engine/cpu/softmax.h"

#include <algorithm>
#include <type_traits>

#include "lockstep/engine/cpu/softmax_kernels.h"
#include "lockstep/engine/cpu/thread_pool.h"

namespace lockstep::cpu {
namespace {

template <typename T>
const SoftmaxKernelsOf<T>& kernels() {
  if constexpr (std::is_same_v<T, float>) {
    return softmax_kernels().f32;
  } else {
    return softmax_kernels().f64;
  }
}

// Blocks of rows worth a tile. Calls fn(row, offset of the row).
template <typename F>
void for_rows(int64_t rows, int64_t cols, F&& fn) {
  if (cols == 0) {
    return;
  }
  constexpr int64_t kElements = 8192;
  const int64_t block = std::max<int64_t>(1, kElements / cols);
  parallel_for((rows + block - 1) / block, [&](int64_t tile) {
    const int64_t end = std::min(rows, (tile + 1) * block);
    for (int64_t row = tile * block; row < end; ++row) {
      fn(row, row * cols);
    }
  });
}

template <typename T>
T weight_of(const ClassRows<T>& given, int64_t target) {
  return given.weight != nullptr ? given.weight[target] : T{1};
}

}  // namespace

template <typename T>
void log_softmax_forward(int64_t rows, int64_t cols, const T* x, T* y) {
  for_rows(rows, cols, [&](int64_t, int64_t at) { kernels<T>().forward(cols, x + at, y + at); });
}

template <typename T>
void log_softmax_backward(int64_t rows, int64_t cols, const T* gy, const T* y, T* gx) {
  for_rows(rows, cols,
           [&](int64_t, int64_t at) { kernels<T>().backward(cols, gy + at, y + at, gx + at); });
}

template <typename T>
void softmax_forward(int64_t rows, int64_t cols, const T* x, T* y) {
  for_rows(rows, cols, [&](int64_t, int64_t at) { kernels<T>().softmax(cols, x + at, y + at); });
}

template <typename T>
void softmax_backward(int64_t rows, int64_t cols, const T* gy, const T* y, T* gx) {
  for_rows(rows, cols, [&](int64_t, int64_t at) {
    kernels<T>().softmax_backward(cols, gy + at, y + at, gx + at);
  });
}

template <typename T>
void cross_entropy_forward(const ClassRows<T>& given, T* losses, T* log_sums) {
  for_rows(given.rows, given.cols, [&](int64_t row, int64_t at) {
    T* const of_row = log_sums + 2 * row;
    const int64_t target = given.target[row];
    kernels<T>().log_sum(given.cols, given.x + at, of_row);
    losses[row] = target == given.ignore_index ? T{0}
                                               : -((given.x[at + target] - of_row[0]) - of_row[1]) *
                                                     weight_of(given, target);
  });
}

template <typename T>
void cross_entropy_backward(const ClassRows<T>& given, const T* gy, const T* log_sums, T* gx) {
  for_rows(given.rows, given.cols, [&](int64_t row, int64_t at) {
    const int64_t target = given.target[row];
    if (target == given.ignore_index) {
      std::fill_n(gx + at, given.cols, T{0});
      return;
    }
    const T factor = gy[row] * weight_of(given, target);
    kernels<T>().scaled_softmax(given.cols, given.x + at, log_sums + 2 * row, factor, gx + at);
    gx[at + target] -= factor;
  });
}

#define LOCKSTEP_INSTANTIATE(T)                                                 \
  template void log_softmax_forward(int64_t, int64_t, const T*, T*);            \
  template void log_softmax_backward(int64_t, int64_t, const T*, const T*, T*); \
  template void softmax_forward(int64_t, int64_t, const T*, T*);                \
  template void softmax_backward(int64_t, int64_t, const T*, const T*, T*);     \
  template void cross_entropy_forward(const ClassRows<T>&, T*, T*);             \
  template void cross_entropy_backward(const ClassRows<T>&, const T*, const T*, T*);
LOCKSTEP_INSTANTIATE(float)
LOCKSTEP_INSTANTIATE(double)
#undef LOCKSTEP_INSTANTIATE

}  // namespace lockstep::cpu
