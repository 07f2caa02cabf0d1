#pragma once

#include "lockstep/engine/backend.h"

// Attention in one kernel, which keeps no weights: what a backend may have beside its ops.
namespace lockstep {

// y = dropout(softmax(scale q k^T)) v: q (B, H, L, E), k (B, H, S, E), v (B, H, S, V), y (B, H, L,
// V), all of one dtype. The last dimension has stride 1; every other stride, and the first element,
// is a multiple of 16 bytes. y and all gradients are stored as (B, length, H, width).
struct AttentionCall {
  Tensor q, k, v;
  double scale = 1;
  double dropout = 0;   // below 1
  bool causal = false;  // query i sees keys 0 to i
  RandomKey key{};  // of the dropout: the same key drops the same weights, of the backend's choice
};

class FusedAttention {
 public:
  FusedAttention() = default;
  virtual ~FusedAttention();
  FusedAttention(const FusedAttention&) = delete;
  FusedAttention& operator=(const FusedAttention&) = delete;

  // Whether it can do such a call, and its gradient too if `gradient`. The same answer every time.
  virtual bool can_attend(const AttentionCall& call, bool gradient) = 0;
  // Only for what it can do. stats: (B, H, L, 1), float32, contiguous, the logarithm of each row's
  // sum of exp(score).
  virtual void attention(const Tensor& y, const Tensor& stats, const AttentionCall& call) = 0;
  // The gradients of q, k and v from y's; the call with the key that forward had.
  virtual void attention_gradient(const Tensor& gq, const Tensor& gk, const Tensor& gv,
                                  const Tensor& gy, const Tensor& y, const Tensor& stats,
                                  const AttentionCall& call) = 0;
  // (B, H, L, S), float32, contiguous: 1 where a call with dropout keeps a weight, else 0.
  virtual void attention_mask(const Tensor& mask, const AttentionCall& call) = 0;
};

// Null where the device's backend has none. Throws Error like backend_of().
FusedAttention* fused_attention_of(Device device);

}  // namespace lockstep
