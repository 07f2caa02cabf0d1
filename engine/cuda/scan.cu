#include "lockstep/engine/cuda/scan.h"

#include <algorithm>

#include "lockstep/engine/cuda/axes.cuh"
#include "lockstep/engine/tensor/tensor_impl.h"

// Lines are cut into chunks. A first pass finds the total of every chunk; the running sums of these
// totals, found in the same way, are what the chunks after the first start from in the second pass.
// A chunk belongs to a block where lines are contiguous, else to a thread, so that neighbouring
// threads read neighbouring lines.
namespace lockstep::cuda {
namespace {

constexpr int64_t kBlockChunk = 16 * kThreads;
constexpr int64_t kThreadChunk = 256;
constexpr int64_t kShort = 64;             // lines up to here are a thread's, however they lie
constexpr int64_t kManyThreads = 1 << 16;  // as many lines need no chunks

struct Scan {
  Lines lines;
  int64_t chunk;   // their length
  Divisor chunks;  // in a line
  bool reverse;
};

// Where the element that comes k-th in a line lies.
__device__ int64_t place_of(const Scan& s, int64_t start, int64_t k) {
  return start + (s.reverse ? s.lines.length.value() - 1 - k : k) * s.lines.inner.value();
}

// The sum of the chunks before this one: starts[line][chunk] holds running sums.
template <typename S>
__device__ S start_value(const S* starts, int64_t line, int64_t chunk, int64_t chunks) {
  return chunk > 0 ? starts[line * chunks + chunk - 1] : S(0);
}

// With `totals` finds these, [line][chunk]; otherwise running sums.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    scan_by_threads(T* out, const T* in, Sum<T>* totals, const Sum<T>* starts, const Scan s) {
  for (int64_t i = grid_index(); i < s.lines.count.value() * s.chunks.value(); i += grid_size()) {
    const Split at = split(i, s.lines.count);  // lines are the fastest
    const int64_t line = at.remainder, chunk = at.quotient, start = start_of(s.lines, line);
    const int64_t begin = chunk * s.chunk;
    const int64_t left = s.lines.length.value() - begin;
    const int64_t end = begin + (s.chunk < left ? s.chunk : left);
    Sum<T> sum = totals ? Sum<T>(0) : start_value(starts, line, chunk, s.chunks.value());
    for (int64_t k = begin; k < end; ++k) {
      const int64_t place = place_of(s, start, k);
      sum += convert<Sum<T>>(in[place]);
      if (!totals) out[place] = convert<T>(sum);
    }
    if (totals) totals[line * s.chunks.value() + chunk] = sum;
  }
}

// The sum of the values of this thread and those before it in the block; *all is the sum of all.
template <typename S>
__device__ S block_scan(S value, S* all) {
  __shared__ S sums[kThreads / kWarp];
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  for (int delta = 1; delta < kWarp; delta *= 2) {
    const S other = __shfl_up_sync(kAllLanes, value, delta);
    if (lane >= delta) value += other;
  }
  if (lane == kWarp - 1) sums[warp] = value;
  __syncthreads();
  S before = 0, total = 0;
  for (int w = 0; w < kThreads / kWarp; ++w) {
    if (w == warp) before = total;
    total += sums[w];
  }
  __syncthreads();  // `sums` may be written again
  *all = total;
  return before + value;
}

// The same for contiguous lines.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    scan_by_blocks(T* out, const T* in, Sum<T>* totals, const Sum<T>* starts, const Scan s) {
  for (int64_t i = blockIdx.x; i < s.lines.count.value() * s.chunks.value(); i += gridDim.x) {
    const Split at = split(i, s.chunks);
    const int64_t line = at.quotient, chunk = at.remainder, start = start_of(s.lines, line);
    const int64_t begin = chunk * s.chunk;
    const int64_t left = s.lines.length.value() - begin;
    const int64_t end = begin + (s.chunk < left ? s.chunk : left);
    Sum<T> sum = totals ? Sum<T>(0) : start_value(starts, line, chunk, s.chunks.value());
    for (int64_t first = begin; first < end; first += kThreads) {
      const int64_t k = first + threadIdx.x;
      const int64_t place = place_of(s, start, k);
      const Sum<T> value = k < end ? convert<Sum<T>>(in[place]) : Sum<T>(0);
      Sum<T> all;
      const Sum<T> running = block_scan(value, &all);
      if (!totals && k < end) out[place] = convert<T>(sum + running);
      sum += all;
    }
    if (totals && threadIdx.x == 0) totals[line * s.chunks.value() + chunk] = sum;
  }
}

template <typename T>
void scan(cudaStream_t stream, T* out, const T* in, const Lines& lines, bool reverse,
          Device device) {
  using S = Sum<T>;
  const int64_t length = lines.length.value(), count = lines.count.value();
  Scan s{lines, length, {}, reverse};
  const bool by_blocks = lines.inner.value() == 1 && length > kShort;
  if (by_blocks) {
    s.chunk = kBlockChunk;
  } else if (count < kManyThreads && length > 2 * kThreadChunk) {
    s.chunk = kThreadChunk;
  }
  s.chunks = Divisor((length + s.chunk - 1) / s.chunk);
  const auto pass = [&](T* to, S* totals, const S* starts) {
    const int64_t items = count * s.chunks.value();
    if (by_blocks) {
      launch(stream, blocks_for(items, 1), kThreads, scan_by_blocks<T>, to, in, totals, starts, s);
    } else {
      launch(stream, blocks_for(items), kThreads, scan_by_threads<T>, to, in, totals, starts, s);
    }
  };
  if (s.chunks.value() == 1) return pass(out, nullptr, nullptr);
  const Tensor totals = empty_dense({count, s.chunks.value()}, kDTypeOf<S>, device);
  const Tensor starts = empty_dense({count, s.chunks.value()}, kDTypeOf<S>, device);
  pass(nullptr, data_of<S>(totals), nullptr);
  scan<S>(stream, data_of<S>(starts), data_of<S>(totals), Lines(totals, 1), false, device);
  pass(out, nullptr, data_of<S>(starts));
}

template <typename T>
void scan_as(cudaStream_t stream, const Tensor& out, const Tensor& in, int dim, bool reverse) {
  scan<T>(stream, data_of<T>(out), data_of<T>(in), Lines(in, dim), reverse, in.device());
}

}  // namespace

void cumsum_along(cudaStream_t stream, const Tensor& out, const Tensor& in, int dim, bool reverse) {
  if (in.numel() == 0) return;
  switch (in.dtype()) {
    case DType::kFloat32:
      return scan_as<float>(stream, out, in, dim, reverse);
    case DType::kFloat64:
      return scan_as<double>(stream, out, in, dim, reverse);
    case DType::kBFloat16:
      return scan_as<BFloat16>(stream, out, in, dim, reverse);
    case DType::kFloat16:
      return scan_as<Float16>(stream, out, in, dim, reverse);
    case DType::kInt64:
      return scan_as<int64_t>(stream, out, in, dim, reverse);
    default:
      no_kernel("cumsum", in.dtype());
  }
}

}  // namespace lockstep::cuda
