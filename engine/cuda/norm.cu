#include "lockstep/engine/cuda/norm.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "lockstep/engine/cuda/division.cuh"
#include "lockstep/engine/cuda/kernel.cuh"
#include "lockstep/engine/cuda/lane_sums.cuh"
#include "lockstep/engine/tensor/error.h"
#include "lockstep/engine/tensor/tensor_impl.h"

// Every channel has count = n * spatial values. A block takes `lanes` neighbouring channels, a
// power of two, and a part of their values: its threads are kThreads / lanes rows of `lanes`. With
// channels last, lanes lie side by side in memory; with channels second a block takes one channel,
// whose values lie in runs.
//
// Sums have two stages: partial sums of the parts, then one block per few channels over the parts.
// Both are a loop and a tree whose shapes depend on the tensor's only.
namespace lockstep::cuda {
namespace {

struct Blocks {
  int64_t channels = 0;
  int64_t spatial = 1;  // 1 with channels last
  int64_t count = 0;
  int lanes = 1;
  int64_t tiles = 0;  // of channels
  int64_t parts = 0;  // of each channel's values
  int64_t per_part = 0;
  Divisor by_spatial, by_tiles;

  __device__ int64_t channel() const {
    int64_t unused;
    return by_tiles.remainder(blockIdx.x, &unused) * lanes + threadIdx.x % lanes;
  }
  __device__ int64_t part() const { return by_tiles.quotient(blockIdx.x); }
  // Where value i of a channel lies.
  __device__ int64_t place(int64_t channel, int64_t i) const {
    if (spatial == 1) return i * channels + channel;
    int64_t image;
    const int64_t pixel = by_spatial.remainder(i, &image);
    return (image * channels + channel) * spatial + pixel;
  }
  // Calls fn(value) for this thread's values of the block's part.
  template <typename F>
  __device__ void for_values(F&& fn) const {
    const int64_t begin = part() * per_part;
    const int64_t end = begin + per_part < count ? begin + per_part : count;
    const int64_t step = kThreads / lanes;
    for (int64_t i = begin + threadIdx.x / lanes; i < end; i += step) fn(i);
  }
  // The same as store(place, value of load(place)), with several loads under way at once: the
  // output may be the input, so the compiler keeps loads behind stores.
  template <typename Load, typename Store>
  __device__ void map_values(int64_t channel, Load&& load, Store&& store) const {
    constexpr int kTogether = 4;
    const int64_t begin = part() * per_part;
    const int64_t end = begin + per_part < count ? begin + per_part : count;
    const int64_t step = kThreads / lanes;
    for (int64_t i = begin + threadIdx.x / lanes; i < end; i += kTogether * step) {
      int64_t at[kTogether];
      decltype(load(int64_t{})) values[kTogether];
      for (int j = 0; j < kTogether; ++j) {
        if (i + j * step >= end) continue;
        at[j] = place(channel, i + j * step);
        values[j] = load(at[j]);
      }
      for (int j = 0; j < kTogether; ++j) {
        if (i + j * step < end) store(at[j], values[j]);
      }
    }
  }
  int64_t blocks() const { return tiles * parts; }
};

// Parts of at least `least` values to each thread, and at most `most_blocks` blocks.
Blocks blocks_of(const Tensor& x, const Tensor& y, int64_t least, int64_t most_blocks) {
  Blocks b;
  b.channels = x.size(1);
  for (int d = 2; d < x.dim(); ++d) b.spatial *= x.sizes()[d];
  b.count = x.size(0) * b.spatial;
  if (x.dim() == 4 && x.is_channels_last() && y.is_channels_last()) b.spatial = 1;
  if (b.spatial == 1) {
    b.lanes = static_cast<int>(std::bit_ceil(std::clamp<uint64_t>(b.channels, 1, kWarp)));
  }
  b.tiles = (b.channels + b.lanes - 1) / b.lanes;
  const int64_t worth = std::max<int64_t>(b.count / (kThreads / b.lanes * least), 1);
  const int64_t parts =
      std::min(worth, std::max(most_blocks / std::max<int64_t>(b.tiles, 1), int64_t{1}));
  b.per_part = std::max<int64_t>((b.count + parts - 1) / parts, 1);
  b.parts = (b.count + b.per_part - 1) / b.per_part;
  b.by_spatial = Divisor(b.spatial);
  b.by_tiles = Divisor(b.tiles);
  return b;
}

// What is summed. Deviations are taken from one of the values themselves, so one pass suffices: for
// pivot p the sum of (x - p)^2 is at most count + 1 times that of (x - mean)^2, which in double
// leaves more digits than float has. (An infinite pivot would turn infinite means into NaN.)
template <typename T>
__device__ double pivot_of(const Blocks& blocks, const T* x, int64_t channel) {
  const auto first = static_cast<double>(x[blocks.place(channel, 0)]);
  return std::isfinite(first) ? first : 0.0;
}

template <typename T>
struct Deviations {
  const T* x;
  __device__ double centre(const Blocks& blocks, int64_t channel) const {
    return pivot_of(blocks, x, channel);
  }
  __device__ void add(Sums* sums, int64_t at, double centre) const {
    const double d = static_cast<double>(x[at]) - centre;
    sums->a += d;
    sums->b += d * d;
  }
};

template <typename T>
struct Gradients {
  const T* gy;
  const T* x;
  const T* mean;
  __device__ double centre(const Blocks&, int64_t channel) const {
    return static_cast<double>(mean[channel]);
  }
  __device__ void add(Sums* sums, int64_t at, double centre) const {
    const auto g = static_cast<double>(gy[at]);
    sums->a += g;
    sums->b += g * (static_cast<double>(x[at]) - centre);
  }
};

// partial: [parts, channels]
template <typename Terms>
__global__ void __launch_bounds__(kThreads)
    sums_kernel(Sums* partial, const Terms terms, const Blocks blocks) {
  const int64_t channel = blocks.channel();
  Sums own;
  if (channel < blocks.channels) {
    const double centre = terms.centre(blocks, channel);
    blocks.for_values([&](int64_t i) { terms.add(&own, blocks.place(channel, i), centre); });
  }
  own = sum_of_lanes(own, blocks.lanes);
  if (static_cast<int>(threadIdx.x) < blocks.lanes && channel < blocks.channels) {
    partial[blocks.part() * blocks.channels + channel] = own;
  }
}

constexpr int kFinishLanes = 8;  // channels of a block in the second stage

template <typename Finish>
__global__ void __launch_bounds__(kThreads)
    finish_kernel(const Sums* partial, const Finish finish, const Blocks blocks) {
  const int64_t channel =
      static_cast<int64_t>(blockIdx.x) * kFinishLanes + threadIdx.x % kFinishLanes;
  Sums own;
  if (channel < blocks.channels && partial) {
    for (int64_t i = threadIdx.x / kFinishLanes; i < blocks.parts; i += kThreads / kFinishLanes) {
      const Sums part = partial[i * blocks.channels + channel];
      own.a += part.a;
      own.b += part.b;
    }
  }
  own = sum_of_lanes(own, kFinishLanes);
  if (threadIdx.x < kFinishLanes && channel < blocks.channels) finish(channel, own);
}

// Per channel what finish(channel, sums) makes of the sums, which are zero where there are no
// terms.
template <typename Terms, typename Finish>
void reduce(cudaStream_t stream, const Tensor& x, const Blocks& blocks, const Terms* terms,
            const Finish& finish) {
  Tensor partial;
  if (terms && blocks.parts > 0) {
    partial = empty_dense({blocks.parts, blocks.channels, 2}, DType::kFloat64, x.device());
    launch(stream, blocks.blocks(), kThreads, sums_kernel<Terms>, data_of<Sums>(partial), *terms,
           blocks);
  }
  launch(stream, (blocks.channels + kFinishLanes - 1) / kFinishLanes, kThreads,
         finish_kernel<Finish>, data_of<Sums>(partial), finish, blocks);
}

constexpr int64_t kSumLeast = 16, kSumBlocks = 512;      // for blocks_of, of sums
constexpr int64_t kMapLeast = 16, kMapBlocks = 1 << 20;  // and of elementwise passes

template <typename T>
struct FinishStatistics {
  T* mean;
  T* var;
  const T* x;
  Blocks blocks;
  __device__ void operator()(int64_t channel, const Sums& sums) const {
    const auto n = static_cast<double>(blocks.count);
    const double shift = sums.a / n;
    const double squares = (sums.b - sums.a * shift) / n;
    mean[channel] = static_cast<T>(pivot_of(blocks, x, channel) + shift);
    var[channel] = static_cast<T>(squares < 0 ? 0 : squares);
  }
};

// gx = ((gy - a) - (x - mean) * b) * scale, with these three of each channel side by side.
template <typename T>
struct FinishGradient {
  T* coefficients;
  T* gweight;
  T* gbias;
  const T* var;
  const T* weight;
  double count;
  T eps;
  bool batch;
  __device__ void operator()(int64_t channel, const Sums& sums) const {
    const T r = T(1) / std::sqrt(var[channel] + eps);
    const auto wide = static_cast<double>(r);
    if (gbias) gbias[channel] = static_cast<T>(sums.a);
    if (gweight) gweight[channel] = static_cast<T>(sums.b * wide);
    T* const out = coefficients + 3 * channel;
    out[0] = batch ? static_cast<T>(sums.a / count) : T(0);
    out[1] = batch ? static_cast<T>(sums.b * wide * wide / count) : T(0);
    out[2] = weight ? weight[channel] * r : r;
  }
};

template <typename T>
__global__ void __launch_bounds__(kThreads)
    normalize_kernel(T* y, const T* x, const T* mean, const T* var, const T* weight, const T* bias,
                     T eps, const Blocks blocks) {
  const int64_t channel = blocks.channel();
  if (channel >= blocks.channels) return;
  const T centre = mean[channel];
  const T scale = (weight ? weight[channel] : T(1)) / std::sqrt(var[channel] + eps);
  const T shift = bias ? bias[channel] : T(0);
  blocks.map_values(
      channel, [&](int64_t at) { return x[at]; },
      [&](int64_t at, T value) { y[at] = (value - centre) * scale + shift; });
}

template <typename T>
struct Pair {
  T gy, x;
};

template <typename T>
__global__ void __launch_bounds__(kThreads)
    input_gradient_kernel(T* gx, const T* gy, const T* x, const T* mean, const T* coefficients,
                          const Blocks blocks) {
  const int64_t channel = blocks.channel();
  if (channel >= blocks.channels) return;
  const T centre = mean[channel];
  const T a = coefficients[3 * channel];
  const T b = coefficients[3 * channel + 1];
  const T scale = coefficients[3 * channel + 2];
  blocks.map_values(
      channel,
      [&](int64_t at) {
        return Pair<T>{gy[at], x[at]};
      },
      [&](int64_t at, const Pair<T>& pair) {
        gx[at] = ((pair.gy - a) - (pair.x - centre) * b) * scale;
      });
}

template <typename F>
void dispatch_wide(const char* op, DType dtype, F&& fn) {
  if (dtype == DType::kFloat32) return fn(float{});
  if (dtype == DType::kFloat64) return fn(double{});
  no_kernel(op, dtype);
}

}  // namespace

void batch_statistics(cudaStream_t stream, const Tensor& mean, const Tensor& var, const Tensor& x) {
  const Blocks blocks = blocks_of(x, x, kSumLeast, kSumBlocks);
  if (blocks.count == 0) {
    throw ValueError("[batch_norm] no statistics of an empty batch, of shape " + x.sizes().str());
  }
  if (blocks.channels == 0) return;
  dispatch_wide("batch_statistics", x.dtype(), [&](auto type) {
    using T = decltype(type);
    const Deviations<T> terms{data_of<T>(x)};
    reduce(stream, x, blocks, &terms,
           FinishStatistics<T>{data_of<T>(mean), data_of<T>(var), data_of<T>(x), blocks});
  });
}

void batch_norm(cudaStream_t stream, const Tensor& y, const Tensor& x, const Tensor& mean,
                const Tensor& var, const Tensor& weight, const Tensor& bias, double eps) {
  if (x.numel() == 0) return;
  const Blocks blocks = blocks_of(x, y, kMapLeast, kMapBlocks);
  dispatch_wide("batch_norm", x.dtype(), [&](auto type) {
    using T = decltype(type);
    launch(stream, blocks.blocks(), kThreads, normalize_kernel<T>, data_of<T>(y), data_of<T>(x),
           data_of<T>(mean), data_of<T>(var), data_of<T>(weight), data_of<T>(bias), eps, blocks);
  });
}

void batch_norm_gradient(cudaStream_t stream, const Tensor& gx, const Tensor& gweight,
                         const Tensor& gbias, const Tensor& gy, const Tensor& x, const Tensor& mean,
                         const Tensor& var, const Tensor& weight, double eps, bool batch) {
  const Blocks blocks = blocks_of(x, gy, kSumLeast, kSumBlocks);
  if (blocks.channels == 0) return;
  const Tensor coefficients = empty_dense({blocks.channels, 3}, x.dtype(), x.device());
  dispatch_wide("batch_norm_gradient", x.dtype(), [&](auto type) {
    using T = decltype(type);
    const Gradients<T> terms{data_of<T>(gy), data_of<T>(x), data_of<T>(mean)};
    const bool needed = batch || gweight.defined() || gbias.defined();
    reduce(stream, x, blocks, needed ? &terms : nullptr,
           FinishGradient<T>{data_of<T>(coefficients), data_of<T>(gweight), data_of<T>(gbias),
                             data_of<T>(var), data_of<T>(weight), static_cast<double>(blocks.count),
                             static_cast<T>(eps), batch});
    if (!gx.defined() || gx.numel() == 0) return;
    const Blocks map = blocks_of(x, gy, kMapLeast, kMapBlocks);
    launch(stream, map.blocks(), kThreads, input_gradient_kernel<T>, data_of<T>(gx), data_of<T>(gy),
           data_of<T>(x), data_of<T>(mean), data_of<T>(coefficients), map);
  });
}

}  // namespace lockstep::cuda
