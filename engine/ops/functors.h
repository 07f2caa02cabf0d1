#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "lockstep/engine/ops/pointwise_math.h"

// The arithmetic of every pointwise op, compiled for host and device alike. A functor is named like
// its op; p and q are the op's parameters, converted by whoever needs them.
namespace lockstep::functor {

// A bound as T, saturated where T is an integer type: no number of T lies beyond it.
template <typename T>
LOCKSTEP_HD T bound(double p) {
  if constexpr (std::is_integral_v<T>) {
    if (!(p > static_cast<double>(std::numeric_limits<T>::lowest()))) {
      return std::numeric_limits<T>::lowest();
    }
    if (p >= static_cast<double>(std::numeric_limits<T>::max())) {
      return std::numeric_limits<T>::max();
    }
  }
  return static_cast<T>(p);
}

// x between two bounds. The upper one wins where they cross; NaN anywhere gives NaN.
template <typename T>
LOCKSTEP_HD T bounded(T x, T low, T high) {
  x = x < low || low != low ? low : x;
  return x > high || high != high ? high : x;
}

// What T's sums and products are computed in: integers wrap, which signed ones may not.
template <typename T, bool kInteger = std::is_integral_v<T> && !std::is_same_v<T, bool>>
struct WrappingType {
  using Type = T;
};
template <typename T>
struct WrappingType<T, true> {
  using Type = std::make_unsigned_t<T>;
};
template <typename T>
using Wrapping = typename WrappingType<T>::Type;

// NOLINTBEGIN(readability-identifier-naming): functors bear the names of their ops

#define LOCKSTEP_UNARY_FUNCTOR(op, expression)                     \
  struct op {                                                      \
    template <typename T>                                          \
    LOCKSTEP_HD static T apply(T x, [[maybe_unused]] double p = 0, \
                               [[maybe_unused]] double q = 0) {    \
      using W [[maybe_unused]] = Wrapping<T>;                      \
      return static_cast<T>(expression);                           \
    }                                                              \
  };
#define LOCKSTEP_BINARY_FUNCTOR(op, expression)                         \
  struct op {                                                           \
    template <typename T>                                               \
    LOCKSTEP_HD static T apply(T a, T b, [[maybe_unused]] double p = 0, \
                               [[maybe_unused]] double q = 0) {         \
      using W [[maybe_unused]] = Wrapping<T>;                           \
      return static_cast<T>(expression);                                \
    }                                                                   \
  };
#define LOCKSTEP_COMPARE_FUNCTOR(op, symbol)                          \
  struct op {                                                         \
    template <typename T>                                             \
    LOCKSTEP_HD static bool apply(T a, T b, double = 0, double = 0) { \
      return a symbol b;                                              \
    }                                                                 \
  };

LOCKSTEP_UNARY_FUNCTOR(neg, -W(x))
LOCKSTEP_UNARY_FUNCTOR(abs, x < T(0) ? T(-W(x)) : T(x + T(0)))  // -0 becomes 0
LOCKSTEP_UNARY_FUNCTOR(sign, T(x > T(0)) - T(x < T(0)))
LOCKSTEP_UNARY_FUNCTOR(exp, math::exp(x))
LOCKSTEP_UNARY_FUNCTOR(log, std::log(x))
LOCKSTEP_UNARY_FUNCTOR(sqrt, std::sqrt(x))
LOCKSTEP_UNARY_FUNCTOR(reciprocal, T(1) / x)
LOCKSTEP_UNARY_FUNCTOR(sin, std::sin(x))
LOCKSTEP_UNARY_FUNCTOR(cos, std::cos(x))
LOCKSTEP_UNARY_FUNCTOR(tanh, std::tanh(x))
LOCKSTEP_UNARY_FUNCTOR(sigmoid, T(1) / (T(1) + math::exp(-x)))
LOCKSTEP_UNARY_FUNCTOR(relu, x < T(0) ? T(0) : x)  // keeps NaN
LOCKSTEP_UNARY_FUNCTOR(clamp, bounded(x, bound<T>(p), bound<T>(q)))
LOCKSTEP_UNARY_FUNCTOR(rsqrt, T(1) / std::sqrt(x))
LOCKSTEP_UNARY_FUNCTOR(log1p, std::log1p(x))
LOCKSTEP_UNARY_FUNCTOR(expm1, std::expm1(x))
LOCKSTEP_UNARY_FUNCTOR(tan, std::tan(x))
LOCKSTEP_UNARY_FUNCTOR(erf, math::erf(x))
LOCKSTEP_UNARY_FUNCTOR(atan, std::atan(x))
LOCKSTEP_UNARY_FUNCTOR(silu, x / (T(1) + math::exp(-x)))
LOCKSTEP_UNARY_FUNCTOR(softplus, x* T(p) > T(q) ? x : std::log1p(math::exp(x * T(p))) / T(p))
LOCKSTEP_UNARY_FUNCTOR(leaky_relu, x > T(0) ? x : x * T(p))
LOCKSTEP_UNARY_FUNCTOR(elu, x > T(0) ? x : T(p) * std::expm1(x))
LOCKSTEP_UNARY_FUNCTOR(hardtanh, bounded(x, bound<T>(p), bound<T>(q)))

// x P(X < x) of a standard normal X (Hendrycks and Gimpel, arXiv 1606.08415), and the paper's
// approximation of it by tanh.
inline constexpr double kSqrtHalf = 0.70710678118654752440;
inline constexpr double kInvSqrt2Pi = 0.39894228040143267794;
inline constexpr double kSqrt2OverPi = 0.79788456080286535588;
inline constexpr double kGeluCubic = 0.044715;
LOCKSTEP_UNARY_FUNCTOR(gelu_erf, T(0.5) * x * (T(1) + math::erf(x * T(kSqrtHalf))))
LOCKSTEP_UNARY_FUNCTOR(gelu_tanh,
                       T(0.5) * x *
                           (T(1) + std::tanh(T(kSqrt2OverPi) * (x + T(kGeluCubic) * x * x * x))))

struct pow_scalar {
  template <typename T>
  LOCKSTEP_HD static T apply(T x, double p, double = 0) {
    using W = Wrapping<T>;
    if (p == 2.0) return static_cast<T>(W(x) * W(x));
    if (p == 3.0) return static_cast<T>(W(x) * W(x) * W(x));
    if (p == 1.0) return x;
    if constexpr (std::is_floating_point_v<T>) {
      if (p == 0.5) return std::sqrt(x);  // as PyTorch; differs at -0 and -inf
      if (p == -0.5) return T(1) / std::sqrt(x);
      return std::pow(x, static_cast<T>(p));
    } else {
      T result = 1;
      for (int64_t n = static_cast<int64_t>(p); n > 0; n >>= 1) {
        if (n & 1) result = static_cast<T>(W(result) * W(x));
        x = static_cast<T>(W(x) * W(x));
      }
      return result;
    }
  }
};

LOCKSTEP_BINARY_FUNCTOR(add, W(a) + W(b))
LOCKSTEP_BINARY_FUNCTOR(add_scaled, W(a) + W(T(p)) * W(b))
LOCKSTEP_BINARY_FUNCTOR(sub, W(a) - W(b))
LOCKSTEP_BINARY_FUNCTOR(mul, W(a) * W(b))
LOCKSTEP_BINARY_FUNCTOR(div, a / b)
LOCKSTEP_BINARY_FUNCTOR(maximum, a != a ? a : (a > b ? a : b))
LOCKSTEP_BINARY_FUNCTOR(minimum, a != a ? a : (a < b ? a : b))
LOCKSTEP_BINARY_FUNCTOR(relu_backward, b <= T(0) ? T(0) : a)  // at NaN too
LOCKSTEP_BINARY_FUNCTOR(sigmoid_backward, a*(b*(T(1) - b)))
LOCKSTEP_BINARY_FUNCTOR(tanh_backward, a*(T(1) - b * b))
LOCKSTEP_BINARY_FUNCTOR(clamp_backward, b >= bound<T>(p) && b <= bound<T>(q) ? a : T(0))
LOCKSTEP_BINARY_FUNCTOR(hardtanh_backward, b <= bound<T>(p) || b >= bound<T>(q) ? T(0) : a)
LOCKSTEP_BINARY_FUNCTOR(leaky_relu_backward, b > T(0) ? a : a * T(p))
LOCKSTEP_BINARY_FUNCTOR(elu_backward, b <= T(0) ? a * T(p) * math::exp(b) : a)  // a at NaN
LOCKSTEP_BINARY_FUNCTOR(softplus_backward, b* T(p) > T(q) ? a : a / (T(1) + math::exp(-b * T(p))))
LOCKSTEP_BINARY_FUNCTOR(gelu_erf_backward, a*(T(0.5) * (T(1) + math::erf(b * T(kSqrtHalf))) +
                                              b * T(kInvSqrt2Pi) * math::exp(T(-0.5) * b * b)))

struct silu_backward {
  template <typename T>
  LOCKSTEP_HD static T apply(T g, T x, double = 0, double = 0) {
    const T s = T(1) / (T(1) + math::exp(-x));
    return g * s * (T(1) + x * (T(1) - s));
  }
};

struct gelu_tanh_backward {
  template <typename T>
  LOCKSTEP_HD static T apply(T g, T x, double = 0, double = 0) {
    const T t = std::tanh(T(kSqrt2OverPi) * (x + T(kGeluCubic) * x * x * x));
    const T slope = T(kSqrt2OverPi) * (T(1) + T(3 * kGeluCubic) * x * x);
    return g * T(0.5) * (T(1) + t + x * (T(1) - t * t) * slope);
  }
};

// Integers to negative powers are 0, but for 1 and -1.
struct pow_tensor {
  template <typename T>
  LOCKSTEP_HD static T apply(T a, T b, double = 0, double = 0) {
    if constexpr (std::is_floating_point_v<T>) {
      return std::pow(a, b);
    } else {
      if constexpr (std::is_signed_v<T>) {
        if (b < 0) return a == T(1) ? T(1) : (a == T(-1) ? ((b & 1) ? T(-1) : T(1)) : T(0));
      }
      T result = 1;
      for (T n = b; n > 0; n = static_cast<T>(n >> 1)) {
        if (n & 1) result = static_cast<T>(result * a);
        a = static_cast<T>(a * a);
      }
      return result;
    }
  }
};

LOCKSTEP_COMPARE_FUNCTOR(eq, ==)
LOCKSTEP_COMPARE_FUNCTOR(ne, !=)
LOCKSTEP_COMPARE_FUNCTOR(lt, <)
LOCKSTEP_COMPARE_FUNCTOR(le, <=)
LOCKSTEP_COMPARE_FUNCTOR(gt, >)
LOCKSTEP_COMPARE_FUNCTOR(ge, >=)
LOCKSTEP_COMPARE_FUNCTOR(logical_and, &&)
LOCKSTEP_COMPARE_FUNCTOR(logical_or, ||)

struct where {
  template <typename T>
  LOCKSTEP_HD static T apply(T condition, T a, T b, double = 0, double = 0) {
    return condition != T(0) ? a : b;
  }
};

// NOLINTEND(readability-identifier-naming)

#undef LOCKSTEP_UNARY_FUNCTOR
#undef LOCKSTEP_BINARY_FUNCTOR
#undef LOCKSTEP_COMPARE_FUNCTOR

}  // namespace lockstep::functor
