#include "lockstep/engine/cuda/low_rank.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "lockstep/engine/cuda/axes.cuh"

// Plain arithmetic in a fixed order, so that ranks get the same bits from the same sums.
namespace lockstep::cuda {
namespace {

template <typename T>
struct Vectors {
  T* data;
  int64_t n;
  int32_t count;
  uint32_t* draws;  // may be null
  RandomRows random;
};

template <typename T>
struct Batch {
  static constexpr size_t kMost = 64;
  Vectors<T> sets[kMost];
};
static_assert(sizeof(Batch<double>) <= 4000);  // kernels take 4 KiB of arguments

template <typename T>
__device__ double dot(const T* a, const T* b, int64_t n) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < n; i += kThreads) {
    sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  }
  return block_sum_for_all(sum);
}

// Takes what the rows before it have in common with row k away from it and gives it the length 1,
// or 0 if nothing is left; returns whether something was. A thread only touches its own elements.
template <typename T>
__device__ bool make_unit(const Vectors<T>& set, int k) {
  const double least = 64.0 * static_cast<double>(std::numeric_limits<T>::epsilon());
  T* const row = set.data + k * set.n;
  const double before = std::sqrt(dot(row, row, set.n));
  for (int pass = 0; pass < 2; ++pass) {
    for (int l = 0; l < k; ++l) {
      const T* const other = set.data + l * set.n;
      const double along = dot(other, row, set.n);
      for (int64_t i = threadIdx.x; i < set.n; i += kThreads) {
        row[i] =
            static_cast<T>(static_cast<double>(row[i]) - along * static_cast<double>(other[i]));
      }
    }
  }
  const double norm = std::sqrt(dot(row, row, set.n));
  const bool useful = norm > least * before && norm <= std::numeric_limits<double>::max();
  for (int64_t i = threadIdx.x; i < set.n; i += kThreads) {
    row[i] = useful ? static_cast<T>(static_cast<double>(row[i]) / norm) : T(0);
  }
  return useful;
}

template <typename T>
__device__ void draw_row(const Vectors<T>& set, uint32_t draw, int k) {
  T* const row = set.data + k * set.n;
  for (int64_t quad = threadIdx.x; 4 * quad < set.n; quad += kThreads) {
    const auto values =
        set.random.four(draw, static_cast<uint32_t>(k), static_cast<uint32_t>(quad));
    for (int j = 0; j < 4; ++j) {
      if (4 * quad + j < set.n) row[4 * quad + j] = static_cast<T>(values[static_cast<size_t>(j)]);
    }
  }
}

// A set to each block.
template <typename T>
__global__ void __launch_bounds__(kThreads) orthonormalize_kernel(const Batch<T> batch) {
  const Vectors<T> set = batch.sets[blockIdx.x];
  bool all_useful = true;
  for (int k = 0; k < set.count; ++k) all_useful = make_unit(set, k) && all_useful;
  if (all_useful || set.draws == nullptr) return;
  const uint32_t draw = *set.draws + 1;
  for (int k = 0; k < set.count; ++k) {
    const T* const row = set.data + k * set.n;
    const bool zero = dot(row, row, set.n) == 0.0;  // behind barriers: all have read *draws
    if (zero) draw_row(set, draw, k);
  }
  if (threadIdx.x == 0) *set.draws = draw;
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    reconstruct_kernel(T* m, T* error, const T* p, const T* q, int64_t rank, int64_t rows,
                       const Divisor columns, T share, const T* count) {
  if (!(*count > T(0))) return;
  const int64_t n = rows * columns.value();
  for (int64_t i = grid_index(); i < n; i += grid_size()) {
    const Split at = split(i, columns);
    T sum = 0;
    for (int64_t k = 0; k < rank; ++k) {
      sum += p[k * rows + at.quotient] * q[k * columns.value() + at.remainder];
    }
    error[i] = m[i] - share * sum;
    m[i] = sum;
  }
}

// As dispatch_floating, for what parameters may be.
template <typename F>
void dispatch_wide(const char* op, DType dtype, F&& fn) {
  if (dtype == DType::kFloat32) return fn(float{});
  if (dtype == DType::kFloat64) return fn(double{});
  no_kernel(op, dtype);
}

template <typename T>
Vectors<T> vectors_of(const VectorSet& set) {
  return {data_of<T>(set.vectors), set.vectors.size(1), static_cast<int32_t>(set.vectors.size(0)),
          data_of<uint32_t>(set.draws), set.random};
}

}  // namespace

void orthonormalize(cudaStream_t stream, std::span<const VectorSet> sets) {
  if (sets.empty()) return;
  dispatch_wide("orthonormalize", sets[0].vectors.dtype(), [&](auto type) {
    using T = decltype(type);
    for (size_t begin = 0; begin < sets.size(); begin += Batch<T>::kMost) {
      const size_t count = std::min(Batch<T>::kMost, sets.size() - begin);
      Batch<T> batch{};
      for (size_t i = 0; i < count; ++i) batch.sets[i] = vectors_of<T>(sets[begin + i]);
      launch(stream, static_cast<int64_t>(count), kThreads, orthonormalize_kernel<T>, batch);
    }
  });
}

void reconstruct(cudaStream_t stream, const Factored& matrix, double share, const Tensor& count) {
  const int64_t n = matrix.m.numel();
  if (n == 0) return;
  dispatch_wide("reconstruct", matrix.m.dtype(), [&](auto type) {
    using T = decltype(type);
    launch(stream, blocks_for(n), kThreads, reconstruct_kernel<T>, data_of<T>(matrix.m),
           data_of<T>(matrix.error), data_of<T>(matrix.p), data_of<T>(matrix.q), matrix.p.size(0),
           matrix.m.size(0), Divisor(matrix.m.size(1)), static_cast<T>(share), data_of<T>(count));
  });
}

}  // namespace lockstep::cuda
