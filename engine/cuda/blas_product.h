#pragma once

#include <array>
#include <string>

#include <cublasLt.h>

#include "lockstep/engine/backend.h"

// A product as cublasLt wants it described.
namespace lockstep::cuda {

inline constexpr size_t kBlasWorkspaceBytes = size_t{32} << 20;

void check_blas(cublasStatus_t status, const char* call);

// A handle of cublasLt's.
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

class BlasProduct {
 public:
  BlasProduct(const GemmCall& call, const GemmEpilogue& epilogue);

  // What the choice of an algorithm may depend on: all but the addresses. Alignment counts up to 16
  // bytes, which let the fastest kernels run: were it more, the choice, and with it the bits, would
  // depend on where in a bucket a parameter lies.
  using Key = std::array<int64_t, 20>;
  Key key() const;
  std::string text() const;  // the same to be read

  bool has_epilogue() const;
  cublasLtMatmulDesc_t operation() const { return operation_.get(); }
  // cublasLt counts columns where we count rows: C^T = B^T A^T. So `b` is its first matrix.
  cublasLtMatrixLayout_t first() const { return first_.get(); }
  cublasLtMatrixLayout_t second() const { return second_.get(); }
  cublasLtMatrixLayout_t result() const { return result_.get(); }
  uint32_t first_alignment() const;
  uint32_t second_alignment() const;
  uint32_t result_alignment() const;

  // The same product with its epilogue's data nowhere in particular. Heuristics do not follow those
  // addresses, but look at them.
  BlasProduct anywhere() const;

  // C may be another one of the same strides, for trials.
  cublasStatus_t run(cublasLtHandle_t handle, cudaStream_t stream,
                     const cublasLtMatmulAlgo_t& algorithm, void* workspace, void* c) const;
  const GemmCall& call() const { return call_; }

 private:
  template <typename T>
  void set(cublasLtMatmulDescAttributes_t which, const T& value);

  struct Types {
    cudaDataType_t data;
    cublasComputeType_t compute;
    cudaDataType_t scale;
  };
  using Operation = Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
  using Layout = Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
  static Types types_of(DType dtype);
  static void describe(Layout& layout, cudaDataType_t type, int64_t rows, int64_t columns,
                       int64_t stride, int64_t batch, int64_t batch_stride);

  const GemmCall call_;
  const GemmEpilogue epilogue_;
  const Types types_;
  Operation operation_;
  Layout first_, second_, result_;
};

}  // namespace lockstep::cuda
