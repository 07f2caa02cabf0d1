#pragma once

#include <utility>

#include "lockstep/engine/cuda/elementwise.h"
#include "lockstep/engine/cuda/kernel.cuh"
#include "lockstep/engine/ops/functors.h"

// The kernel of every pointwise op. They are many, so the ops are spread over kPointwiseParts
// sources, which the build makes of pointwise_part.cu.in and which compile in parallel.
namespace lockstep::cuda {

inline constexpr int kPointwiseParts = 4;

// Runs an op of the part: those whose number is kPart modulo kPointwiseParts.
template <int kPart>
void run_pointwise_part(cudaStream_t stream, PointwiseOp op, const PointwiseCall& call);

template <typename T>
__device__ T immediate_of(const PointwiseCall::Operand& o) {
  if constexpr (std::is_same_v<T, float>) return o.immediate.f32;
  if constexpr (std::is_same_v<T, double>) return o.immediate.f64;
  if constexpr (std::is_same_v<T, int64_t>) return o.immediate.i64;
  if constexpr (std::is_same_v<T, int32_t>) return o.immediate.i32;
  if constexpr (std::is_same_v<T, uint8_t>) return o.immediate.u8;
  if constexpr (std::is_same_v<T, bool>) return o.immediate.b;
}

// Neighbouring values that are loaded and stored together.
template <typename T, int kCount>
struct alignas(sizeof(T) * kCount) Pack {
  T values[kCount];
};

template <typename F, int kInputs, typename T>
LOCKSTEP_HD auto apply(const T (&x)[kInputs], double p, double q) {
  if constexpr (kInputs == 1) return F::apply(x[0], p, q);
  if constexpr (kInputs == 2) return F::apply(x[0], x[1], p, q);
  if constexpr (kInputs == 3) return F::apply(x[0], x[1], x[2], p, q);
}

// What the functor gives: T, or bool for comparisons.
template <typename F, typename T, int kInputs>
using Result = decltype(apply<F, kInputs, T>(std::declval<const T (&)[kInputs]>(), 0.0, 0.0));

template <typename Index, int kInputs>
__device__ void place(const PointwiseCall& call, Index i, int64_t* out, int64_t (&in)[kInputs]) {
  *out = 0;
  for (int k = 0; k < kInputs; ++k) in[k] = 0;
  for (int d = call.dims - 1; d >= 0; --d) {
    const auto size = static_cast<Index>(call.sizes[d]);
    const Index at = d > 0 ? i % size : i;
    if (d > 0) i /= size;
    *out += at * call.out.strides[d];
    for (int k = 0; k < kInputs; ++k) in[k] += at * call.in[k].strides[d];
  }
}

// `packed`: every tensor is dense and aligned, so that 16 bytes at a time may be moved; the tail
// goes one by one, with the same arithmetic.
template <typename F, typename T, int kInputs>
__global__ void __launch_bounds__(kThreads)
    pointwise_kernel(const PointwiseCall call, bool packed) {
  using R = Result<F, T, kInputs>;
  constexpr int kPack = 16 / sizeof(T);
  R* out = static_cast<R*>(call.out.data);
  const T* in[kInputs];
  T immediates[kInputs] = {};
  for (int k = 0; k < kInputs; ++k) {
    in[k] = static_cast<const T*>(call.in[k].data);
    if (!in[k]) immediates[k] = immediate_of<T>(call.in[k]);
  }
  int64_t first = 0;
  if (packed) {
    const int64_t packs = call.numel / kPack;
    for (int64_t i = grid_index(); i < packs; i += grid_size()) {
      Pack<T, kPack> x[kInputs];
      for (int k = 0; k < kInputs; ++k) {
        if (in[k]) x[k] = reinterpret_cast<const Pack<T, kPack>*>(in[k])[i];
      }
      Pack<R, kPack> y;
      for (int j = 0; j < kPack; ++j) {
        T values[kInputs];
        for (int k = 0; k < kInputs; ++k) values[k] = in[k] ? x[k].values[j] : immediates[k];
        y.values[j] = apply<F, kInputs, T>(values, call.p, call.q);
      }
      reinterpret_cast<Pack<R, kPack>*>(out)[i] = y;
    }
    first = packs * kPack;
  }
  const bool narrow = call.numel <= INT32_MAX;
  for (int64_t i = first + grid_index(); i < call.numel; i += grid_size()) {
    int64_t to, from[kInputs];
    if (narrow) {
      place<uint32_t, kInputs>(call, static_cast<uint32_t>(i), &to, from);
    } else {
      place<int64_t, kInputs>(call, i, &to, from);
    }
    T values[kInputs];
    for (int k = 0; k < kInputs; ++k) values[k] = in[k] ? in[k][from[k]] : immediates[k];
    out[to] = apply<F, kInputs, T>(values, call.p, call.q);
  }
}

// Whether 16 bytes of inputs, and as many results, can be moved at a time.
template <typename T, typename R>
bool can_pack(const PointwiseCall& call) {
  constexpr int kPack = 16 / sizeof(T);
  const auto aligned = [](const void* data, size_t bytes) {
    return reinterpret_cast<uintptr_t>(data) % bytes == 0;
  };
  if (call.dims != 1 || call.out.strides[0] != 1 || !aligned(call.out.data, kPack * sizeof(R))) {
    return false;
  }
  for (int k = 0; k < call.inputs; ++k) {
    if (call.in[k].data && (call.in[k].strides[0] != 1 || !aligned(call.in[k].data, 16))) {
      return false;
    }
  }
  return true;
}

template <typename F, typename T, int kInputs>
void run_op_as(cudaStream_t stream, const PointwiseCall& call) {
  const bool packed = can_pack<T, Result<F, T, kInputs>>(call);
  const int64_t per_thread = packed ? 16 / sizeof(T) : 1;
  launch(stream, blocks_for(call.numel, kThreads * per_thread), kThreads,
         pointwise_kernel<F, T, kInputs>, call, packed);
}

enum class DTypes { kArithmetic, kFloating, kFloatingOnly, kAny };

template <typename F, int kInputs, DTypes kDTypes>
void run_op(cudaStream_t stream, const PointwiseCall& call) {
  switch (call.dtype) {
    case DType::kFloat32:
      return run_op_as<F, float, kInputs>(stream, call);
    case DType::kFloat64:
      return run_op_as<F, double, kInputs>(stream, call);
    default:
      break;
  }
  if constexpr (kDTypes == DTypes::kArithmetic || kDTypes == DTypes::kAny) {
    switch (call.dtype) {
      case DType::kInt64:
        return run_op_as<F, int64_t, kInputs>(stream, call);
      case DType::kInt32:
        return run_op_as<F, int32_t, kInputs>(stream, call);
      case DType::kUInt8:
        return run_op_as<F, uint8_t, kInputs>(stream, call);
      default:
        break;
    }
  }
  if constexpr (kDTypes == DTypes::kAny) {
    if (call.dtype == DType::kBool) return run_op_as<F, bool, kInputs>(stream, call);
  }
  no_kernel("pointwise", call.dtype);
}

}  // namespace lockstep::cuda
