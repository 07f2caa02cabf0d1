#include "lockstep/engine/cpu/pointwise_kernels.h"

#include "lockstep/engine/ops/functors.h"

namespace lockstep::cpu::LOCKSTEP_ISA {
namespace {

template <typename T>
T immediate_of(const PointwiseCall::Operand& operand);
template <>
float immediate_of<float>(const PointwiseCall::Operand& o) {
  return o.immediate.f32;
}
template <>
double immediate_of<double>(const PointwiseCall::Operand& o) {
  return o.immediate.f64;
}
template <>
int64_t immediate_of<int64_t>(const PointwiseCall::Operand& o) {
  return o.immediate.i64;
}
template <>
int32_t immediate_of<int32_t>(const PointwiseCall::Operand& o) {
  return o.immediate.i32;
}
template <>
uint8_t immediate_of<uint8_t>(const PointwiseCall::Operand& o) {
  return o.immediate.u8;
}
template <>
bool immediate_of<bool>(const PointwiseCall::Operand& o) {
  return o.immediate.b;
}

// An operand of the innermost loop: a pointer and a stride; immediates are read in place.
template <typename T>
struct Lane {
  const T* data;
  int64_t stride;
};

// The innermost loops: one shape per pattern that the compiler can vectorise. In place (out == in)
// is allowed, partial overlap is not, so iterations are independent.
template <typename F, typename T, typename R>
void inner1(R* out, int64_t so, Lane<T> a, int64_t n, double p, double q) {
  if (so == 1 && a.stride == 1) {
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) out[i] = F::apply(a.data[i], p, q);
  } else {
    for (int64_t i = 0; i < n; ++i) out[i * so] = F::apply(a.data[i * a.stride], p, q);
  }
}

template <typename F, typename T, typename R>
void inner2(R* out, int64_t so, Lane<T> a, Lane<T> b, int64_t n, double p, double q) {
  if (so == 1 && a.stride == 1 && b.stride == 1) {
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) out[i] = F::apply(a.data[i], b.data[i], p, q);
  } else if (so == 1 && a.stride == 1 && b.stride == 0) {
    const T value = *b.data;
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) out[i] = F::apply(a.data[i], value, p, q);
  } else if (so == 1 && a.stride == 0 && b.stride == 1) {
    const T value = *a.data;
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) out[i] = F::apply(value, b.data[i], p, q);
  } else {
    for (int64_t i = 0; i < n; ++i) {
      out[i * so] = F::apply(a.data[i * a.stride], b.data[i * b.stride], p, q);
    }
  }
}

template <typename F, typename T, typename R>
void inner3(R* out, int64_t so, Lane<T> a, Lane<T> b, Lane<T> c, int64_t n, double p, double q) {
  for (int64_t i = 0; i < n; ++i) {
    out[i * so] = F::apply(a.data[i * a.stride], b.data[i * b.stride], c.data[i * c.stride], p, q);
  }
}

// What the functor gives: T, or bool for comparisons, which all have two inputs.
template <typename F, typename T, int kInputs>
struct Result {
  using Type = T;
};
template <typename F, typename T>
struct Result<F, T, 2> {
  using Type = decltype(F::apply(T(), T(), 0.0, 0.0));
};

template <typename F, typename T, int kInputs>
void loop(const PointwiseCall& call, int64_t begin, int64_t end) {
  using R = typename Result<F, T, kInputs>::Type;
  T immediates[3];
  const T* base[3] = {nullptr, nullptr, nullptr};
  for (int i = 0; i < kInputs; ++i) {
    base[i] = static_cast<const T*>(call.in[i].data);
    if (!base[i]) {
      immediates[i] = immediate_of<T>(call.in[i]);
      base[i] = &immediates[i];
    }
  }
  const int last = call.dims - 1;
  const int64_t inner = last == 0 ? end - begin : call.sizes[last];
  for (int64_t at = begin; at < end; at += inner) {
    int64_t out_offset = 0;
    int64_t in_offset[3] = {0, 0, 0};
    if (last == 0) {
      out_offset = at * call.out.strides[0];
      for (int i = 0; i < kInputs; ++i) in_offset[i] = at * call.in[i].strides[0];
    } else {
      int64_t rest = at / inner;
      for (int d = last - 1; d >= 0; --d) {
        const int64_t index = rest % call.sizes[d];
        rest /= call.sizes[d];
        out_offset += index * call.out.strides[d];
        for (int i = 0; i < kInputs; ++i) in_offset[i] += index * call.in[i].strides[d];
      }
    }
    R* out = static_cast<R*>(call.out.data) + out_offset;
    const int64_t so = call.out.strides[last];
    const auto lane = [&](int i) {
      return Lane<T>{base[i] + in_offset[i], call.in[i].strides[last]};
    };
    if constexpr (kInputs == 1) {
      inner1<F, T, R>(out, so, lane(0), inner, call.p, call.q);
    } else if constexpr (kInputs == 2) {
      inner2<F, T, R>(out, so, lane(0), lane(1), inner, call.p, call.q);
    } else {
      inner3<F, T, R>(out, so, lane(0), lane(1), lane(2), inner, call.p, call.q);
    }
  }
}

enum class DTypes { kArithmetic, kFloating, kFloatingOnly, kAny };

template <typename F, int kInputs, DTypes kDTypes>
void run_op(const PointwiseCall& call, int64_t begin, int64_t end) {
  switch (call.dtype) {
    case DType::kFloat32:
      return loop<F, float, kInputs>(call, begin, end);
    case DType::kFloat64:
      return loop<F, double, kInputs>(call, begin, end);
    default:
      break;
  }
  if constexpr (kDTypes == DTypes::kArithmetic || kDTypes == DTypes::kAny) {
    switch (call.dtype) {
      case DType::kInt64:
        return loop<F, int64_t, kInputs>(call, begin, end);
      case DType::kInt32:
        return loop<F, int32_t, kInputs>(call, begin, end);
      case DType::kUInt8:
        return loop<F, uint8_t, kInputs>(call, begin, end);
      default:
        break;
    }
  }
  if constexpr (kDTypes == DTypes::kAny) {
    if (call.dtype == DType::kBool) return loop<F, bool, kInputs>(call, begin, end);
  }
}

void run(PointwiseOp op, const PointwiseCall& call, int64_t begin, int64_t end) {
  constexpr int Unary = 1, Unary1 = 1, Unary2 = 1, Binary = 2, Binary1 = 2, Binary2 = 2,
                Compare = 2, Where = 3;
  switch (op) {
#define LOCKSTEP_OP(name, arity, dtypes, ...) \
  case PointwiseOp::k_##name:                 \
    return run_op<functor::name, arity, DTypes::dtypes>(call, begin, end);
    LOCKSTEP_POINTWISE_OPS(LOCKSTEP_OP)
#undef LOCKSTEP_OP
    case PointwiseOp::kCount:
      break;
  }
}

}  // namespace

const PointwiseKernels& pointwise_kernels() {
  static constexpr PointwiseKernels kTable{.run = run};
  return kTable;
}

}  // namespace lockstep::cpu::LOCKSTEP_ISA
