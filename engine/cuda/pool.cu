#include "lockstep/engine/cuda/pool.h"

#include <cstdint>
#include <limits>

#include "lockstep/engine/cuda/division.cuh"
#include "lockstep/engine/cuda/kernel.cuh"
#include "lockstep/engine/tensor/error.h"

namespace lockstep::cuda {
namespace {

// One dimension of the windows.
struct Axis {
  int64_t size = 0, out = 0;
  int64_t kernel = 1, stride = 1, pad = 0, dilation = 1;
  Divisor by_stride{stride}, by_dilation{dilation};

  // Of window `o`, what lies in the input: from begin in steps of the dilation up to end; `padded`
  // is how many places an average that counts padding divides by.
  struct Window {
    int64_t begin, end, padded;
  };
  __device__ Window window(int64_t o) const {
    int64_t begin = o * stride - pad;
    const int64_t end = begin + (kernel - 1) * dilation + 1;
    const int64_t padded = (end < size + pad ? end : size + pad) - begin;
    if (begin < 0) begin += by_dilation.quotient(dilation - 1 - begin) * dilation;
    return {begin, end < size ? end : size, padded};
  }

  // The windows that may hold input `i` are first..last, and those of them that do, hit() it.
  __device__ int64_t first(int64_t i) const {
    const int64_t behind = i + pad - (kernel - 1) * dilation;
    return behind <= 0 ? 0 : by_stride.quotient(behind + stride - 1);
  }
  __device__ int64_t last(int64_t i) const {
    const int64_t window = by_stride.quotient(i + pad);
    return window < out ? window : out - 1;
  }
  __device__ bool hit(int64_t window, int64_t i) const {
    if (dilation == 1) return true;
    int64_t unused;
    return by_dilation.remainder(i + pad - window * stride, &unused) == 0;
  }
};

struct Place {
  int64_t image, h, w, channel;
};

// Images of h rows of w pixels with all their channels.
struct Grid {
  int64_t count = 0;
  Divisor by_h, by_w, by_channels;

  Grid(int64_t images, int64_t h, int64_t w, int64_t channels)
      : count(images * h * w * channels), by_h(h), by_w(w), by_channels(channels) {}
  __device__ Place place(int64_t i) const {
    Place p;
    int64_t rest;
    p.channel = by_channels.remainder(i, &rest);
    p.w = by_w.remainder(rest, &rest);
    p.h = by_h.remainder(rest, &p.image);
    return p;
  }
};

// Channels last; planes of contiguous tensors count as images of one channel.
struct Pool {
  int64_t images, channels;
  Axis h, w;
  bool count_padding;
  Grid in{images, h.size, w.size, channels}, out{images, h.out, w.out, channels};
};

Pool pool_of(const Tensor& x, const Tensor& y, const Pool2dParams& params, bool dilated) {
  const auto axis = [&](int d) {
    return Axis{x.size(2 + d),    y.size(2 + d),     params.kernel[d],
                params.stride[d], params.padding[d], dilated ? params.dilation[d] : 1};
  };
  const bool last = x.is_channels_last() && y.is_channels_last();
  const int64_t n = x.size(0), c = x.size(1);
  Pool p{last ? n : n * c, last ? c : 1, axis(0), axis(1), params.count_include_pad};
  if (p.h.size * p.w.size > INT32_MAX) {
    throw ValueError("[pool2d] planes are too large for 32-bit indices: input of shape " +
                     x.sizes().str());
  }
  return p;
}

// The first of equals, but the last NaN, before everything.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    max_kernel(T* y, int32_t* indices, const T* x, const Pool pool, int64_t outputs) {
  using C = Compute<T>;
  for (int64_t i = grid_index(); i < outputs; i += grid_size()) {
    const Place at = pool.out.place(i);
    const Axis::Window rows = pool.h.window(at.h), columns = pool.w.window(at.w);
    const T* plane = x + at.image * pool.h.size * pool.w.size * pool.channels + at.channel;
    C best = -std::numeric_limits<C>::infinity();
    int64_t index = rows.begin * pool.w.size + columns.begin;
    for (int64_t h = rows.begin; h < rows.end; h += pool.h.dilation) {
      for (int64_t w = columns.begin; w < columns.end; w += pool.w.dilation) {
        const int64_t here = h * pool.w.size + w;
        const auto value = static_cast<C>(plane[here * pool.channels]);
        if (value > best || value != value) {
          best = value;
          index = here;
        }
      }
    }
    y[i] = T(best);
    indices[i] = static_cast<int32_t>(index);
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    max_gradient_kernel(T* gx, const T* gy, const int32_t* indices, const Pool pool,
                        int64_t inputs) {
  using C = Compute<T>;
  for (int64_t i = grid_index(); i < inputs; i += grid_size()) {
    const Place at = pool.in.place(i);
    const auto here = static_cast<int32_t>(at.h * pool.w.size + at.w);
    const int64_t plane = at.image * pool.h.out * pool.w.out;
    const int64_t first = pool.w.first(at.w), last = pool.w.last(at.w);
    C sum = 0;
    for (int64_t h = pool.h.first(at.h); h <= pool.h.last(at.h); ++h) {
      if (!pool.h.hit(h, at.h)) continue;
#pragma unroll 1  // an input has few windows
      for (int64_t w = first; w <= last; ++w) {
        const int64_t from = (plane + h * pool.w.out + w) * pool.channels + at.channel;
        if (indices[from] == here && pool.w.hit(w, at.w)) sum += static_cast<C>(gy[from]);
      }
    }
    gx[i] = T(sum);
  }
}

template <typename C>
__device__ C divisor(const Pool& pool, const Axis::Window& rows, const Axis::Window& columns) {
  return static_cast<C>(pool.count_padding
                            ? rows.padded * columns.padded
                            : (rows.end - rows.begin) * (columns.end - columns.begin));
}

// Row by row, which keeps sums of large windows accurate.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    avg_kernel(T* y, const T* x, const Pool pool, int64_t outputs) {
  using C = Compute<T>;
  for (int64_t i = grid_index(); i < outputs; i += grid_size()) {
    const Place at = pool.out.place(i);
    const Axis::Window rows = pool.h.window(at.h), columns = pool.w.window(at.w);
    const T* plane = x + at.image * pool.h.size * pool.w.size * pool.channels + at.channel;
    C sum = 0;
    for (int64_t h = rows.begin; h < rows.end; ++h) {
      C row = 0;
      for (int64_t w = columns.begin; w < columns.end; ++w) {
        row += static_cast<C>(plane[(h * pool.w.size + w) * pool.channels]);
      }
      sum += row;
    }
    const bool empty = rows.begin >= rows.end || columns.begin >= columns.end;
    y[i] = T(empty ? C(0) : sum / divisor<C>(pool, rows, columns));
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    avg_gradient_kernel(T* gx, const T* gy, const Pool pool, int64_t inputs) {
  using C = Compute<T>;
  for (int64_t i = grid_index(); i < inputs; i += grid_size()) {
    const Place at = pool.in.place(i);
    const int64_t plane = at.image * pool.h.out * pool.w.out;
    const int64_t first = pool.w.first(at.w), last = pool.w.last(at.w);
    C sum = 0;
    for (int64_t h = pool.h.first(at.h); h <= pool.h.last(at.h); ++h) {
      const Axis::Window rows = pool.h.window(h);
#pragma unroll 1  // an input has few windows
      for (int64_t w = first; w <= last; ++w) {
        const int64_t from = (plane + h * pool.w.out + w) * pool.channels + at.channel;
        sum += static_cast<C>(gy[from]) / divisor<C>(pool, rows, pool.w.window(w));
      }
    }
    gx[i] = T(sum);
  }
}

}  // namespace

void max_pool2d(cudaStream_t stream, const Tensor& y, const Tensor& indices, const Tensor& x,
                const Pool2dParams& params) {
  const Pool pool = pool_of(x, y, params, true);
  const int64_t n = pool.out.count;
  if (n == 0) return;
  dispatch_floating("max_pool2d", x.dtype(), [&](auto type) {
    using T = decltype(type);
    launch(stream, blocks_for(n), kThreads, max_kernel<T>, data_of<T>(y), indices.data<int32_t>(),
           data_of<T>(x), pool, n);
  });
}

void max_pool2d_gradient(cudaStream_t stream, const Tensor& gx, const Tensor& gy,
                         const Tensor& indices, const Pool2dParams& params) {
  const Pool pool = pool_of(gx, gy, params, true);
  const int64_t n = pool.in.count;
  if (n == 0) return;
  dispatch_floating("max_pool2d_gradient", gx.dtype(), [&](auto type) {
    using T = decltype(type);
    launch(stream, blocks_for(n), kThreads, max_gradient_kernel<T>, data_of<T>(gx), data_of<T>(gy),
           indices.data<int32_t>(), pool, n);
  });
}

void avg_pool2d(cudaStream_t stream, const Tensor& y, const Tensor& x, const Pool2dParams& params) {
  const Pool pool = pool_of(x, y, params, false);
  const int64_t n = pool.out.count;
  if (n == 0) return;
  dispatch_floating("avg_pool2d", x.dtype(), [&](auto type) {
    using T = decltype(type);
    launch(stream, blocks_for(n), kThreads, avg_kernel<T>, data_of<T>(y), data_of<T>(x), pool, n);
  });
}

void avg_pool2d_gradient(cudaStream_t stream, const Tensor& gx, const Tensor& gy,
                         const Pool2dParams& params) {
  const Pool pool = pool_of(gx, gy, params, false);
  const int64_t n = pool.in.count;
  if (n == 0) return;
  dispatch_floating("avg_pool2d_gradient", gx.dtype(), [&](auto type) {
    using T = decltype(type);
    launch(stream, blocks_for(n), kThreads, avg_gradient_kernel<T>, data_of<T>(gx), data_of<T>(gy),
           pool, n);
  });
}

}  // namespace lockstep::cuda
