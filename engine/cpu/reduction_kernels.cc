#include "lockstep/engine/cpu/reduction_kernels.h"

namespace lockstep::cpu::LOCKSTEP_ISA {
namespace {

constexpr int64_t kLanes = 32;    // independent partial sums
constexpr int64_t kBlock = 1024;  // elements added per lane set before the tree takes over

template <typename Acc>
Acc fold(Acc* lanes) {
  for (int64_t width = kLanes / 2; width > 0; width /= 2) {
    for (int64_t i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  }
  return lanes[0];
}

template <typename T, typename Acc, bool kSquare>
Acc block_sum(const T* x, int64_t n) {
  Acc lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int64_t l = 0; l < kLanes; ++l) {
      const Acc v = static_cast<Acc>(x[i + l]);
      lanes[l] += kSquare ? v * v : v;
    }
  }
  for (int64_t l = 0; i < n; ++i, ++l) {
    const Acc v = static_cast<Acc>(x[i]);
    lanes[l] += kSquare ? v * v : v;
  }
  return fold(lanes);
}

// A binary tree over blocks: the error grows with the logarithm of the length.
template <typename T, typename Acc, bool kSquare>
Acc tree_sum(const T* x, int64_t n) {
  if (n <= kBlock) return block_sum<T, Acc, kSquare>(x, n);
  int64_t half = kBlock;
  while (half * 2 < n) half *= 2;
  return tree_sum<T, Acc, kSquare>(x, half) + tree_sum<T, Acc, kSquare>(x + half, n - half);
}

template <typename T>
T sum(const T* x, int64_t n) {
  return tree_sum<T, T, false>(x, n);
}

template <typename T>
double squares(const T* x, int64_t n) {
  return tree_sum<T, double, true>(x, n);
}

template <typename T>
void columns(T* __restrict out, const T* __restrict x, int64_t rows, int64_t stride, int64_t n) {
  for (int64_t j = 0; j < n; ++j) out[j] = T(0);
  int64_t i = 0;
  for (; i + 4 <= rows; i += 4) {
    const T* r = x + i * stride;
    for (int64_t j = 0; j < n; ++j) {
      out[j] += (r[j] + r[stride + j]) + (r[2 * stride + j] + r[3 * stride + j]);
    }
  }
  for (; i < rows; ++i) {
    for (int64_t j = 0; j < n; ++j) out[j] += x[i * stride + j];
  }
}

}  // namespace

const ReductionKernels& reduction_kernels() {
  static constexpr ReductionKernels kTable{
      .sum_f32 = sum<float>,
      .sum_f64 = sum<double>,
      .sum_i64 = sum<int64_t>,
      .columns_f32 = columns<float>,
      .columns_f64 = columns<double>,
      .columns_i64 = columns<int64_t>,
      .squares_f32 = squares<float>,
      .squares_f64 = squares<double>,
  };
  return kTable;
}

}  // namespace lockstep::cpu::LOCKSTEP_ISA
