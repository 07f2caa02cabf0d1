#include "lockstep/engine/cuda/optimizer.h"

#include <algorithm>

#include "lockstep/engine/cuda/kernel.cuh"
#include "lockstep/engine/optimizer_math.h"
#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep::cuda {
namespace {

constexpr int kTogether = 4;  // elements that a thread loads before it uses the first
constexpr int64_t kStepTile = kThreads * kTogether * 4;
constexpr int64_t kSquaresTile = kThreads * kTogether * 16;

// Segments of one dtype, handed over with the launch, and their tiles: those of segment i are
// first_tile[i] .. first_tile[i + 1].
struct Batch {
  static constexpr int kMost = 64;
  OptimizerSegment segments[kMost];
  int first_tile[kMost + 1];
  int count;
};

// The elements of a segment that a block works on.
struct Part {
  int segment;
  int64_t begin, end;
};
__device__ Part part_of(const Batch& batch, int64_t tile_size) {
  const int tile = static_cast<int>(blockIdx.x);
  int low = 0, high = batch.count;  // first_tile[low] <= tile < first_tile[high]
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (batch.first_tile[middle] <= tile ? low : high) = middle;
  }
  const int64_t begin = (tile - batch.first_tile[low]) * tile_size;
  const int64_t end = begin + tile_size, count = batch.segments[low].count;
  return {low, begin, end < count ? end : count};
}

template <int kStates, typename T, typename Math>
__device__ void step_part(const OptimizerSegment& s, const Part& part, const Math& math) {
  T* __restrict__ const param = static_cast<T*>(s.param);
  const T* __restrict__ const grad = static_cast<const T*>(s.grad);
  T* const state[3] = {static_cast<T*>(s.state[0]), static_cast<T*>(s.state[1]),
                       static_cast<T*>(s.state[2])};
  for (int64_t i = part.begin + threadIdx.x; i < part.end; i += kTogether * kThreads) {
    T p[kTogether], g[kTogether], b[3][kTogether];
    for (int j = 0; j < kTogether; ++j) {
      const int64_t at = i + j * kThreads;
      if (at >= part.end) continue;
      p[j] = param[at];
      g[j] = grad[at];
      for (int k = 0; k < kStates; ++k) b[k][j] = state[k][at];
    }
    for (int j = 0; j < kTogether; ++j) {
      const int64_t at = i + j * kThreads;
      if (at >= part.end) continue;
      if constexpr (kStates == 0) math.step(p[j], g[j]);
      if constexpr (kStates == 1) math.step(p[j], g[j], b[0][j]);
      if constexpr (kStates == 2) math.step(p[j], g[j], b[0][j], b[1][j]);
      if constexpr (kStates == 3) math.step(p[j], g[j], b[0][j], b[1][j], b[2][j]);
      param[at] = p[j];
      for (int k = 0; k < kStates; ++k) state[k][at] = b[k][j];
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads) sgd_kernel(const Batch batch, const SgdMath<T> given,
                                                       const SgdMath<T>* slot, const float* skip) {
  if (skip && *skip != 0.0f) return;
  const SgdMath<T> math = slot ? *slot : given;
  const Part part = part_of(batch, kStepTile);
  const OptimizerSegment s = batch.segments[part.segment];
  if (s.state[0]) {
    step_part<1, T>(s, part, math);
  } else {
    step_part<0, T>(s, part, math);
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    adam_kernel(const Batch batch, const AdamMath<T> given, const AdamMath<T>* slot,
                const float* skip) {
  if (skip && *skip != 0.0f) return;
  const AdamMath<T> math = slot ? *slot : given;
  const Part part = part_of(batch, kStepTile);
  const OptimizerSegment s = batch.segments[part.segment];
  if (s.state[2]) {
    step_part<3, T>(s, part, math);
  } else {
    step_part<2, T>(s, part, math);
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads) squares_kernel(const Batch batch, double* partial) {
  const Part part = part_of(batch, kSquaresTile);
  const T* const grad = static_cast<const T*>(batch.segments[part.segment].grad);
  double sums[kTogether] = {};
  for (int64_t i = part.begin + threadIdx.x; i < part.end; i += kTogether * kThreads) {
    for (int j = 0; j < kTogether; ++j) {
      const int64_t at = i + j * kThreads;
      const double g = at < part.end ? static_cast<double>(grad[at]) : 0.0;
      sums[j] += g * g;
    }
  }
  const double sum = block_sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// One block: the sum of n numbers.
__global__ void __launch_bounds__(kThreads)
    total_kernel(double* total, const double* partial, int64_t n) {
  double sums[kTogether] = {};
  for (int64_t i = threadIdx.x; i < n; i += kTogether * kThreads) {
    for (int j = 0; j < kTogether; ++j) {
      if (i + j * kThreads < n) sums[j] += partial[i + j * kThreads];
    }
  }
  const double sum = block_sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
  if (threadIdx.x == 0) *total = sum;
}

template <typename Math, typename T>
const Math* slot_of(MathSlots slots) {
  return static_cast<const Math*>(std::is_same_v<T, float> ? slots.of_float : slots.of_double);
}

int64_t tiles_of(const OptimizerSegment& s, int64_t tile) { return (s.count + tile - 1) / tile; }

// Calls fn(batch, its tiles, a zero of its dtype) for all segments that are not empty, in their
// order.
template <typename F>
void for_batches(const char* op, std::span<const OptimizerSegment> segments, int64_t tile, F&& fn) {
  constexpr int64_t kMostTiles = INT32_MAX;
  Batch batch{};
  const auto issue = [&] {
    if (batch.count == 0) return;
    const int tiles = batch.first_tile[batch.count];
    if (batch.segments[0].dtype == DType::kFloat32) {
      fn(batch, tiles, float{});
    } else {
      fn(batch, tiles, double{});
    }
    batch.count = 0;
  };
  for (const auto& s : segments) {
    if (s.dtype != DType::kFloat32 && s.dtype != DType::kFloat64) no_kernel(op, s.dtype);
  }
  for (const auto& s : segments) {
    const int64_t tiles = tiles_of(s, tile);
    if (tiles == 0) continue;
    if (batch.count == Batch::kMost ||
        (batch.count > 0 && (batch.segments[0].dtype != s.dtype ||
                             batch.first_tile[batch.count] + tiles > kMostTiles))) {
      issue();
    }
    batch.segments[batch.count++] = s;
    batch.first_tile[batch.count] = static_cast<int>(batch.first_tile[batch.count - 1] + tiles);
  }
  issue();
}

// Every kernel's arguments fit into the 4 KiB that any device takes.
static_assert(sizeof(Batch) + sizeof(AdamMath<double>) + 2 * sizeof(void*) <= 4096);

}  // namespace

void sgd_step(cudaStream_t stream, std::span<const OptimizerSegment> segments, const SgdArgs& args,
              MathSlots slots) {
  for_batches("sgd", segments, kStepTile, [&](const Batch& batch, int64_t tiles, auto type) {
    using T = decltype(type);
    launch(stream, tiles, kThreads, sgd_kernel<T>, batch, SgdMath<T>(args),
           slot_of<SgdMath<T>, T>(slots), slots.skip);
  });
}

void adam_step(cudaStream_t stream, std::span<const OptimizerSegment> segments,
               const AdamArgs& args, MathSlots slots) {
  for_batches("adam", segments, kStepTile, [&](const Batch& batch, int64_t tiles, auto type) {
    using T = decltype(type);
    launch(stream, tiles, kThreads, adam_kernel<T>, batch, AdamMath<T>(args),
           slot_of<AdamMath<T>, T>(slots), slots.skip);
  });
}

double sum_of_squares(cudaStream_t stream, Device device,
                      std::span<const OptimizerSegment> segments) {
  int64_t all = 0;
  for (const auto& s : segments) all += tiles_of(s, kSquaresTile);
  const Tensor partial = empty_dense({all + 1}, DType::kFloat64, device);
  double* const total = data_of<double>(partial);
  double* next = total + 1;
  for_batches("sum_of_squares", segments, kSquaresTile,
              [&](const Batch& batch, int64_t tiles, auto type) {
                launch(stream, tiles, kThreads, squares_kernel<decltype(type)>, batch, next);
                next += tiles;
              });
  launch(stream, 1, kThreads, total_kernel, total, total + 1, all);
  double result = 0;
  check_cuda(cudaMemcpyAsync(&result, total, sizeof(result), cudaMemcpyDeviceToHost, stream),
             "copy to host");
  check_cuda(cudaStreamSynchronize(stream), "synchronize");
  return result;
}

}  // namespace lockstep::cuda
