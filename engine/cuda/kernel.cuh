#pragma once

#include <cstdint>
#include <type_traits>

#include <cuda_runtime.h>

#include "lockstep/engine/cuda/status.h"
#include "lockstep/engine/tensor/convert.h"
#include "lockstep/engine/tensor/dims.h"
#include "lockstep/engine/tensor/dispatch.h"
#include "lockstep/engine/tensor/tensor.h"

// What kernels share: launching, dtypes, places in strided tensors, sums within a block.
//
// Rules for kernels. Results depend on the shapes only: no float atomics, additions in a fixed
// order. What has 16 bits is computed in float and rounded once. Sums of float32 over more than a
// few thousand terms are added up pairwise or in double. No dynamic shared memory, no textures, no
// device-side malloc; nothing waits for the host. The same sources are compiled by the host's
// compiler against an emulated runtime and run by the tests (tests/cuda/emulation/).
namespace lockstep::cuda {

inline constexpr int kThreads = 256;
inline constexpr int kWarp = 32;
inline constexpr unsigned kAllLanes = 0xffffffffu;

// Blocks for n items, `per_block` to each, capped: kernels loop over what is left (grid_index).
inline int64_t blocks_for(int64_t n, int64_t per_block = kThreads) {
  constexpr int64_t kMost = int64_t{1} << 20;
  const int64_t blocks = (n + per_block - 1) / per_block;
  return blocks < 1 ? 1 : (blocks < kMost ? blocks : kMost);
}

// Issues a kernel on a one-dimensional grid; arguments are converted to the kernel's own types.
template <typename... Parameters, typename... Arguments>
void launch(cudaStream_t stream, int64_t blocks, int threads, void (*kernel)(Parameters...),
            Arguments&&... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.stream = stream;
  check_cuda(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), "launch");
}

// This thread's number in a one-dimensional grid, and the number of threads in it.
__device__ inline int64_t grid_index() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ inline int64_t grid_size() { return static_cast<int64_t>(gridDim.x) * blockDim.x; }

// What values stored as T are computed in.
template <typename T>
using Compute =
    std::conditional_t<std::is_same_v<T, BFloat16> || std::is_same_v<T, Float16>, float, T>;

// As dispatch_all, for the floating dtypes.
template <typename F>
void dispatch_floating(const char* op, DType dtype, F&& fn) {
  dispatch_all(dtype, [&](auto type) {
    if constexpr (std::is_integral_v<decltype(type)>) {
      no_kernel(op, dtype);
    } else {
      fn(type);
    }
  });
}

template <typename T>
T* data_of(const Tensor& t) {
  return t.defined() ? static_cast<T*>(t.data_ptr()) : nullptr;
}

// The sum over the block's kThreads threads, in thread 0, in a fixed order. All threads call it.
template <typename T>
__device__ T block_sum(T value) {
  __shared__ T sums[kThreads / kWarp];
  for (int delta = kWarp / 2; delta > 0; delta /= 2) {
    value += __shfl_down_sync(kAllLanes, value, delta);
  }
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  if (lane == 0) sums[warp] = value;
  __syncthreads();
  if (warp == 0) {
    value = lane < kThreads / kWarp ? sums[lane] : T(0);
    for (int delta = kThreads / kWarp / 2; delta > 0; delta /= 2) {
      value += __shfl_down_sync(kAllLanes, value, delta);
    }
  }
  __syncthreads();  // `sums` may be written again
  return value;
}

// The same with the result in all threads.
template <typename T>
__device__ T block_sum_for_all(T value) {
  __shared__ T result;
  value = block_sum(value);
  if (threadIdx.x == 0) result = value;
  __syncthreads();
  value = result;
  __syncthreads();
  return value;
}

}  // namespace lockstep::cuda
