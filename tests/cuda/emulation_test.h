#pragma once

#include <numeric>
#include <vector>

#include <cuda_runtime.h>
#include <gtest/gtest.h>

// What the tests of the emulated runtime share.
namespace lockstep::testing {

inline constexpr unsigned kAll = 0xffffffffu;

template <class... Parameters, class... Arguments>
cudaError_t run(dim3 grid, dim3 block, void (*kernel)(Parameters...), Arguments... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

// `count` elements on the device, released at the end of the scope.
template <class T>
class Array {
 public:
  explicit Array(size_t count) : count_(count) {
    EXPECT_EQ(cudaMalloc(&data_, count * sizeof(T)), cudaSuccess);
  }
  explicit Array(const std::vector<T>& values) : Array(values.size()) {
    EXPECT_EQ(cudaMemcpy(data_, values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice),
              cudaSuccess);
  }
  ~Array() { EXPECT_EQ(cudaFree(data_), cudaSuccess); }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;

  T* data() const { return data_; }
  std::vector<T> values() const {
    std::vector<T> values(count_);
    EXPECT_EQ(cudaMemcpy(values.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost),
              cudaSuccess);
    return values;
  }

 private:
  size_t count_;
  T* data_ = nullptr;
};

inline std::vector<int> iota(int count) {
  std::vector<int> values(static_cast<size_t>(count));
  std::iota(values.begin(), values.end(), 0);
  return values;
}

__global__ inline void note_order(unsigned* next, unsigned* order) {
  order[atomicAdd(next, 1)] = blockIdx.x * blockDim.x + threadIdx.x;
}

// The numbers of the threads of a launch in the order in which they ran.
inline std::vector<unsigned> order_of_threads(unsigned blocks, unsigned threads) {
  const Array<unsigned> next(std::vector<unsigned>{0}), order(blocks * threads);
  EXPECT_EQ(run(blocks, threads, note_order, next.data(), order.data()), cudaSuccess);
  return order.values();
}

}  // namespace lockstep::testing
