#pragma once

// The list of pointwise ops. A row is an op: it expands to the enumerator that backends dispatch
// on, the public function (pointwise.h), its graph node (pointwise.cc) and the kernels of every
// backend. The arithmetic is the functor of the same name in functors.h; a row in the op-case table
// of the tests completes an op.
//
//   OP(name, Unary,  dtypes, Node, saved, gradient)            f(x)
//   OP(name, Unary1, ...)                                      f(x, p)
//   OP(name, Unary2, ...)                                      f(x, p, q)
//   OP(name, Binary, dtypes, Node, saved for a, gradient of a, saved for b, gradient of b)  f(a, b)
//   OP(name, Binary1, ...), OP(name, Binary2, ...)             f(a, b, p), f(a, b, p, q)
//   OP(name, Compare, kAny)                                    bool f(a, b), no gradient; eq to ge
//   OP(name, Where, ...)                                       f(condition, a, b)
//
// dtypes: kArithmetic (integers stay integers), kFloating (integers become float32), kFloatingOnly
// (integers are refused, as PyTorch does), kAny (bool too). saved: what the gradient formula reads
// besides g: kNone, or a sum of kX / kA / kB / kY (the result). The gradient is a formula in
// differentiable ops over g, x or a and b, y, p, q, before broadcasting is undone; so double
// backward needs nothing further.
#define LOCKSTEP_POINTWISE_OPS(OP)                                                                 \
  OP(neg, Unary, kArithmetic, NegBackward0, kNone, neg(g))                                         \
  OP(abs, Unary, kArithmetic, AbsBackward0, kX, mul(g, sign(x)))                                   \
  OP(sign, Unary, kArithmetic, SignBackward0, kNone, zeros_like(g))                                \
  OP(exp, Unary, kFloating, ExpBackward0, kY, mul(g, y))                                           \
  OP(log, Unary, kFloating, LogBackward0, kX, div(g, x))                                           \
  OP(sqrt, Unary, kFloating, SqrtBackward0, kY, div(g, mul(y, 2)))                                 \
  OP(reciprocal, Unary, kFloating, ReciprocalBackward0, kY, neg(mul(g, mul(y, y))))                \
  OP(sin, Unary, kFloating, SinBackward0, kX, mul(g, cos(x)))                                      \
  OP(cos, Unary, kFloating, CosBackward0, kX, neg(mul(g, sin(x))))                                 \
  OP(tanh, Unary, kFloating, TanhBackward0, kY, tanh_backward(g, y))                               \
  OP(sigmoid, Unary, kFloating, SigmoidBackward0, kY, sigmoid_backward(g, y))                      \
  OP(relu, Unary, kArithmetic, ReluBackward0, kY, relu_backward(g, y))                             \
  OP(clamp, Unary2, kArithmetic, ClampBackward1, kX, clamp_backward(g, x, p, q))                   \
  OP(pow_scalar, Unary1, kArithmetic, PowBackward0, kX,                                            \
     p == 0 ? zeros_like(g) : mul(g, mul(pow_scalar(x, p - 1), p)))                                \
  OP(add, Binary, kArithmetic, AddBackward0, kNone, g, kNone, g)                                   \
  OP(add_scaled, Binary1, kArithmetic, AddBackward0, kNone, g, kNone, mul(g, p))                   \
  OP(sub, Binary, kArithmetic, SubBackward0, kNone, g, kNone, neg(g))                              \
  OP(mul, Binary, kArithmetic, MulBackward0, kB, mul(g, b), kA, mul(g, a))                         \
  OP(div, Binary, kFloating, DivBackward0, kB, div(g, b), kA | kB, neg(div(div(mul(g, a), b), b))) \
  OP(maximum, Binary, kArithmetic, MaximumBackward0, kA | kB, extreme_gradient(g, a, b), kA | kB,  \
     extreme_gradient(g, b, a))                                                                    \
  OP(minimum, Binary, kArithmetic, MinimumBackward0, kA | kB, extreme_gradient(g, b, a, a),        \
     kA | kB, extreme_gradient(g, a, b, b))                                                        \
  OP(relu_backward, Binary, kArithmetic, ReluBackwardBackward0, kB, relu_backward(g, b), kNone,    \
     zeros_like(g))                                                                                \
  OP(sigmoid_backward, Binary, kFloating, SigmoidBackwardBackward0, kB, sigmoid_backward(g, b),    \
     kA | kB, mul(mul(g, a), sub(1, mul(b, 2))))                                                   \
  OP(tanh_backward, Binary, kFloating, TanhBackwardBackward0, kB, tanh_backward(g, b), kA | kB,    \
     mul(mul(g, a), mul(b, -2)))                                                                   \
  OP(clamp_backward, Binary2, kArithmetic, ClampBackwardBackward0, kB, clamp_backward(g, b, p, q), \
     kNone, zeros_like(g))                                                                         \
  OP(rsqrt, Unary, kFloating, RsqrtBackward0, kY, mul(mul(g, -0.5), pow_scalar(y, 3)))             \
  OP(log1p, Unary, kFloating, Log1PBackward0, kX, div(g, add(x, 1)))                               \
  OP(expm1, Unary, kFloating, Expm1Backward0, kY, mul(g, add(y, 1)))                               \
  OP(tan, Unary, kFloating, TanBackward0, kY, mul(g, add(mul(y, y), 1)))                           \
  OP(erf, Unary, kFloating, ErfBackward0, kX, mul(g, mul(exp(neg(mul(x, x))), kTwoOverSqrtPi)))    \
  OP(atan, Unary, kFloating, AtanBackward0, kX, div(g, add(mul(x, x), 1)))                         \
  OP(gelu_erf, Unary, kFloatingOnly, GeluBackward0, kX, gelu_erf_backward(g, x))                   \
  OP(gelu_tanh, Unary, kFloatingOnly, GeluBackward0, kX, gelu_tanh_backward(g, x))                 \
  OP(silu, Unary, kFloatingOnly, SiluBackward0, kX, silu_backward(g, x))                           \
  OP(softplus, Unary2, kFloatingOnly, SoftplusBackward0, kX, softplus_backward(g, x, p, q))        \
  OP(leaky_relu, Unary1, kFloatingOnly, LeakyReluBackward0, kX, leaky_relu_backward(g, x, p))      \
  OP(elu, Unary1, kFloatingOnly, EluBackward0, kX, elu_backward(g, x, p))                          \
  OP(hardtanh, Unary2, kArithmetic, HardtanhBackward0, kX, hardtanh_backward(g, x, p, q))          \
  OP(pow_tensor, Binary, kArithmetic, PowBackward1, kA | kB, pow_base_gradient(g, a, b), kA | kB,  \
     pow_exponent_gradient(g, a, b))                                                               \
  OP(gelu_erf_backward, Binary, kFloating, GeluBackwardBackward0, kB, gelu_erf_backward(g, b),     \
     kA | kB, mul(mul(g, a), gelu_erf_second(b)))                                                  \
  OP(gelu_tanh_backward, Binary, kFloating, GeluBackwardBackward0, kB, gelu_tanh_backward(g, b),   \
     kA | kB, mul(mul(g, a), gelu_tanh_second(b)))                                                 \
  OP(silu_backward, Binary, kFloating, SiluBackwardBackward0, kB, silu_backward(g, b), kA | kB,    \
     mul(mul(g, a), silu_second(b)))                                                               \
  OP(softplus_backward, Binary2, kFloating, SoftplusBackwardBackward0, kB,                         \
     softplus_backward(g, b, p, q), kA | kB, softplus_second(mul(g, a), b, p, q))                  \
  OP(leaky_relu_backward, Binary1, kFloating, LeakyReluBackwardBackward0, kB,                      \
     leaky_relu_backward(g, b, p), kNone, zeros_like(g))                                           \
  OP(elu_backward, Binary1, kFloating, EluBackwardBackward0, kB, elu_backward(g, b, p), kA | kB,   \
     where(lt(b, 0), elu_backward(mul(g, a), b, p), 0))                                            \
  OP(hardtanh_backward, Binary2, kArithmetic, HardtanhBackwardBackward0, kB,                       \
     hardtanh_backward(g, b, p, q), kNone, zeros_like(g))                                          \
  OP(eq, Compare, kAny)                                                                            \
  OP(ne, Compare, kAny)                                                                            \
  OP(lt, Compare, kAny)                                                                            \
  OP(le, Compare, kAny)                                                                            \
  OP(gt, Compare, kAny)                                                                            \
  OP(logical_and, Compare, kAny)                                                                   \
  OP(logical_or, Compare, kAny)                                                                    \
  OP(ge, Compare, kAny)                                                                            \
  OP(where, Where, kArithmetic)
