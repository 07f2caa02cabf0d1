#include "lockstep/engine/cuda/softmax.h"

#include <cmath>
#include <limits>

#include "lockstep/engine/cuda/kernel.cuh"

// A row belongs to kLanes threads: part of a warp, a warp, or a block. The first pass over a row
// finds its maximum and its sum at once; the second, whose reads mostly hit the cache, writes.
namespace lockstep::cuda {
namespace {

constexpr int kTogether = 4;  // values that a thread loads before it uses the first

// sum of exp(x - most) over some x. Of no x: -inf and 0.
template <typename C>
struct Exponentials {
  C most = -std::numeric_limits<C>::infinity();
  C sum = 0;
};

// Symmetric: all lanes of a butterfly get the same bits.
template <typename C>
__device__ Exponentials<C> joined(const Exponentials<C>& a, const Exponentials<C>& b) {
  Exponentials<C> all;
  all.most = a.most > b.most ? a.most : b.most;
  all.sum = (a.most == all.most ? a.sum : a.sum * std::exp(a.most - all.most)) +
            (b.most == all.most ? b.sum : b.sum * std::exp(b.most - all.most));
  return all;
}

template <int kLanes, typename C>
__device__ Exponentials<C> joined_over_row(Exponentials<C> own) {
  for (int delta = (kLanes < kWarp ? kLanes : kWarp) / 2; delta > 0; delta /= 2) {
    const Exponentials<C> other{__shfl_xor_sync(kAllLanes, own.most, delta),
                                __shfl_xor_sync(kAllLanes, own.sum, delta)};
    own = joined(own, other);
  }
  if constexpr (kLanes == kThreads) {
    constexpr int kWarps = kThreads / kWarp;
    __shared__ C most[kWarps], sum[kWarps];
    const int warp = static_cast<int>(threadIdx.x) / kWarp;
    if (threadIdx.x % kWarp == 0) {
      most[warp] = own.most;
      sum[warp] = own.sum;
    }
    __syncthreads();
    own = {most[0], sum[0]};
    for (int i = 1; i < kWarps; ++i) own = joined(own, Exponentials<C>{most[i], sum[i]});
    __syncthreads();  // they may be written again
  }
  return own;
}

template <int kLanes, typename C>
__device__ C sum_over_row(C value) {
  if constexpr (kLanes == kThreads) {
    return block_sum_for_all(value);
  } else {
    for (int delta = kLanes / 2; delta > 0; delta /= 2) {
      value += __shfl_xor_sync(kAllLanes, value, delta);
    }
    return value;
  }
}

// Calls fn(offset of the row, columns, first column of this thread); with no columns where the
// block's last rows are missing, since all threads have to take part in the sums.
template <int kLanes, typename F>
__device__ void for_rows(int64_t rows, int64_t cols, F&& fn) {
  constexpr int kRows = kThreads / kLanes;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * kRows; first < rows;
       first += static_cast<int64_t>(gridDim.x) * kRows) {
    const int64_t row = first + threadIdx.x / kLanes;
    fn(row * cols, row < rows ? cols : 0, static_cast<int64_t>(threadIdx.x % kLanes));
  }
}

template <int kLanes, typename T>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(T* y, const T* x, int64_t rows, int64_t cols) {
  using C = Compute<T>;
  constexpr C kLowest = -std::numeric_limits<C>::infinity();
  for_rows<kLanes>(rows, cols, [&](int64_t at, int64_t n, int64_t lane) {
    Exponentials<C> own;
    for (int64_t c = lane; c < n; c += kTogether * kLanes) {
      C values[kTogether];
      C most = own.most;
      for (int j = 0; j < kTogether; ++j) {
        const int64_t column = c + j * kLanes;
        values[j] = column < n ? static_cast<C>(x[at + column]) : kLowest;
        most = values[j] > most ? values[j] : most;
      }
      if (most > own.most) own.sum *= std::exp(own.most - most);
      own.most = most;
      // -inf counts nothing; without the question a first one would, as exp(-inf - -inf).
      for (int j = 0; j < kTogether; ++j) {
        own.sum += values[j] == kLowest ? C(0) : std::exp(values[j] - most);
      }
    }
    own = joined_over_row<kLanes>(own);
    const C log_sum = std::log(own.sum);
    for (int64_t c = lane; c < n; c += kLanes) {
      y[at + c] = T((static_cast<C>(x[at + c]) - own.most) - log_sum);
    }
  });
}

template <int kLanes, typename T>
__global__ void __launch_bounds__(kThreads)
    backward_kernel(T* gx, const T* gy, const T* y, int64_t rows, int64_t cols) {
  using C = Compute<T>;
  for_rows<kLanes>(rows, cols, [&](int64_t at, int64_t n, int64_t lane) {
    C sums[kTogether] = {};
    for (int64_t c = lane; c < n; c += kTogether * kLanes) {
      for (int j = 0; j < kTogether; ++j) {
        const int64_t column = c + j * kLanes;
        if (column < n) sums[j] += static_cast<C>(gy[at + column]);
      }
    }
    const C sum = sum_over_row<kLanes>((sums[0] + sums[1]) + (sums[2] + sums[3]));
    for (int64_t c = lane; c < n; c += kLanes) {
      gx[at + c] = T(static_cast<C>(gy[at + c]) - std::exp(static_cast<C>(y[at + c])) * sum);
    }
  });
}

// Calls fn(lanes for a row of this length), an integral constant.
template <typename F>
void with_lanes(int64_t cols, F&& fn) {
  if (cols <= 32) {
    fn(std::integral_constant<int, 8>{});
  } else if (cols <= 1024) {
    fn(std::integral_constant<int, kWarp>{});
  } else {
    fn(std::integral_constant<int, kThreads>{});
  }
}

int64_t columns_of(const Tensor& x) { return x.dim() > 0 ? x.sizes().back() : 1; }

}  // namespace

void log_softmax(cudaStream_t stream, const Tensor& y, const Tensor& x) {
  if (x.numel() == 0) return;
  const int64_t cols = columns_of(x), rows = x.numel() / cols;
  dispatch_floating("log_softmax", x.dtype(), [&](auto type) {
    using T = decltype(type);
    with_lanes(cols, [&](auto lanes) {
      launch(stream, blocks_for(rows, kThreads / lanes()), kThreads, forward_kernel<lanes(), T>,
             data_of<T>(y), data_of<T>(x), rows, cols);
    });
  });
}

void log_softmax_gradient(cudaStream_t stream, const Tensor& gx, const Tensor& gy,
                          const Tensor& y) {
  if (y.numel() == 0) return;
  const int64_t cols = columns_of(y), rows = y.numel() / cols;
  dispatch_floating("log_softmax_gradient", y.dtype(), [&](auto type) {
    using T = decltype(type);
    with_lanes(cols, [&](auto lanes) {
      launch(stream, blocks_for(rows, kThreads / lanes()), kThreads, backward_kernel<lanes(), T>,
             data_of<T>(gx), data_of<T>(gy), data_of<T>(y), rows, cols);
    });
  });
}

}  // namespace lockstep::cuda
