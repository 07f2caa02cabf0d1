#include "lockstep/engine/cuda/softmax.h"

#include "lockstep/engine/cuda/rows.cuh"

// The first pass over a row finds its maximum and its sum at once, the second writes.
namespace lockstep::cuda {
namespace {

template <bool kLogarithm, int kLanes, int kWidth, typename T>
__global__ void __launch_bounds__(kThreads, kRowBlocks)
    forward_kernel(T* y, const T* x, int64_t rows, int64_t cols) {
  using C = Compute<T>;
  for_rows<kLanes>(rows, cols, [&](int64_t row, int64_t n, int64_t lane) {
    const Row<kLanes, kWidth, T> values(x + row * cols, n, lane);
    Exponentials<C> own;
    values.for_packs([&](int64_t, const auto& pack) { own.add(pack); });
    own = joined_over_row<kLanes>(own);
    const C of_row = kLogarithm ? std::log(own.sum) : C(1) / own.sum;
    values.for_packs([&](int64_t p, const auto& pack) {
      store_pack<kWidth>(y + row * cols, p, [&](int64_t, int k) {
        const C centred = static_cast<C>(pack.values[k]) - own.most;
        return kLogarithm ? centred - of_row : std::exp(centred) * of_row;
      });
    });
  });
}

// gx = gy - exp(y) sum(gy) of a logarithm, else y (gy - sum(gy y)).
template <bool kLogarithm, int kLanes, int kWidth, typename T>
__global__ void __launch_bounds__(kThreads, kRowBlocks)
    backward_kernel(T* gx, const T* gy, const T* y, int64_t rows, int64_t cols) {
  using C = Compute<T>;
  for_rows<kLanes>(rows, cols, [&](int64_t row, int64_t n, int64_t lane) {
    const Row<kLanes, kWidth, T> gradients(gy + row * cols, n, lane);
    const Row<kLanes, kWidth, T> values(y + row * cols, n, lane);
    C sum = 0;
    gradients.for_pairs(values, [&](int64_t, const auto& g, const auto& v) {
      C part = 0;
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        const C term = static_cast<C>(g.values[k]);
        part += kLogarithm ? term : term * static_cast<C>(v.values[k]);
      }
      sum += part;
    });
    sum = sum_over_row<kLanes>(sum);
    gradients.for_pairs(values, [&](int64_t p, const auto& g, const auto& v) {
      store_pack<kWidth>(gx + row * cols, p, [&](int64_t, int k) {
        const C gradient = static_cast<C>(g.values[k]), value = static_cast<C>(v.values[k]);
        return kLogarithm ? gradient - std::exp(value) * sum : value * (gradient - sum);
      });
    });
  });
}

int64_t columns_of(const Tensor& x) { return x.dim() > 0 ? x.sizes().back() : 1; }

template <bool kLogarithm>
void forward(const char* op, cudaStream_t stream, const Tensor& y, const Tensor& x) {
  if (x.numel() == 0) return;
  const int64_t cols = columns_of(x), rows = x.numel() / cols;
  dispatch_floating(op, x.dtype(), [&](auto type) {
    using T = decltype(type);
    with_row_shape<T>(
        rows, cols,
        [&](auto lanes, auto width, int64_t blocks) {
          launch(stream, blocks, kThreads, forward_kernel<kLogarithm, lanes(), width(), T>,
                 data_of<T>(y), data_of<T>(x), rows, cols);
        },
        data_of<T>(y), data_of<T>(x));
  });
}

template <bool kLogarithm>
void backward(const char* op, cudaStream_t stream, const Tensor& gx, const Tensor& gy,
              const Tensor& y) {
  if (y.numel() == 0) return;
  const int64_t cols = columns_of(y), rows = y.numel() / cols;
  dispatch_floating(op, y.dtype(), [&](auto type) {
    using T = decltype(type);
    with_row_shape<T>(
        rows, cols,
        [&](auto lanes, auto width, int64_t blocks) {
          launch(stream, blocks, kThreads, backward_kernel<kLogarithm, lanes(), width(), T>,
                 data_of<T>(gx), data_of<T>(gy), data_of<T>(y), rows, cols);
        },
        data_of<T>(gx), data_of<T>(gy), data_of<T>(y));
  });
}

}  // namespace

void log_softmax(cudaStream_t stream, const Tensor& y, const Tensor& x) {
  forward<true>("log_softmax", stream, y, x);
}
void log_softmax_gradient(cudaStream_t stream, const Tensor& gx, const Tensor& gy,
                          const Tensor& y) {
  backward<true>("log_softmax_gradient", stream, gx, gy, y);
}
void softmax(cudaStream_t stream, const Tensor& y, const Tensor& x) {
  forward<false>("softmax", stream, y, x);
}
void softmax_gradient(cudaStream_t stream, const Tensor& gx, const Tensor& gy, const Tensor& y) {
  backward<false>("softmax_gradient", stream, gx, gy, y);
}

}  // namespace lockstep::cuda
