#pragma once

#include "lockstep/engine/autograd/node.h"
#include "lockstep/engine/backend.h"

// Internal: how ops call a backend's products.
namespace lockstep {

// Throws ValueError unless both are numbers of one dtype, on one device.
void check_pair(const char* name, const Tensor& a, const Tensor& b);

// All dimensions but the last as one.
Tensor as_rows(const Tensor& x);

// out = a b of matrices, or of equally long batches of them; out is contiguous. Keeps copies of
// operands whose strides do not fit for as long as it lives.
class Gemm {
 public:
  Gemm(const Tensor& out, const Tensor& a, const Tensor& b);
  void run(bool accumulate = false);  // out += a b
  // False, and nothing done, where the backend cannot.
  bool run(const GemmEpilogue& epilogue) const;

 private:
  Tensor out_, a_, b_;
  GemmCall call_;
};

// The gradient with respect to a matrix operand, written straight into its bucket where that is
// possible.
Tensor product_for_leaf(const autograd::Edge& edge, const Tensor& a, const Tensor& b);

}  // namespace lockstep
