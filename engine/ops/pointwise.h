#pragma once

#include <concepts>
#include <string_view>

#include "lockstep/engine/ops/pointwise_list.h"
#include "lockstep/engine/tensor/tensor.h"

namespace lockstep {

// An argument of a pointwise op: a tensor or a number. Borrows the tensor.
class Operand {
 public:
  Operand(const Tensor& tensor) : tensor_(&tensor) {}
  Operand(Scalar scalar) : scalar_(scalar) {}
  template <typename T>
  requires std::floating_point<T> || std::integral<T> Operand(T number) : scalar_(number) {}

  bool is_tensor() const { return tensor_ != nullptr; }
  const Tensor& tensor() const { return *tensor_; }
  Scalar scalar() const { return scalar_; }

 private:
  const Tensor* tensor_ = nullptr;
  Scalar scalar_ = 0;
};

// Pointwise ops with broadcasting and PyTorch's type promotion. At least one argument is a tensor.
// The unary ones have a form that writes over x: exp_(x), clamp_(x, low, high), ...
#define LOCKSTEP_DECLARE_Unary(name) \
  Tensor name(const Tensor& x);      \
  const Tensor& name##_(const Tensor& x);
#define LOCKSTEP_DECLARE_Unary1(name)     \
  Tensor name(const Tensor& x, double p); \
  const Tensor& name##_(const Tensor& x, double p);
#define LOCKSTEP_DECLARE_Unary2(name)               \
  Tensor name(const Tensor& x, double p, double q); \
  const Tensor& name##_(const Tensor& x, double p, double q);
#define LOCKSTEP_DECLARE_Binary(name) Tensor name(const Operand& a, const Operand& b);
#define LOCKSTEP_DECLARE_Binary1(name) Tensor name(const Operand& a, const Operand& b, double p);
#define LOCKSTEP_DECLARE_Binary2(name) \
  Tensor name(const Operand& a, const Operand& b, double p, double q);
#define LOCKSTEP_DECLARE_Compare(name) Tensor name(const Operand& a, const Operand& b);
#define LOCKSTEP_DECLARE_Where(name) \
  Tensor name(const Tensor& condition, const Operand& a, const Operand& b);
#define LOCKSTEP_OP(name, arity, ...) LOCKSTEP_DECLARE_##arity(name)
LOCKSTEP_POINTWISE_OPS(LOCKSTEP_OP)
#undef LOCKSTEP_OP
#undef LOCKSTEP_DECLARE_Unary
#undef LOCKSTEP_DECLARE_Unary1
#undef LOCKSTEP_DECLARE_Unary2
#undef LOCKSTEP_DECLARE_Binary
#undef LOCKSTEP_DECLARE_Binary1
#undef LOCKSTEP_DECLARE_Binary2
#undef LOCKSTEP_DECLARE_Compare
#undef LOCKSTEP_DECLARE_Where

// x to a number. Integers stay integers under integer exponents, which must not be negative, and
// become floating under others.
Tensor pow(const Tensor& x, Scalar exponent);
const Tensor& pow_(const Tensor& x, Scalar exponent);
Tensor pow(const Tensor& x, const Tensor& exponent);
Tensor pow(Scalar base, const Tensor& exponent);
Tensor square(const Tensor& x);

// x between `low` and `high`, which broadcast with x; either may be undefined. The upper bound wins
// where they cross.
Tensor clamp(const Tensor& x, const Tensor& low, const Tensor& high);
// One bound only.
Tensor clamp_min(const Tensor& x, double low);
Tensor clamp_max(const Tensor& x, double high);

// PyTorch's defaults for the activations that have parameters.
inline Tensor softplus(const Tensor& x, double beta = 1) { return softplus(x, beta, 20); }
inline Tensor leaky_relu(const Tensor& x) { return leaky_relu(x, 0.01); }
inline Tensor elu(const Tensor& x) { return elu(x, 1); }
inline Tensor hardtanh(const Tensor& x) { return hardtanh(x, -1, 1); }
// approximate: "none" or "tanh".
Tensor gelu(const Tensor& x, std::string_view approximate = "none");

inline Tensor logical_not(const Tensor& x) { return eq(x, 0); }
// x with `value`, a number or a 0-d tensor, where the bool or uint8 `mask` is true; has x's dtype.
Tensor masked_fill(const Tensor& x, const Tensor& mask, const Operand& value);

// Sums `gradient` over the dimensions along which `sizes` was broadcast: broadcasting undone.
Tensor sum_to_size(const Tensor& gradient, const Dims& sizes);

#define LOCKSTEP_OPERATOR(symbol, op)                                                  \
  inline Tensor operator symbol(const Tensor& a, const Tensor& b) { return op(a, b); } \
  inline Tensor operator symbol(const Tensor& a, Scalar b) { return op(a, b); }
LOCKSTEP_OPERATOR(+, add)
LOCKSTEP_OPERATOR(-, sub)
LOCKSTEP_OPERATOR(*, mul)
LOCKSTEP_OPERATOR(/, div)
LOCKSTEP_OPERATOR(==, eq)
LOCKSTEP_OPERATOR(!=, ne)
LOCKSTEP_OPERATOR(<, lt)
LOCKSTEP_OPERATOR(<=, le)
LOCKSTEP_OPERATOR(>, gt)
LOCKSTEP_OPERATOR(>=, ge)
#undef LOCKSTEP_OPERATOR
inline Tensor operator+(Scalar a, const Tensor& b) { return add(b, a); }
inline Tensor operator-(Scalar a, const Tensor& b) { return sub(a, b); }
inline Tensor operator*(Scalar a, const Tensor& b) { return mul(b, a); }
inline Tensor operator/(Scalar a, const Tensor& b) { return mul(reciprocal(b), a); }
inline Tensor operator==(Scalar a, const Tensor& b) { return eq(a, b); }
inline Tensor operator!=(Scalar a, const Tensor& b) { return ne(a, b); }
inline Tensor operator<(Scalar a, const Tensor& b) { return lt(a, b); }
inline Tensor operator<=(Scalar a, const Tensor& b) { return le(a, b); }
inline Tensor operator>(Scalar a, const Tensor& b) { return gt(a, b); }
inline Tensor operator>=(Scalar a, const Tensor& b) { return ge(a, b); }
inline Tensor operator-(const Tensor& x) { return neg(x); }

}  // namespace lockstep
