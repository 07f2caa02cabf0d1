#include "lockstep/engine/cuda/libraries.h"

#include <map>
#include <mutex>
#include <optional>
#include <utility>

#include <cublasLt.h>
#include <fmt/format.h>

#include "lockstep/engine/algorithm_choice.h"
#include "lockstep/engine/capture.h"
#include "lockstep/engine/cuda/blas_product.h"
#include "lockstep/engine/cuda/gemm_tuning.h"
#include "lockstep/engine/cuda/status.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::cuda {
namespace {

// One device's cublasLt: handle, scratch memory, and the algorithms chosen so far. All products go
// to one stream, so they may share the scratch memory.
class Blas {
 public:
  // False where cublasLt has no algorithm of which the bits are the same on every run.
  bool run(cudaStream_t stream, const GemmCall& call, const GemmEpilogue& epilogue) {
    const std::lock_guard lock(mutex_);
    if (!handle_.get()) start(stream);
    const BlasProduct product(call, epilogue);
    const uint64_t choice = algorithm_choice_number();
    if (std::exchange(choice_, choice) != choice) algorithms_.clear();
    auto found = algorithms_.find(product.key());
    if (found != algorithms_.end()) return issue(stream, product, call, found->second);
    auto chosen = choose_algorithm(handle_.get(), stream, product, workspace_);
    // What a capture cannot time is chosen anew behind it.
    if (algorithm_choice() == AlgorithmChoice::kTimed && graph_in_capture()) {
      return issue(stream, product, call, chosen);
    }
    return issue(stream, product, call, algorithms_.emplace(product.key(), chosen).first->second);
  }

 private:
  bool issue(cudaStream_t stream, const BlasProduct& product, const GemmCall& call,
             std::optional<cublasLtMatmulAlgo_t>& algorithm) const {
    if (!algorithm) return false;
    const auto status = product.run(handle_.get(), stream, *algorithm, workspace_, call.c);
    if (is_refusal(status, product)) {
      algorithm.reset();
      return false;
    }
    check_blas(status, "cublasLtMatmul");
    return true;
  }

  void start(cudaStream_t stream) {
    forbid_in_capture("the first product of a device", "make a step before the capture");
    if (!workspace_) {
      check_cuda(cudaMallocAsync(&workspace_, kBlasWorkspaceBytes, stream), "cublasLt's workspace");
    }
    check_blas(cublasLtCreate(handle_.out()), "cublasLtCreate");
  }

  std::mutex mutex_;
  Owned<cublasLtHandle_t, cublasLtDestroy> handle_;
  void* workspace_ = nullptr;  // kept as long as the process
  uint64_t choice_ = 0;        // algorithm_choice_number() of those
  std::map<BlasProduct::Key, std::optional<cublasLtMatmulAlgo_t>>
      algorithms_;  // none: there is none
};

Blas& blas_of_current_device() {
  static auto* devices = new std::map<int, Blas>;  // outlives every static tensor
  static std::mutex mutex;
  int device = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  const std::lock_guard lock(mutex);
  return (*devices)[device];
}

}  // namespace

void gemm_by_library(cudaStream_t stream, const GemmCall& call) {
  check<Error>(blas_of_current_device().run(stream, call, {}),
               "[gemm] cublasLt has no algorithm for {} matrices of {} x {} x {} (batch {})",
               name_of(call.dtype), call.m, call.k, call.n, call.batch);
}

bool gemm_with_epilogue_by_library(cudaStream_t stream, const GemmCall& call,
                                   const GemmEpilogue& epilogue) {
  // How exact its tanh is, is not documented: in 16 bits that does not show.
  if (epilogue.gelu && size_of(call.dtype) != 2) return false;
  return blas_of_current_device().run(stream, call, epilogue);
}

Facts library_facts() {
  const size_t v = cublasLtGetVersion();
  return {{"cuBLASLt", fmt::format("{}.{}.{}", v / 10000, v / 100 % 100, v % 100)},
          {"cuDNN", convolution_fact()}};
}

}  // namespace lockstep::cuda
