#include "lockstep/engine/ops/gemm_call.h"

#include <algorithm>

#include "lockstep/engine/autograd/backward.h"
#include "lockstep/engine/autograd/grad_mode.h"
#include "lockstep/engine/ops/matmul.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/same_device.h"

namespace lockstep {
namespace {

// A matrix, or a batch of them, as a BLAS-like call reads it: rows `ld` apart, perhaps transposed.
struct MatrixArg {
  Tensor tensor;  // keeps a copy alive where the strides did not fit
  bool trans = false;
  int64_t ld = 0;
};

MatrixArg as_matrix(const Tensor& x) {
  const int r = x.dim() - 2, c = x.dim() - 1;
  const int64_t rows = x.sizes()[r], columns = x.sizes()[c];
  const int64_t row_stride = x.strides()[r], column_stride = x.strides()[c];
  const auto fits = [](int64_t outer, int64_t outer_n, int64_t inner, int64_t inner_n) {
    return (inner == 1 || inner_n == 1) && (outer >= std::max<int64_t>(inner_n, 1) || outer_n == 1);
  };
  if (fits(row_stride, rows, column_stride, columns)) {
    return {x, false, std::max<int64_t>(rows == 1 ? columns : row_stride, 1)};
  }
  if (fits(column_stride, columns, row_stride, rows)) {
    return {x, true, std::max<int64_t>(columns == 1 ? rows : column_stride, 1)};
  }
  return {x.contiguous(), false, std::max<int64_t>(columns, 1)};
}

}  // namespace

void check_pair(const char* name, const Tensor& a, const Tensor& b) {
  check(a.dtype() == b.dtype(), "expected scalar type {} but found {}", type_name(a.dtype()),
        type_name(b.dtype()));
  check(a.dtype() != DType::kBool, "[{}] supports numbers, got bool", name);
  check_on_device(name, a.device(), b);
}

Tensor as_rows(const Tensor& x) {
  int64_t rows = 1;
  for (int d = 0; d + 1 < x.dim(); ++d) rows *= x.sizes()[d];
  return x.reshape({rows, x.size(-1)});
}

Gemm::Gemm(const Tensor& out, const Tensor& a, const Tensor& b) : out_(out) {
  const autograd::NoGrad no_grad;
  const MatrixArg ma = as_matrix(a), mb = as_matrix(b);
  a_ = ma.tensor;
  b_ = mb.tensor;
  call_.dtype = out.dtype();
  call_.trans_a = ma.trans;
  call_.trans_b = mb.trans;
  call_.m = a.size(-2);
  call_.n = b.size(-1);
  call_.k = a.size(-1);
  call_.a = a_.data_ptr();
  call_.b = b_.data_ptr();
  call_.c = out.data_ptr();
  call_.lda = ma.ld;
  call_.ldb = mb.ld;
  call_.ldc = std::max<int64_t>(call_.n, 1);
  if (a.dim() == 3) {
    call_.batch = a.size(0);
    call_.stride_a = a_.stride(0);
    call_.stride_b = b_.stride(0);
    call_.stride_c = call_.m * call_.n;
  }
}

void Gemm::run(bool accumulate) {
  call_.accumulate = accumulate;
  backend_of(out_).gemm(call_);
}

bool Gemm::run(const GemmEpilogue& epilogue) const {
  return backend_of(out_).gemm_with_epilogue(call_, epilogue);
}

Tensor product_for_leaf(const autograd::Edge& edge, const Tensor& a, const Tensor& b) {
  const Tensor destination = autograd::gradient_destination(edge);
  if (!destination.defined()) return matmul(a, b);
  Gemm(destination, a, b).run();
  return destination;
}

}  // namespace lockstep
