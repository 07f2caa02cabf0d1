#include "lockstep/engine/cuda/layer_norm.h"

#include <algorithm>

#include "lockstep/engine/cuda/lane_sums.cuh"
#include "lockstep/engine/cuda/rows.cuh"
#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep::cuda {
namespace {

// What a value of the row counts in its mean; a factor, since divisions are calls.
double share_of(int64_t cols) { return 1 / static_cast<double>(cols); }

// One sum over the row of what term(column, value) gives.
template <int kLanes, int kWidth, typename T, typename Term>
__device__ Compute<T> row_sum(const Row<kLanes, kWidth, T>& values, Term&& term) {
  using C = Compute<T>;
  C sum = 0;
  values.for_packs([&](int64_t, const auto& pack) {
    C part = 0;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) part += term(static_cast<C>(pack.values[k]));
    sum += part;
  });
  return sum_over_row<kLanes>(sum);
}

template <int kLanes, int kWidth, typename T>
__global__ void __launch_bounds__(kThreads, kRowBlocks)
    forward_kernel(T* y, Compute<T>* mean, Compute<T>* rstd, const T* x, const Compute<T>* weight,
                   const Compute<T>* bias, Compute<T> eps, Compute<T> share, int64_t rows,
                   int64_t cols) {
  using C = Compute<T>;
  for_rows<kLanes>(rows, cols, [&](int64_t row, int64_t n, int64_t lane) {
    const Row<kLanes, kWidth, T> values(x + row * cols, n, lane);
    const C m = mean ? row_sum(values, [](C value) { return value; }) * share : C(0);
    const C squares = row_sum(values, [&](C value) { return (value - m) * (value - m); });
    const C r = C(1) / std::sqrt(squares * share + eps);
    if (n > 0 && lane == 0) {
      if (mean) mean[row] = m;
      rstd[row] = r;
    }
    values.for_packs([&](int64_t p, const auto& pack) {
      store_pack<kWidth>(y + row * cols, p, [&](int64_t column, int k) {
        C value = (static_cast<C>(pack.values[k]) - m) * r;
        if (weight) value *= weight[column];
        if (bias) value += bias[column];
        return value;
      });
    });
  });
}

// With g = gy weight and s = (x - mean) rstd: gx = (g - mean(g) - s mean(g s)) rstd, without
// mean(g) where the mean is not that of x but 0.
template <int kLanes, int kWidth, typename T>
__global__ void __launch_bounds__(kThreads, kRowBlocks)
    input_gradient_kernel(T* gx, const T* gy, const T* x, const Compute<T>* mean,
                          const Compute<T>* rstd, const Compute<T>* weight, Compute<T> share,
                          int64_t rows, int64_t cols) {
  using C = Compute<T>;
  for_rows<kLanes>(rows, cols, [&](int64_t row, int64_t n, int64_t lane) {
    const Row<kLanes, kWidth, T> gradients(gy + row * cols, n, lane);
    const Row<kLanes, kWidth, T> values(x + row * cols, n, lane);
    const C m = mean ? mean[row] : C(0), r = rstd[row];
    const auto gradient = [&](const auto& pack, int64_t p, int k) {
      const C g = static_cast<C>(pack.values[k]);
      return weight ? g * weight[p * kWidth + k] : g;
    };
    C a = 0, b = 0;
    gradients.for_pairs(values, [&](int64_t p, const auto& g, const auto& v) {
      C part_a = 0, part_b = 0;
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        const C own = gradient(g, p, k);
        part_a += own;
        part_b += own * ((static_cast<C>(v.values[k]) - m) * r);
      }
      a += part_a;
      b += part_b;
    });
    a = mean ? sum_over_row<kLanes>(a) * share : C(0);
    b = sum_over_row<kLanes>(b) * share;
    gradients.for_pairs(values, [&](int64_t p, const auto& g, const auto& v) {
      store_pack<kWidth>(gx + row * cols, p, [&](int64_t, int k) {
        const C s = (static_cast<C>(v.values[k]) - m) * r;
        return ((gradient(g, p, k) - a) - s * b) * r;
      });
    });
  });
}

// The gradients of weight and bias are sums of columns. A block takes kWarp neighbouring columns
// and a part of the rows, kThreads / kWarp at a time; then a second kernel adds up the parts. Both
// are loops and trees whose shapes depend on the matrix's only.
struct Columns {
  int64_t rows = 0, cols = 0;
  int64_t tiles = 0;  // of columns
  int64_t parts = 0;  // of the rows
  int64_t per_part = 0;
};

Columns columns_of(int64_t rows, int64_t cols) {
  constexpr int64_t kLeast = 16 * (kThreads / kWarp), kMostBlocks = 512;
  Columns c{.rows = rows, .cols = cols, .tiles = (cols + kWarp - 1) / kWarp};
  const int64_t worth = std::max<int64_t>(rows / kLeast, 1);
  const int64_t parts = std::min(worth, std::max<int64_t>(kMostBlocks / c.tiles, 1));
  c.per_part = (rows + parts - 1) / parts;
  c.parts = (rows + c.per_part - 1) / c.per_part;
  return c;
}

// partial: [parts, cols], of gy s and of gy
template <typename T>
__global__ void __launch_bounds__(kThreads)
    column_sums_kernel(Sums* partial, const T* gy, const T* x, const Compute<T>* mean,
                       const Compute<T>* rstd, const Columns columns) {
  using C = Compute<T>;
  const int64_t part = blockIdx.x / columns.tiles;
  const int64_t column = blockIdx.x % columns.tiles * kWarp + threadIdx.x % kWarp;
  const int64_t begin = part * columns.per_part;
  const int64_t end =
      begin + columns.per_part < columns.rows ? begin + columns.per_part : columns.rows;
  Sums own;
  if (column < columns.cols) {
    for (int64_t row = begin + threadIdx.x / kWarp; row < end; row += kThreads / kWarp) {
      const C g = static_cast<C>(gy[row * columns.cols + column]);
      const C m = mean ? mean[row] : C(0);
      const C s = (static_cast<C>(x[row * columns.cols + column]) - m) * rstd[row];
      own.a += static_cast<double>(g) * static_cast<double>(s);
      own.b += static_cast<double>(g);
    }
  }
  own = sum_of_lanes(own, kWarp);
  if (threadIdx.x < kWarp && column < columns.cols) partial[part * columns.cols + column] = own;
}

constexpr int kFinishLanes = 8;  // columns of a block in the second stage

template <typename C>
__global__ void __launch_bounds__(kThreads)
    finish_kernel(C* gweight, C* gbias, const Sums* partial, int64_t parts, int64_t cols) {
  const int64_t column =
      static_cast<int64_t>(blockIdx.x) * kFinishLanes + threadIdx.x % kFinishLanes;
  Sums own;
  if (column < cols) {
    for (int64_t i = threadIdx.x / kFinishLanes; i < parts; i += kThreads / kFinishLanes) {
      own.a += partial[i * cols + column].a;
      own.b += partial[i * cols + column].b;
    }
  }
  own = sum_of_lanes(own, kFinishLanes);
  if (threadIdx.x < kFinishLanes && column < cols) {
    if (gweight) gweight[column] = static_cast<C>(own.a);
    if (gbias) gbias[column] = static_cast<C>(own.b);
  }
}

}  // namespace

void layer_norm(cudaStream_t stream, const Tensor& y, const Tensor& mean, const Tensor& rstd,
                const Tensor& x, const Tensor& weight, const Tensor& bias, double eps) {
  if (x.numel() == 0) return;
  const int64_t rows = x.size(0), cols = x.size(1);
  dispatch_floating("layer_norm", x.dtype(), [&](auto type) {
    using T = decltype(type);
    using C = Compute<T>;
    with_row_shape<T>(
        rows, cols,
        [&](auto lanes, auto width, int64_t blocks) {
          launch(stream, blocks, kThreads, forward_kernel<lanes(), width(), T>, data_of<T>(y),
                 data_of<C>(mean), data_of<C>(rstd), data_of<T>(x), data_of<C>(weight),
                 data_of<C>(bias), eps, share_of(cols), rows, cols);
        },
        data_of<T>(y), data_of<T>(x));
  });
}

void layer_norm_gradient(cudaStream_t stream, const Tensor& gx, const Tensor& gweight,
                         const Tensor& gbias, const Tensor& gy, const Tensor& x, const Tensor& mean,
                         const Tensor& rstd, const Tensor& weight) {
  const int64_t rows = x.size(0), cols = x.size(1);
  if (cols == 0) return;
  dispatch_floating("layer_norm_gradient", x.dtype(), [&](auto type) {
    using T = decltype(type);
    using C = Compute<T>;
    if (gx.defined() && rows > 0) {
      with_row_shape<T>(
          rows, cols,
          [&](auto lanes, auto width, int64_t blocks) {
            launch(stream, blocks, kThreads, input_gradient_kernel<lanes(), width(), T>,
                   data_of<T>(gx), data_of<T>(gy), data_of<T>(x), data_of<C>(mean),
                   data_of<C>(rstd), data_of<C>(weight), share_of(cols), rows, cols);
          },
          data_of<T>(gx), data_of<T>(gy), data_of<T>(x));
    }
    if (!gweight.defined() && !gbias.defined()) return;
    Tensor partial;
    Columns columns;
    if (rows > 0) {
      columns = columns_of(rows, cols);
      partial = empty_dense({columns.parts, cols, 2}, DType::kFloat64, x.device());
      launch(stream, columns.tiles * columns.parts, kThreads, column_sums_kernel<T>,
             data_of<Sums>(partial), data_of<T>(gy), data_of<T>(x), data_of<C>(mean),
             data_of<C>(rstd), columns);
    }
    launch(stream, (cols + kFinishLanes - 1) / kFinishLanes, kThreads, finish_kernel<C>,
           data_of<C>(gweight), data_of<C>(gbias), data_of<Sums>(partial), columns.parts, cols);
  });
}

}  // namespace lockstep::cuda
