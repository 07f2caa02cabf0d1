#include "lockstep/engine/cpu/norm.h"

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "lockstep/engine/cpu/caching_allocator.h"
#include "lockstep/engine/cpu/norm_kernels.h"
#include "lockstep/engine/cpu/thread_pool.h"
#include "lockstep/engine/cpu/tree_sum.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::cpu {
namespace {

template <typename T>
const NormKernelsOf<T>& kernels() {
  if constexpr (std::is_same_v<T, float>) {
    return norm_kernels().f32;
  } else {
    return norm_kernels().f64;
  }
}

// The batch in blocks of rows (channels last) or images (channels second) that depend on the shape
// only: large enough for a tile, short enough for accurate sums.
template <typename T>
class Blocks {
 public:
  using Block = typename NormKernelsOf<T>::Block;

  explicit Blocks(const NormShape& s)
      : channels_last_(s.layout == Layout::kNhwc || s.spatial == 1),
        rows_(channels_last_ ? s.n * s.spatial : s.n),
        c_(s.c),
        spatial_(channels_last_ ? 1 : s.spatial) {
    constexpr int64_t kElements = 16384;
    per_block_ = std::clamp<int64_t>(kElements / std::max<int64_t>(1, c_ * spatial_), 1, 512);
  }

  int64_t count() const { return (rows_ + per_block_ - 1) / per_block_; }
  int64_t c() const { return c_; }

  // Calls fn(block index, block, offset of its first element), in parallel.
  template <typename F>
  void for_each(F&& fn) const {
    parallel_for(count(), [&](int64_t index) {
      const int64_t first = index * per_block_;
      fn(index, Block{std::min(per_block_, rows_ - first), c_, spatial_, channels_last_},
         first * c_ * spatial_);
    });
  }

 private:
  bool channels_last_;
  int64_t rows_;
  int64_t c_;
  int64_t spatial_;
  int64_t per_block_;
};

// Per-channel sums over all blocks: fn(block, offset, where to put this block's sums), then a tree.
template <typename T, typename F>
void reduce(const Blocks<T>& blocks, int64_t sums, T* out, F&& fn) {
  const Workspace partials(blocks.count() * sums * sizeof(T));
  blocks.for_each([&](int64_t index, const auto& block, int64_t at) {
    fn(block, at, partials.as<T>() + index * sums);
  });
  tree_sum(partials.as<T>(), blocks.count(), sums, sums);
  std::copy_n(partials.as<T>(), sums, out);
}

}  // namespace

template <typename T>
void batch_statistics(const NormShape& shape, const T* x, T* mean, T* var) {
  check(shape.n * shape.spatial > 0,
        "[batch_norm] no statistics of an empty batch (n={}, {} pixels)", shape.n, shape.spatial);
  const Blocks<T> blocks(shape);
  const T count = static_cast<T>(shape.n * shape.spatial);
  reduce(blocks, shape.c, mean,
         [&](const auto& block, int64_t at, T* out) { kernels<T>().sum(block, x + at, out); });
  for (int64_t c = 0; c < shape.c; ++c) {
    mean[c] /= count;
  }
  reduce(blocks, shape.c, var, [&](const auto& block, int64_t at, T* out) {
    kernels<T>().sum_of_squares(block, x + at, mean, out);
  });
  for (int64_t c = 0; c < shape.c; ++c) {
    var[c] /= count;
  }
}

template <typename T>
void batch_norm_forward(const NormShape& shape, const T* x, const T* mean, const T* var,
                        const T* weight, const T* bias, double eps, T* y) {
  const Workspace space(2 * shape.c * sizeof(T));
  T* const scale = space.as<T>();
  T* const shift = scale + shape.c;
  for (int64_t c = 0; c < shape.c; ++c) {
    scale[c] = (weight != nullptr ? weight[c] : T{1}) / std::sqrt(var[c] + static_cast<T>(eps));
    shift[c] = bias != nullptr ? bias[c] : T{0};
  }
  Blocks<T>(shape).for_each([&](int64_t, const auto& block, int64_t at) {
    kernels<T>().normalize(block, x + at, mean, scale, shift, y + at);
  });
}

// With d = x - mean, r = 1 / sqrt(var + eps) and M elements per channel:
//   gbias = sum(gy)    gweight = sum(gy d) r
//   gx = weight r (gy - gbias / M - d r^2 sum(gy d) / M), the last two terms only if `batch`.
template <typename T>
void batch_norm_backward(const NormShape& shape, const T* gy, const T* x, const T* mean,
                         const T* var, const T* weight, double eps, bool batch, T* gx, T* gweight,
                         T* gbias) {
  const Blocks<T> blocks(shape);
  const int64_t channels = shape.c;
  const T count = static_cast<T>(shape.n * shape.spatial);
  const Workspace space(5 * channels * sizeof(T));
  T* const sum_gy = space.as<T>();
  T* const sum_gx = sum_gy + channels;
  T* const scale = sum_gx + channels;
  T* const a = scale + channels;
  T* const b = a + channels;
  if (shape.n * shape.spatial == 0) {
    std::fill_n(sum_gy, 2 * channels, T{0});
  } else if (batch || gweight != nullptr || gbias != nullptr) {
    reduce(blocks, 2 * channels, sum_gy, [&](const auto& block, int64_t at, T* out) {
      kernels<T>().gradient_sums(block, gy + at, x + at, mean, out, out + channels);
    });
  }
  for (int64_t c = 0; c < channels; ++c) {
    const T r = T{1} / std::sqrt(var[c] + static_cast<T>(eps));
    if (gbias != nullptr) {
      gbias[c] = sum_gy[c];
    }
    if (gweight != nullptr) {
      gweight[c] = sum_gx[c] * r;
    }
    scale[c] = weight != nullptr ? weight[c] * r : r;
    a[c] = batch ? sum_gy[c] / count : T{0};
    b[c] = batch ? sum_gx[c] * r * r / count : T{0};
  }
  if (gx != nullptr) {
    blocks.for_each([&](int64_t, const auto& block, int64_t at) {
      kernels<T>().input_gradient(block, gy + at, x + at, mean, scale, a, b, gx + at);
    });
  }
}

#define LOCKSTEP_INSTANTIATE(T)                                                               \
  template void batch_statistics(const NormShape&, const T*, T*, T*);                         \
  template void batch_norm_forward(const NormShape&, const T*, const T*, const T*, const T*,  \
                                   const T*, double, T*);                                     \
  template void batch_norm_backward(const NormShape&, const T*, const T*, const T*, const T*, \
                                    const T*, double, bool, T*, T*, T*);
LOCKSTEP_INSTANTIATE(float)
LOCKSTEP_INSTANTIATE(double)
#undef LOCKSTEP_INSTANTIATE

}  // namespace lockstep::cpu
