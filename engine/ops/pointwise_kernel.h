#pragma once

#include "lockstep/engine/ops/pointwise.h"
#include "lockstep/engine/ops/pointwise_call.h"

// Internal: from tensors to PointwiseCalls. Promotes dtypes, broadcasts, merges dimensions,
// allocates the result. Knows nothing of autograd.
namespace lockstep::pointwise {

enum class DTypes : uint8_t { kArithmetic, kFloating, kFloatingOnly, kAny };

Tensor unary(PointwiseOp op, const char* name, DTypes dtypes, const Tensor& x, double p, double q);
Tensor binary(PointwiseOp op, const char* name, DTypes dtypes, const Operand& a, const Operand& b,
              double p, double q);
Tensor where(const Tensor& condition, const Operand& a, const Operand& b);
// Write the result over `self`, whose shape and dtype it must fit.
void unary_into(PointwiseOp op, const char* name, DTypes dtypes, const Tensor& self, double p,
                double q);
void binary_into(PointwiseOp op, const char* name, DTypes dtypes, const Tensor& self,
                 const Operand& other, double p, double q);

// PyTorch's result type of an expression: dimensioned tensors before 0-d ones before numbers, each
// deciding only within a higher category.
DType result_type(std::span<const Operand> operands);

// Throws if a - b has a truth value on either side.
void check_subtraction(const Operand& a, const Operand& b);

// Throws if alpha of a + alpha b is a floating number and both a and b are of integers.
void check_alpha(const Tensor& a, const Tensor& b, Scalar alpha);

}  // namespace lockstep::pointwise
