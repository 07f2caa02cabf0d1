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

// Blocks of rows worth a tile.
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
      fn(row * cols);
    }
  });
}

}  // namespace

template <typename T>
void log_softmax_forward(int64_t rows, int64_t cols, const T* x, T* y) {
  for_rows(rows, cols, [&](int64_t at) { kernels<T>().forward(cols, x + at, y + at); });
}

template <typename T>
void log_softmax_backward(int64_t rows, int64_t cols, const T* gy, const T* y, T* gx) {
  for_rows(rows, cols, [&](int64_t at) { kernels<T>().backward(cols, gy + at, y + at, gx + at); });
}

template void log_softmax_forward(int64_t, int64_t, const float*, float*);
template void log_softmax_forward(int64_t, int64_t, const double*, double*);
template void log_softmax_backward(int64_t, int64_t, const float*, const float*, float*);
template void log_softmax_backward(int64_t, int64_t, const double*, const double*, double*);

}  // namespace lockstep::cpu
