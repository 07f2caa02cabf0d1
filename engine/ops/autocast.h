#pragma once

#include <tuple>
#include <vector>

#include "lockstep/engine/autograd/autocast.h"
#include "lockstep/engine/ops/pointwise.h"
#include "lockstep/engine/ops/pointwise_call.h"

// Internal: what autocast does to which op. The lists are those of PyTorch 2 for CUDA
// (autocast_mode.h), as far as the ops exist here; its CPU list keeps bfloat16 in more places.
namespace lockstep::autocast {

enum class Policy : uint8_t {
  kNone,
  kLow,      // arguments in the scope's dtype
  kFloat32,  // arguments, and so the result, in float32
  kWidest,   // arguments in the widest dtype among them
};

// By the name of the op. What needs no entry to promote (cat, stack, where, arithmetic) has none.
namespace policy {
inline constexpr Policy linear = Policy::kLow, linear_gelu = Policy::kLow, matmul = Policy::kLow,
                        mm = Policy::kLow, bmm = Policy::kLow, mv = Policy::kLow,
                        addmm = Policy::kLow, conv1d = Policy::kLow, conv2d = Policy::kLow,
                        conv_transpose2d = Policy::kLow, einsum = Policy::kLow,
                        scaled_dot_product_attention = Policy::kLow;

inline constexpr Policy softmax = Policy::kFloat32, log_softmax = Policy::kFloat32,
                        layer_norm = Policy::kFloat32, group_norm = Policy::kFloat32,
                        rms_norm = Policy::kFloat32, norm = Policy::kFloat32,
                        logsumexp = Policy::kFloat32, sum = Policy::kFloat32,
                        prod = Policy::kFloat32, cumsum = Policy::kFloat32,
                        nll_loss = Policy::kFloat32, cross_entropy = Policy::kFloat32,
                        mse_loss = Policy::kFloat32, l1_loss = Policy::kFloat32,
                        smooth_l1_loss = Policy::kFloat32, kl_div = Policy::kFloat32,
                        binary_cross_entropy_with_logits = Policy::kFloat32;

inline constexpr Policy dot = Policy::kWidest, index_put = Policy::kWidest,
                        scatter_add = Policy::kWidest;
}  // namespace policy

constexpr Policy policy_of(PointwiseOp op) {
  switch (op) {
    case PointwiseOp::k_exp:
    case PointwiseOp::k_expm1:
    case PointwiseOp::k_log:
    case PointwiseOp::k_log1p:
    case PointwiseOp::k_pow_scalar:
    case PointwiseOp::k_pow_tensor:
    case PointwiseOp::k_reciprocal:
    case PointwiseOp::k_rsqrt:
    case PointwiseOp::k_softplus:
    case PointwiseOp::k_tan:
      return Policy::kFloat32;
    default:
      return Policy::kNone;
  }
}

// An argument of a pointwise op that owns its tensor.
struct OwnedOperand {
  Tensor tensor;
  Scalar scalar;
  operator Operand() const { return tensor.defined() ? Operand(tensor) : Operand(scalar); }
};

// Arguments in `dtype`; what is no tensor stays as it is.
inline Tensor cast(DType dtype, const Tensor& x) { return autograd::autocast_to(dtype, x); }
inline OwnedOperand cast(DType dtype, const Operand& x) {
  if (!x.is_tensor()) return {{}, x.scalar()};
  return {cast(dtype, x.tensor()), 0};
}
inline std::vector<Tensor> cast(DType dtype, const std::vector<Tensor>& list) {
  std::vector<Tensor> all;
  for (const Tensor& x : list) all.push_back(cast(dtype, x));
  return all;
}
template <typename T>
const T& cast(DType, const T& other) {
  return other;
}

// The wider of `dtype` and an argument's: float32 if either is.
inline DType wider(DType dtype, const Tensor& x) {
  return x.defined() && x.dtype() == DType::kFloat32 ? DType::kFloat32 : dtype;
}
template <typename T>
DType wider(DType dtype, const T&) {
  return dtype;
}

// Runs `op`, which is its public function, once more on converted arguments and without autocast.
template <Policy kPolicy, typename F, typename... Args>
auto call(const F& op, const Args&... args) {
  DType dtype = kPolicy == Policy::kFloat32 ? DType::kFloat32 : autograd::autocast_dtype();
  if constexpr (kPolicy == Policy::kWidest) ((dtype = wider(dtype, args)), ...);
  const autograd::NoAutocast off;
  return op(cast(dtype, args)...);
}

// What an op with a policy begins with.
#define LOCKSTEP_AUTOCAST_AS(policy_, op, ...)                                                    \
  if constexpr ((policy_) != autocast::Policy::kNone) {                                           \
    if (autograd::autocast_enabled()) [[unlikely]] {                                              \
      return autocast::call<(policy_)>([](const auto&... args) { return lockstep::op(args...); }, \
                                       __VA_ARGS__);                                              \
    }                                                                                             \
  }
#define LOCKSTEP_AUTOCAST(op, ...) LOCKSTEP_AUTOCAST_AS(autocast::policy::op, op, __VA_ARGS__)

}  // namespace lockstep::autocast
