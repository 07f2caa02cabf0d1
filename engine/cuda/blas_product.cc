#include "lockstep/engine/cuda/blas_product.h"

#include <algorithm>

#include <fmt/format.h>

#include "lockstep/engine/cuda/status.h"
#include "lockstep/engine/matmul_precision.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::cuda {
namespace {

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

uint32_t alignment_of(const void* data) {
  return uint32_t{1} << __builtin_ctzll(reinterpret_cast<uintptr_t>(data) | 16);
}

// Which of cublasLt's epilogues that is. The gradient of a bias sums what is `a` to us and B to it.
uint32_t kind_of(const GemmEpilogue& e) {
  if (e.bias_gradient) return CUBLASLT_EPILOGUE_BGRADB;
  if (!e.gelu) return e.bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
  if (e.pre_activation) {
    return e.bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
  }
  return e.bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU;
}

const void* vector_of(const GemmEpilogue& e) { return e.bias_gradient ? e.bias_gradient : e.bias; }

}  // namespace

void check_blas(cublasStatus_t status, const char* call) {
  check<Error>(status == CUBLAS_STATUS_SUCCESS, "[gemm] {}: {} ({})", call,
               cublasLtGetStatusString(status), cublasLtGetStatusName(status));
}

BlasProduct::Types BlasProduct::types_of(DType dtype) {
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

template <typename T>
void BlasProduct::set(cublasLtMatmulDescAttributes_t which, const T& value) {
  check_blas(cublasLtMatmulDescSetAttribute(operation_.get(), which, &value, sizeof value),
             "describe");
}

void BlasProduct::describe(Layout& layout, cudaDataType_t type, int64_t rows, int64_t columns,
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

BlasProduct::BlasProduct(const GemmCall& c, const GemmEpilogue& e)
    : call_(c), epilogue_(e), types_(types_of(c.dtype)) {
  check_blas(cublasLtMatmulDescCreate(operation_.out(), types_.compute, types_.scale), "describe");
  set(CUBLASLT_MATMUL_DESC_TRANSA, c.trans_b ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(CUBLASLT_MATMUL_DESC_TRANSB, c.trans_a ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(CUBLASLT_MATMUL_DESC_EPILOGUE, kind_of(e));
  if (const void* vector = vector_of(e)) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, vector);
  if (e.pre_activation) {
    set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, e.pre_activation);
    set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, e.pre_activation_ld);
  }
  describe(first_, types_.data, c.trans_b ? c.k : c.n, c.trans_b ? c.n : c.k, c.ldb, c.batch,
           c.stride_b);
  describe(second_, types_.data, c.trans_a ? c.m : c.k, c.trans_a ? c.k : c.m, c.lda, c.batch,
           c.stride_a);
  describe(result_, types_.data, c.n, c.m, c.ldc, c.batch, c.stride_c);
}

BlasProduct::Key BlasProduct::key() const {
  const GemmCall& c = call_;
  return {static_cast<int64_t>(c.dtype),
          static_cast<int64_t>(types_.compute),
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
          second_alignment() * 1024 + first_alignment(),
          result_alignment(),
          kind_of(epilogue_),
          epilogue_.pre_activation_ld,
          alignment_of(vector_of(epilogue_)) * 1024 + alignment_of(epilogue_.pre_activation)};
}

std::string BlasProduct::text() const {
  const GemmCall& c = call_;
  const GemmEpilogue& e = epilogue_;
  return fmt::format(
      "{} {}{} {}x{}x{} ld {},{},{} batch {}:{},{},{} add {:d} compute {} epilogue {}:{} "
      "align {},{},{},{},{}",
      name_of(c.dtype), c.trans_a ? 'T' : 'N', c.trans_b ? 'T' : 'N', c.m, c.n, c.k, c.lda, c.ldb,
      c.ldc, c.batch, c.stride_a, c.stride_b, c.stride_c, c.accumulate,
      static_cast<int>(types_.compute), kind_of(e), e.pre_activation_ld, second_alignment(),
      first_alignment(), result_alignment(), alignment_of(vector_of(e)),
      alignment_of(e.pre_activation));
}

bool BlasProduct::has_epilogue() const { return kind_of(epilogue_) != CUBLASLT_EPILOGUE_DEFAULT; }
uint32_t BlasProduct::first_alignment() const { return alignment_of(call_.b); }
uint32_t BlasProduct::second_alignment() const { return alignment_of(call_.a); }
uint32_t BlasProduct::result_alignment() const { return alignment_of(call_.c); }

BlasProduct BlasProduct::anywhere() const {
  alignas(32) static char places[32];
  GemmEpilogue e = epilogue_;
  if (e.bias) e.bias = places + alignment_of(e.bias);
  if (e.pre_activation) e.pre_activation = places + alignment_of(e.pre_activation);
  if (e.bias_gradient) e.bias_gradient = places + alignment_of(e.bias_gradient);
  return {call_, e};
}

cublasStatus_t BlasProduct::run(cublasLtHandle_t handle, cudaStream_t stream,
                                const cublasLtMatmulAlgo_t& algorithm, void* workspace,
                                void* c) const {
  const float one = 1, beta = call_.accumulate ? 1 : 0;
  const double one64 = 1, beta64 = beta;
  const bool wide = call_.dtype == DType::kFloat64;
  return cublasLtMatmul(handle, operation(), wide ? static_cast<const void*>(&one64) : &one,
                        call_.b, first(), call_.a, second(),
                        wide ? static_cast<const void*>(&beta64) : &beta, c, result(), c, result(),
                        &algorithm, workspace, kBlasWorkspaceBytes, stream);
}

}  // namespace lockstep::cuda
