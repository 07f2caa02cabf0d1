#pragma once

#include <cstdint>

namespace lockstep::cpu {

// C = alpha * op(A) * op(B) + beta * C, all row-major. op(A) is m x k, op(B) is k x n, C is m x n;
// op transposes where its flag is set, so A is stored k x m then. ld* is the distance in elements
// between rows as stored. With beta = 0 C is only written (NaN in it does not spread); with k = 0
// C = beta * C. C overlaps neither A nor B. The bits do not depend on num_threads().
template <typename T>
struct GemmArgs {
  bool transpose_a = false;
  bool transpose_b = false;
  int64_t m = 0;
  int64_t n = 0;
  int64_t k = 0;
  T alpha = 1;
  const T* a = nullptr;
  int64_t lda = 0;
  const T* b = nullptr;
  int64_t ldb = 0;
  T beta = 0;
  T* c = nullptr;
  int64_t ldc = 0;
};

void gemm(const GemmArgs<float>& args);
void gemm(const GemmArgs<double>& args);

// The same for `batch` matrices that lie stride_* elements apart. A stride of 0 in A or B uses one
// matrix for all; C's matrices must not overlap.
void batched_gemm(const GemmArgs<float>& args, int64_t batch, int64_t stride_a, int64_t stride_b,
                  int64_t stride_c);
void batched_gemm(const GemmArgs<double>& args, int64_t batch, int64_t stride_a, int64_t stride_b,
                  int64_t stride_c);

}  // namespace lockstep::cpu
