#include "lockstep/engine/cuda/libraries.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <mutex>
#include <optional>

#include <cublasLt.h>
#include <fmt/format.h>

#include "lockstep/engine/capture.h"
#include "lockstep/engine/cuda/status.h"
#include "lockstep/engine/matmul_precision.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::cuda {
namespace {

constexpr size_t kWorkspaceBytes = size_t{32} << 20;

void check_blas(cublasStatus_t status, const char* call) {
  check<Error>(status == CUBLAS_STATUS_SUCCESS, "[gemm] {}: {} ({})", call,
               cublasLtGetStatusString(status), cublasLtGetStatusName(status));
}

template <typename Handle, cublasStatus_t (*destroy)(Handle)>
class Owned {
 public:
  Owned() = default;
  ~Owned() {
    if (handle_) destroy(handle_);
  }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  Handle* out() { return &handle_; }
  Handle get() const { return handle_; }

 private:
  Handle handle_ = nullptr;
};
using Operation = Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using Layout = Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using Preference = Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

struct Types {
  cudaDataType_t data;
  cublasComputeType_t compute;
  cudaDataType_t scale;
};

cublasComputeType_t float32_compute_type() {
  switch (matmul_precision()) {
    case MatmulPrecision::kHigh:
      return CUBLAS_COMPUTE_32F_FAST_TF32;
    case MatmulPrecision::kMedium:
      return CUBLAS_COMPUTE_32F_FAST_16BF;
    default:
      return CUBLAS_COMPUTE_32F;
  }
}

Types types_of(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return {CUDA_R_32F, float32_compute_type(), CUDA_R_32F};
    case DType::kFloat64:
      return {CUDA_R_64F, CUBLAS_COMPUTE_64F, CUDA_R_64F};
    case DType::kBFloat16:
      return {CUDA_R_16BF, CUBLAS_COMPUTE_32F, CUDA_R_32F};
    case DType::kFloat16:
      return {CUDA_R_16F, CUBLAS_COMPUTE_32F, CUDA_R_32F};
    default:
      no_kernel("gemm", dtype);
  }
}

// 16 bytes let the fastest kernels run; views may lie anywhere. More must not count: the choice,
// and with it the bits, would depend on where in a bucket a parameter lies.
uint32_t alignment_of(const void* data) {
  return uint32_t{1} << __builtin_ctzll(reinterpret_cast<uintptr_t>(data) | 16);
}

// Which of cublasLt's epilogues that is. The gradient of a bias sums what is `a` to us and B to it.
uint32_t kind_of(const GemmEpilogue& e) {
  if (e.bias_gradient) return CUBLASLT_EPILOGUE_BGRADB;
  if (!e.gelu) return e.bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
  if (e.pre_activation)
    return e.bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
  return e.bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU;
}

// The same at addresses that tell nothing but their alignment: heuristics look at these, too, but
// do not follow them.
GemmEpilogue anywhere(GemmEpilogue e) {
  alignas(32) static char places[32];
  if (e.bias) e.bias = places + alignment_of(e.bias);
  if (e.pre_activation) e.pre_activation = places + alignment_of(e.pre_activation);
  if (e.bias_gradient) e.bias_gradient = places + alignment_of(e.bias_gradient);
  return e;
}

// cublasLt counts columns where we count rows: C^T = B^T A^T. So `b` is its first matrix, and what
// is a row to us is a column to it.
struct Descriptors {
  Operation operation;
  Layout first, second, result;
  const bool has_epilogue;

  Descriptors(const GemmCall& c, const GemmEpilogue& e, const Types& types)
      : has_epilogue(kind_of(e) != CUBLASLT_EPILOGUE_DEFAULT) {
    check_blas(cublasLtMatmulDescCreate(operation.out(), types.compute, types.scale), "describe");
    set(CUBLASLT_MATMUL_DESC_TRANSA, c.trans_b ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(CUBLASLT_MATMUL_DESC_TRANSB, c.trans_a ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, kind_of(e));
    if (e.bias) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, e.bias);
    if (e.bias_gradient) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, e.bias_gradient);
    if (e.pre_activation) {
      set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, e.pre_activation);
      set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, e.pre_activation_ld);
    }
    set_layout(first, types.data, c.trans_b ? c.k : c.n, c.trans_b ? c.n : c.k, c.ldb, c.batch,
               c.stride_b);
    set_layout(second, types.data, c.trans_a ? c.m : c.k, c.trans_a ? c.k : c.m, c.lda, c.batch,
               c.stride_a);
    set_layout(result, types.data, c.n, c.m, c.ldc, c.batch, c.stride_c);
  }

 private:
  template <typename T>
  void set(cublasLtMatmulDescAttributes_t which, const T& value) {
    check_blas(cublasLtMatmulDescSetAttribute(operation.get(), which, &value, sizeof value),
               "describe");
  }
  static void set_layout(Layout& layout, cudaDataType_t type, int64_t rows, int64_t columns,
                         int64_t stride, int64_t batch, int64_t batch_stride) {
    // Of a single column the stride says nothing, and must still be large enough.
    check_blas(cublasLtMatrixLayoutCreate(layout.out(), type, static_cast<uint64_t>(rows),
                                          static_cast<uint64_t>(columns), std::max(stride, rows)),
               "describe");
    if (batch == 1) return;
    const auto count = static_cast<int32_t>(batch);
    check_blas(cublasLtMatrixLayoutSetAttribute(layout.get(), CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT,
                                                &count, sizeof count),
               "describe");
    check_blas(
        cublasLtMatrixLayoutSetAttribute(layout.get(), CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                         &batch_stride, sizeof batch_stride),
        "describe");
  }
};

// No such epilogue in this version, on this GPU.
bool is_refusal(cublasStatus_t status, const Descriptors& d) {
  return d.has_epilogue &&
         (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE);
}

// What an algorithm is chosen for.
using Shape = std::array<int64_t, 20>;
Shape shape_of(const GemmCall& c, const GemmEpilogue& e, const Types& types) {
  return {static_cast<int64_t>(c.dtype),
          static_cast<int64_t>(types.compute),
          c.trans_a,
          c.trans_b,
          c.accumulate,
          c.m,
          c.n,
          c.k,
          c.lda,
          c.ldb,
          c.ldc,
          c.batch,
          c.stride_a,
          c.stride_b,
          c.stride_c,
          alignment_of(c.a) * 1024 + alignment_of(c.b),
          alignment_of(c.c),
          kind_of(e),
          e.pre_activation_ld,
          alignment_of(e.bias_gradient ? e.bias_gradient : e.bias) * 1024 +
              alignment_of(e.pre_activation)};
}

// One device's cublasLt: handle, scratch memory, and the algorithms chosen so far. All products go
// to one stream, so they may share the scratch memory.
class Blas {
 public:
  // False where cublasLt has no algorithm of which the bits are the same on every run.
  bool run(cudaStream_t stream, const GemmCall& c, const GemmEpilogue& e) {
    const std::lock_guard lock(mutex_);
    if (!handle_.get()) start(stream);
    const Types types = types_of(c.dtype);
    const Shape shape = shape_of(c, e, types);
    auto found = algorithms_.find(shape);
    if (found == algorithms_.end()) {
      found = algorithms_.emplace(shape, choose(c, Descriptors(c, anywhere(e), types))).first;
    }
    std::optional<cublasLtMatmulAlgo_t>& algorithm = found->second;
    if (!algorithm) return false;
    const Descriptors d(c, e, types);
    const cublasStatus_t status = multiply(stream, c, d, *algorithm);
    if (is_refusal(status, d)) {
      algorithm.reset();
      return false;
    }
    check_blas(status, "cublasLtMatmul");
    return true;
  }

 private:
  void start(cudaStream_t stream) {
    forbid_in_capture("the first product of a device", "make a step before the capture");
    if (!workspace_) {
      check_cuda(cudaMallocAsync(&workspace_, kWorkspaceBytes, stream), "cublasLt's workspace");
    }
    check_blas(cublasLtCreate(handle_.out()), "cublasLtCreate");
  }

  cublasStatus_t multiply(cudaStream_t stream, const GemmCall& c, const Descriptors& d,
                          const cublasLtMatmulAlgo_t& algorithm) {
    const float one = 1, beta = c.accumulate ? 1 : 0;
    const double one64 = 1, beta64 = beta;
    const bool wide = c.dtype == DType::kFloat64;
    return cublasLtMatmul(
        handle_.get(), d.operation.get(), wide ? static_cast<const void*>(&one64) : &one, c.b,
        d.first.get(), c.a, d.second.get(), wide ? static_cast<const void*>(&beta64) : &beta, c.c,
        d.result.get(), c.c, d.result.get(), &algorithm, workspace_, kWorkspaceBytes, stream);
  }

  // The heuristic's first choice among those that add up in a fixed order: the same on every run.
  std::optional<cublasLtMatmulAlgo_t> choose(const GemmCall& c, const Descriptors& d) const {
    Preference preference;
    check_blas(cublasLtMatmulPreferenceCreate(preference.out()), "prefer");
    const auto set = [&](cublasLtMatmulPreferenceAttributes_t which, const auto& value) {
      check_blas(
          cublasLtMatmulPreferenceSetAttribute(preference.get(), which, &value, sizeof value),
          "prefer");
    };
    set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{kWorkspaceBytes});
    set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
        uint32_t{CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_of(c.b));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(c.a));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_of(c.c));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment_of(c.c));
    cublasLtMatmulHeuristicResult_t result{};
    int count = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        handle_.get(), d.operation.get(), d.first.get(), d.second.get(), d.result.get(),
        d.result.get(), preference.get(), 1, &result, &count);
    if (is_refusal(status, d)) return std::nullopt;
    check_blas(status, "choose an algorithm");
    if (count == 0 || result.state != CUBLAS_STATUS_SUCCESS) return std::nullopt;
    return result.algo;
  }

  std::mutex mutex_;
  Owned<cublasLtHandle_t, cublasLtDestroy> handle_;
  void* workspace_ = nullptr;                                        // kept as long as the process
  std::map<Shape, std::optional<cublasLtMatmulAlgo_t>> algorithms_;  // none: there is none
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
  return blas_of_current_device().run(stream, call, epilogue);
}

Facts library_facts() {
  const size_t v = cublasLtGetVersion();
  return {{"cuBLASLt", fmt::format("{}.{}.{}", v / 10000, v / 100 % 100, v % 100)},
          {"cuDNN", convolution_fact()}};
}

}  // namespace lockstep::cuda
