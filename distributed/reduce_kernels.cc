#include "lockstep/distributed/reduce_kernels.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "lockstep/distributed/flush_denormals.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::distributed {
namespace {

template <typename T>
inline constexpr bool kIsHalf = std::is_same_v<T, BFloat16> || std::is_same_v<T, Float16>;
template <typename T>
using Accumulator = std::conditional_t<kIsHalf<T>, float, T>;

template <ReduceOp op, typename T>
inline T combine(T a, T b) {
  if constexpr (op == ReduceOp::kSum) {
    if constexpr (std::is_integral_v<T>) {
      using U = std::make_unsigned_t<T>;
      return static_cast<T>(static_cast<U>(static_cast<U>(a) + static_cast<U>(b)));
    } else {
      return a + b;
    }
  } else {
    const bool keep = op == ReduceOp::kMin ? a < b : a > b;
    return keep || a != a ? a : b;  // a NaN on either side stays
  }
}

// Small enough to stay in the first-level cache together with one block of a source.
constexpr int64_t kBlock = 1024;

template <typename T, ReduceOp op>
void reduce_typed(const std::byte* partial, std::span<const std::byte* const> sources,
                  int64_t count, std::span<std::byte* const> outputs, std::byte* result) {
  using A = Accumulator<T>;
  alignas(64) A sum[kBlock];
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t n = std::min(kBlock, count - begin);
    const auto bytes = static_cast<size_t>(n);
    size_t next = 0;
    if (partial != nullptr) {
      std::memcpy(sum, reinterpret_cast<const A*>(partial) + begin, bytes * sizeof(A));
    } else if (sources.size() > 1) {
      const T* a = reinterpret_cast<const T*>(sources[0]) + begin;
      const T* b = reinterpret_cast<const T*>(sources[1]) + begin;
      for (int64_t i = 0; i < n; ++i) sum[i] = combine<op>(A(a[i]), A(b[i]));
      next = 2;
    } else {
      const T* a = reinterpret_cast<const T*>(sources[0]) + begin;
      for (int64_t i = 0; i < n; ++i) sum[i] = A(a[i]);
      next = 1;
    }
    for (; next < sources.size(); ++next) {
      const T* b = reinterpret_cast<const T*>(sources[next]) + begin;
      for (int64_t i = 0; i < n; ++i) sum[i] = combine<op>(sum[i], A(b[i]));
    }
    for (std::byte* output : outputs) {
      T* out = reinterpret_cast<T*>(output) + begin;
      if constexpr (std::is_same_v<T, A>) {
        std::memcpy(out, sum, bytes * sizeof(T));
      } else {
        for (int64_t i = 0; i < n; ++i) out[i] = T(sum[i]);
      }
    }
    if (result != nullptr) {
      std::memcpy(reinterpret_cast<A*>(result) + begin, sum, bytes * sizeof(A));
    }
  }
}

template <typename T>
void reduce_any_op(ReduceOp op, const std::byte* partial, std::span<const std::byte* const> sources,
                   int64_t count, std::span<std::byte* const> outputs, std::byte* result) {
  switch (op) {
    case ReduceOp::kSum:
      return reduce_typed<T, ReduceOp::kSum>(partial, sources, count, outputs, result);
    case ReduceOp::kMin:
      return reduce_typed<T, ReduceOp::kMin>(partial, sources, count, outputs, result);
    case ReduceOp::kMax:
      return reduce_typed<T, ReduceOp::kMax>(partial, sources, count, outputs, result);
  }
}

}  // namespace

DType accumulator_of(DType dtype) {
  return dtype == DType::kBFloat16 || dtype == DType::kFloat16 ? DType::kFloat32 : dtype;
}

void reduce(Reduction reduction, const std::byte* partial,
            std::span<const std::byte* const> sources, int64_t count,
            std::span<std::byte* const> outputs, std::byte* result) {
  check(partial != nullptr || !sources.empty(), "[reduce] there is nothing to reduce");
  const FlushDenormals flush;
  const auto run = [&]<typename T>() {
    reduce_any_op<T>(reduction.op, partial, sources, count, outputs, result);
  };
  switch (reduction.dtype) {
    case DType::kFloat32:
      return run.operator()<float>();
    case DType::kFloat64:
      return run.operator()<double>();
    case DType::kBFloat16:
      return run.operator()<BFloat16>();
    case DType::kFloat16:
      return run.operator()<Float16>();
    case DType::kInt64:
      return run.operator()<int64_t>();
    case DType::kInt32:
      return run.operator()<int32_t>();
    case DType::kUInt8:
    case DType::kBool:
      return run.operator()<uint8_t>();
  }
}

}  // namespace lockstep::distributed
