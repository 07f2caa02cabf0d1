#include "lockstep/engine/cuda/finite.h"

#include "lockstep/engine/cuda/kernel.cuh"

namespace lockstep::cuda {
namespace {

constexpr int64_t kTile = 16 * kThreads;  // elements that a block looks at
constexpr int kTogether = 4;              // of a thread, under way at a time

struct Segment {
  const void* data;
  int64_t count;
};

// Some of the tensors, all of one dtype. Tile t is of segment s for first_tile[s] <= t <
// first_tile[s + 1].
struct Batch {
  static constexpr int kMost = 128;
  int count = 0;
  int first_tile[kMost + 1] = {};
  float* flags[kMost] = {};
  Segment segments[kMost] = {};
};
static_assert(sizeof(Batch) <= 4000);  // kernels take 4 KiB of arguments

// By the bits: an exponent of ones means NaN or infinity.
template <typename Bits>
__device__ bool is_finite(Bits bits) {
  constexpr Bits kInfinity = sizeof(Bits) == 4 ? Bits(0x7f800000u) : Bits(0x7ff0000000000000u);
  constexpr Bits kMagnitude = ~(Bits{1} << (8 * sizeof(Bits) - 1));
  return (bits & kMagnitude) < kInfinity;
}

template <typename Bits>
__global__ void __launch_bounds__(kThreads) flag_kernel(const Batch batch) {
  const int tile = static_cast<int>(blockIdx.x);
  int low = 0, high = batch.count;  // the segment is in [low, high)
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (batch.first_tile[middle] <= tile ? low : high) = middle;
  }
  const Segment segment = batch.segments[low];
  const auto* const bits = static_cast<const Bits*>(segment.data);
  const int64_t begin = (tile - batch.first_tile[low]) * kTile;
  const int64_t end = begin + kTile < segment.count ? begin + kTile : segment.count;
  bool bad = false;
  for (int64_t i = begin + threadIdx.x; i < end; i += kTogether * kThreads) {
    for (int j = 0; j < kTogether; ++j) {
      const int64_t at = i + j * kThreads;
      bad |= at < end && !is_finite(bits[at]);
    }
  }
  // Whichever of a segment's blocks comes first: all write the same.
  if (__syncthreads_or(bad ? 1 : 0) && threadIdx.x == 0) *batch.flags[low] = 1.0f;
}

void issue(cudaStream_t stream, Batch& batch, DType dtype) {
  if (batch.count == 0) return;
  const int tiles = batch.first_tile[batch.count];
  if (dtype == DType::kFloat32) {
    launch(stream, tiles, kThreads, flag_kernel<uint32_t>, batch);
  } else {
    launch(stream, tiles, kThreads, flag_kernel<uint64_t>, batch);
  }
  batch.count = 0;
}

}  // namespace

void flag_non_finite(cudaStream_t stream, const Tensor& flags, std::span<const Tensor> tensors) {
  if (tensors.empty()) return;
  for (const Tensor& t : tensors) {
    if (t.dtype() != DType::kFloat32 && t.dtype() != DType::kFloat64) {
      no_kernel("flag_non_finite", t.dtype());
    }
  }
  float* const first = data_of<float>(flags);
  check_cuda(cudaMemsetAsync(first, 0, tensors.size() * sizeof(float), stream), "memset");
  Batch batch;
  DType dtype = tensors[0].dtype();
  for (size_t i = 0; i < tensors.size(); ++i) {
    const Tensor& t = tensors[i];
    if (t.numel() == 0) continue;
    const int64_t tiles = (t.numel() + kTile - 1) / kTile;
    if (batch.count == Batch::kMost || t.dtype() != dtype ||
        batch.first_tile[batch.count] + tiles > INT32_MAX) {
      issue(stream, batch, dtype);
    }
    dtype = t.dtype();
    batch.flags[batch.count] = first + i;
    batch.segments[batch.count++] = {t.data_ptr(), t.numel()};
    batch.first_tile[batch.count] = static_cast<int>(batch.first_tile[batch.count - 1] + tiles);
  }
  issue(stream, batch, dtype);
}

}  // namespace lockstep::cuda
