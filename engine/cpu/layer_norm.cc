#include "lockstep/engine/cpu/layer_norm.h"

#include <algorithm>
#include <type_traits>

#include "lockstep/engine/cpu/caching_allocator.h"
#include "lockstep/engine/cpu/layer_norm_kernels.h"
#include "lockstep/engine/cpu/thread_pool.h"
#include "lockstep/engine/cpu/tree_sum.h"

namespace lockstep::cpu {
namespace {

template <typename T>
const LayerNormKernelsOf<T>& kernels() {
  if constexpr (std::is_same_v<T, float>) {
    return layer_norm_kernels().f32;
  } else {
    return layer_norm_kernels().f64;
  }
}

// Rows to a block: enough for a tile, and, where each block has `sums` of its own, for these to be
// few beside the values.
int64_t rows_per_block(int64_t cols, bool sums) {
  constexpr int64_t kElements = 16384;
  return std::clamp<int64_t>(kElements / std::max<int64_t>(1, cols), sums ? 16 : 1, 512);
}

}  // namespace

template <typename T>
void layer_norm_forward(int64_t rows, int64_t cols, const T* x, const T* weight, const T* bias,
                        double eps, T* y, T* mean, T* rstd) {
  const int64_t block = rows_per_block(cols, false);
  parallel_for((rows + block - 1) / block, [&](int64_t tile) {
    const int64_t end = std::min(rows, (tile + 1) * block);
    for (int64_t row = tile * block; row < end; ++row) {
      const int64_t at = row * cols;
      kernels<T>().forward(cols, x + at, weight, bias, eps, y + at,
                           mean != nullptr ? mean + row : nullptr, rstd + row);
    }
  });
}

template <typename T>
void layer_norm_backward(int64_t rows, int64_t cols, const T* gy, const T* x, const T* mean,
                         const T* rstd, const T* weight, T* gx, T* gweight, T* gbias) {
  const bool summed = gweight != nullptr || gbias != nullptr;
  const int64_t block = rows_per_block(cols, summed);
  const int64_t blocks = (rows + block - 1) / block;
  // For each block the sums of gweight, if wanted, then those of gbias.
  const int64_t sums = (gweight != nullptr ? cols : 0) + (gbias != nullptr ? cols : 0);
  const Workspace space(std::max<int64_t>(blocks, 1) * sums * sizeof(T));
  T* const partials = space.as<T>();
  if (blocks == 0) {
    std::fill_n(partials, sums, T{0});
  }
  parallel_for(blocks, [&](int64_t tile) {
    T* const own = partials + tile * sums;
    std::fill_n(own, sums, T{0});
    T* const own_weight = gweight != nullptr ? own : nullptr;
    T* const own_bias = gbias != nullptr ? own + sums - cols : nullptr;
    const int64_t end = std::min(rows, (tile + 1) * block);
    for (int64_t row = tile * block; row < end; ++row) {
      const int64_t at = row * cols;
      const T* const of_row = mean != nullptr ? mean + row : nullptr;
      if (summed) {
        kernels<T>().add_sums(cols, gy + at, x + at, of_row, rstd[row], own_weight, own_bias);
      }
      if (gx != nullptr) {
        kernels<T>().input_gradient(cols, gy + at, x + at, of_row, rstd[row], weight, gx + at);
      }
    }
  });
  tree_sum(partials, blocks, sums, sums);
  if (gweight != nullptr) {
    std::copy_n(partials, cols, gweight);
  }
  if (gbias != nullptr) {
    std::copy_n(partials + sums - cols, cols, gbias);
  }
}

#define LOCKSTEP_INSTANTIATE(T)                                                                    \
  template void layer_norm_forward(int64_t, int64_t, const T*, const T*, const T*, double, T*, T*, \
                                   T*);                                                            \
  template void layer_norm_backward(int64_t, int64_t, const T*, const T*, const T*, const T*,      \
                                    const T*, T*, T*, T*);
LOCKSTEP_INSTANTIATE(float)
LOCKSTEP_INSTANTIATE(double)
#undef LOCKSTEP_INSTANTIATE

}  // namespace lockstep::cpu
