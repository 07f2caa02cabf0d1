#include "lockstep/distributed/reduce_kernels.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "lockstep/distributed/flush_denormals.h"
#include "lockstep/distributed/half_kernels.h"
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

// Small enough to stay in the first-level cache together with two blocks of sources.
constexpr int64_t kBlock = 1024;

// A block of a source in the dtype it is combined in, which may mean: in `space`.
template <typename T>
const Accumulator<T>* widened(const std::byte* source, int64_t begin, int64_t n,
                              Accumulator<T>* space) {
  const T* from = reinterpret_cast<const T*>(source) + begin;
  if constexpr (std::is_same_v<T, BFloat16>) {
    cpu::half_kernels().from_bfloat16(reinterpret_cast<const uint16_t*>(from), space, n);
    return space;
  } else if constexpr (std::is_same_v<T, Float16>) {
    cpu::half_kernels().from_float16(reinterpret_cast<const uint16_t*>(from), space, n);
    return space;
  } else {
    return from;
  }
}

template <typename T>
void narrow(const Accumulator<T>* sum, std::byte* output, int64_t begin, int64_t n) {
  T* to = reinterpret_cast<T*>(output) + begin;
  if constexpr (std::is_same_v<T, BFloat16>) {
    cpu::half_kernels().to_bfloat16(sum, reinterpret_cast<uint16_t*>(to), n);
  } else if constexpr (std::is_same_v<T, Float16>) {
    cpu::half_kernels().to_float16(sum, reinterpret_cast<uint16_t*>(to), n);
  } else {
    std::memcpy(to, sum, static_cast<size_t>(n) * sizeof(T));
  }
}

template <typename T, ReduceOp op>
void reduce_typed(std::span<const std::byte* const> sources, int64_t count,
                  std::span<std::byte* const> outputs) {
  using A = Accumulator<T>;
  alignas(64) A sum[kBlock];
  alignas(64) A space[2][kIsHalf<T> ? kBlock : 1];
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t n = std::min(kBlock, count - begin);
    const A* a = widened<T>(sources[0], begin, n, space[0]);
    if (sources.size() == 1) {
      std::memcpy(sum, a, static_cast<size_t>(n) * sizeof(A));
    } else {
      const A* b = widened<T>(sources[1], begin, n, space[1]);
      for (int64_t i = 0; i < n; ++i) sum[i] = combine<op>(a[i], b[i]);
    }
    for (size_t next = 2; next < sources.size(); ++next) {
      const A* b = widened<T>(sources[next], begin, n, space[1]);
      for (int64_t i = 0; i < n; ++i) sum[i] = combine<op>(sum[i], b[i]);
    }
    for (std::byte* output : outputs) narrow<T>(sum, output, begin, n);
  }
}

template <typename T>
void reduce_any_op(ReduceOp op, std::span<const std::byte* const> sources, int64_t count,
                   std::span<std::byte* const> outputs) {
  switch (op) {
    case ReduceOp::kSum:
      return reduce_typed<T, ReduceOp::kSum>(sources, count, outputs);
    case ReduceOp::kMin:
      return reduce_typed<T, ReduceOp::kMin>(sources, count, outputs);
    case ReduceOp::kMax:
      return reduce_typed<T, ReduceOp::kMax>(sources, count, outputs);
  }
}

}  // namespace

void reduce(Reduction reduction, std::span<const std::byte* const> sources, int64_t count,
            std::span<std::byte* const> outputs) {
  check(!sources.empty(), "[reduce] there is nothing to reduce");
  const FlushDenormals flush;
  const auto run = [&]<typename T>() { reduce_any_op<T>(reduction.op, sources, count, outputs); };
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
