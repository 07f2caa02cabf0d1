#include "lockstep/engine/cpu/gemm_kernels.h"

namespace lockstep::cpu::LOCKSTEP_ISA {
namespace {

constexpr int kRows = 4;
constexpr int kCols = kDoublePanel;

// kCols columns of op(B) are copied to a k x kCols panel, zeros beyond the edge; blocks of kRows
// rows of op(A) then run down the panel with kRows x kCols sums in registers.
// Four vectors of four, which the compiler splits or keeps whole as the instruction set has it.
typedef double Vector __attribute__((vector_size(32)));
constexpr int kVectors = kCols / 4;

template <int rows>
void block(const GemmArgs<double>& g, int64_t i, int64_t j, int cols, const double* panel) {
  const int64_t row_stride = g.transpose_a ? 1 : g.lda;
  const int64_t k_stride = g.transpose_a ? g.lda : 1;
  const double* a = g.a + i * row_stride;
  Vector sum[rows][kVectors] = {};
  for (int64_t p = 0; p < g.k; ++p) {
    const auto* b = reinterpret_cast<const Vector*>(panel + p * kCols);
    for (int r = 0; r < rows; ++r) {
      const double x = a[r * row_stride + p * k_stride];
      for (int v = 0; v < kVectors; ++v) {
        sum[r][v] += x * b[v];
      }
    }
  }
  for (int r = 0; r < rows; ++r) {
    double* out = g.c + (i + r) * g.ldc + j;
    for (int c = 0; c < cols; ++c) {
      const double product = g.alpha * sum[r][c / 4][c % 4];
      out[c] = g.beta == 0 ? product : product + g.beta * out[c];
    }
  }
}

void tile(const GemmArgs<double>& g, double* packed) {
  const int64_t k_stride = g.transpose_b ? 1 : g.ldb;
  const int64_t col_stride = g.transpose_b ? g.ldb : 1;
  for (int64_t j = 0; j < g.n; j += kCols) {
    const int cols = static_cast<int>(g.n - j < kCols ? g.n - j : kCols);
    for (int64_t p = 0; p < g.k; ++p) {
      for (int c = 0; c < kCols; ++c) {
        packed[p * kCols + c] = c < cols ? g.b[p * k_stride + (j + c) * col_stride] : 0.0;
      }
    }
    int64_t i = 0;
    for (; i + kRows <= g.m; i += kRows) {
      block<kRows>(g, i, j, cols, packed);
    }
    for (; i < g.m; ++i) {
      block<1>(g, i, j, cols, packed);
    }
  }
}

}  // namespace

const GemmKernels& gemm_kernels() {
  static constexpr GemmKernels kTable{.tile = tile};
  return kTable;
}

}  // namespace lockstep::cpu::LOCKSTEP_ISA
