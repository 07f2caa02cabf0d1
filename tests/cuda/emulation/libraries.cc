// Plain kernels in place of cuBLASLt; those in place of cuDNN are engine/cuda/no_cudnn.cc's.
#include "lockstep/engine/cuda/libraries.h"

#include <string>

#include <fmt/format.h>

#include "lockstep/engine/algorithm_choice.h"
#include "lockstep/engine/cuda/gemm.h"
#include "lockstep/engine/cuda/kernel.cuh"
#include "lockstep/engine/ops/functors.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::cuda {
namespace {

template <typename T>
__device__ T* at(void* data, int64_t place) {
  return static_cast<T*>(data) + place;
}
template <typename T>
__device__ Compute<T> value(const void* data, int64_t place) {
  return static_cast<Compute<T>>(static_cast<const T*>(data)[place]);
}

template <typename T>
__device__ Compute<T> a_at(const GemmCall& c, int64_t row, int64_t k) {
  return value<T>(c.a, c.trans_a ? k * c.lda + row : row * c.lda + k);
}

// A thread for each element of C.
template <typename T>
__global__ void product_kernel(const GemmCall c, const GemmEpilogue e) {
  for (int64_t i = grid_index(); i < c.m * c.n; i += grid_size()) {
    const int64_t row = i / c.n, column = i % c.n;
    Compute<T> sum = c.accumulate ? value<T>(c.c, row * c.ldc + column) : Compute<T>(0);
    for (int64_t k = 0; k < c.k; ++k) {
      sum +=
          a_at<T>(c, row, k) * value<T>(c.b, c.trans_b ? column * c.ldb + k : k * c.ldb + column);
    }
    if (e.bias) sum += value<T>(e.bias, column);
    if (e.pre_activation) *at<T>(e.pre_activation, row * e.pre_activation_ld + column) = T(sum);
    *at<T>(c.c, row * c.ldc + column) = T(e.gelu ? functor::gelu_tanh::apply(sum) : sum);
  }
}

template <typename T>
__global__ void row_sums_kernel(const GemmCall c, void* sums) {
  for (int64_t row = grid_index(); row < c.m; row += grid_size()) {
    Compute<T> sum = 0;
    for (int64_t k = 0; k < c.k; ++k) sum += a_at<T>(c, row, k);
    *at<T>(sums, row) = T(sum);
  }
}

}  // namespace

namespace {

// There is one algorithm for all products, as far as tables are concerned.
void take_part_in_choice(const GemmCall& c) {
  constexpr const char* kAlgorithm = "plain";
  const std::string product = fmt::format("{} {}x{}x{}", name_of(c.dtype), c.m, c.n, c.k);
  if (algorithm_choice() == AlgorithmChoice::kTimed) record_timed_algorithm(product, kAlgorithm);
  const std::string tabled = algorithm_of_table(product).value_or(kAlgorithm);
  check<Error>(tabled == kAlgorithm, "[gemm] the table refers {} to {}", product, tabled);
}

}  // namespace

void gemm_by_library(cudaStream_t stream, const GemmCall& call) {
  take_part_in_choice(call);
  gemm_by_kernel(stream, call);
}

// As strict as cublasLt where its header says so, and without the gradient of a bias in float64, so
// that callers do without, too.
bool gemm_with_epilogue_by_library(cudaStream_t stream, const GemmCall& call,
                                   const GemmEpilogue& e) {
  take_part_in_choice(call);
  const auto is_aligned = [](const void* data) {
    return reinterpret_cast<uintptr_t>(data) % 16 == 0;
  };
  check<Error>(call.batch == 1, "[gemm] an epilogue for a batch");
  check<Error>(!e.pre_activation || (e.gelu && e.pre_activation_ld % 8 == 0 &&
                                     e.pre_activation_ld >= call.n && is_aligned(e.pre_activation)),
               "[gemm] rows of {} elements for {}", e.pre_activation_ld, call.n);
  if (e.bias_gradient) {
    check<Error>(!e.bias && !e.gelu, "[gemm] two epilogues at once");
    if (call.dtype == DType::kFloat64) return false;
    gemm_by_kernel(stream, call);
  }
  dispatch_floating("gemm", call.dtype, [&](auto type) {
    using T = decltype(type);
    if (e.bias_gradient) {
      launch(stream, blocks_for(call.m), kThreads, row_sums_kernel<T>, call, e.bias_gradient);
    } else {
      launch(stream, blocks_for(call.m * call.n), kThreads, product_kernel<T>, call, e);
    }
  });
  return true;
}

Facts library_facts() { return {{"libraries", "none: this device is emulated"}}; }

}  // namespace lockstep::cuda
