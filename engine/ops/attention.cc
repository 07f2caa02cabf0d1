#include "lockstep/engine/ops/attention.h"

#include <cmath>
#include <limits>

#include "lockstep/engine/autograd/op_node.h"
#include "lockstep/engine/capture.h"
#include "lockstep/engine/fused_attention.h"
#include "lockstep/engine/ops/autocast.h"
#include "lockstep/engine/ops/dropout.h"
#include "lockstep/engine/ops/half.h"
#include "lockstep/engine/ops/masks.h"
#include "lockstep/engine/ops/matmul.h"
#include "lockstep/engine/ops/pointwise.h"
#include "lockstep/engine/ops/reduce.h"
#include "lockstep/engine/ops/softmax.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"
#include "lockstep/engine/tensor/tensor_impl.h"

namespace lockstep {
namespace {

using autograd::OpNode;
using autograd::record;

Tensor swapped(const Tensor& x) { return x.transpose(-2, -1); }

Tensor weights_of(const Tensor& query, const Tensor& key, double scale, bool causal,
                  const Tensor& mask) {
  Tensor scores = matmul(mul(query, scale), swapped(key));
  constexpr double kHidden = -std::numeric_limits<double>::infinity();
  if (causal) {
    const Tensor seen = tril(ones({query.size(-2), key.size(-2)}, {DType::kUInt8, query.device()}));
    scores = masked_fill(scores, eq(seen, 0), kHidden);
  } else if (mask.defined() && mask.dtype() == DType::kBool) {
    scores = masked_fill(scores, logical_not(mask), kHidden);
  } else if (mask.defined()) {
    scores = add(scores, mask.to(scores.dtype()));
  }
  return softmax(scores, -1);
}

// -- in one kernel, where the backend has it

constexpr int64_t kAlignment = 16;

bool is_aligned(const Tensor& x) {
  const auto size = static_cast<int64_t>(size_of(x.dtype()));
  bool aligned = x.stride(-1) == 1 && reinterpret_cast<uintptr_t>(x.data_ptr()) % kAlignment == 0;
  for (int d = 0; d + 1 < x.dim(); ++d) {
    aligned = aligned && x.stride(d) > 0 && x.stride(d) * size % kAlignment == 0;
  }
  return aligned;
}

Tensor aligned(const Tensor& x) { return is_aligned(x) ? x : x.clone().contiguous(); }

// (B, H, length, width), stored as (B, length, H, width): so that heads join without a copy.
Tensor empty_by_heads(int64_t length, int64_t width, const Tensor& like) {
  const int64_t b = like.size(0), h = like.size(1);
  return alias_of(empty_dense({b, length, h, width}, like.dtype(), like.device()),
                  {b, h, length, width}, {length * h * width, width, h * width, 1}, 0);
}

// x with that layout.
Tensor by_heads(const Tensor& x) {
  const Tensor joined = x.transpose(1, 2);
  if (joined.is_contiguous() && is_aligned(x)) return x;
  const Tensor y = empty_by_heads(x.size(2), x.size(3), x);
  backend_of(x).copy(y, x);
  return y;
}

Tensor empty_rows(const Tensor& q) {
  return empty_dense({q.size(0), q.size(1), q.size(2), 1}, DType::kFloat32, q.device());
}

// Saves the output and a number for each row, and no weights.
struct AttentionBackward final : OpNode<5> {  // q, k, v, y, stats
  AttentionCall options;                      // without its tensors
  std::string_view name() const override { return "ScaledDotProductCudnnAttentionBackward0"; }

  void apply(std::span<Tensor> gradients, std::span<Tensor> results) override {
    AttentionCall call = options;
    call.q = saved(0);
    call.k = saved(1);
    call.v = saved(2);
    if (autograd::grad_enabled()) {
      apply_differentiably(gradients[0], call, results);
      return;
    }
    const Tensor gq = empty_by_heads(call.q.size(2), call.q.size(3), call.q);
    const Tensor gk = empty_by_heads(call.k.size(2), call.k.size(3), call.k);
    const Tensor gv = empty_by_heads(call.v.size(2), call.v.size(3), call.v);
    fused_attention_of(call.q.device())
        ->attention_gradient(gq, gk, gv, by_heads(gradients[0]), saved(3), saved(4), call);
    if (needs(0)) results[0] = gq;
    if (needs(1)) results[1] = gk;
    if (needs(2)) results[2] = gv;
  }

 private:
  // The same in differentiable ops, for create_graph. With P the weights, M what dropout multiplies
  // them with: gv = (P M)^T gy, dP = M (gy v^T), dS = scale P (dP - sum(dP P)), gq = dS k,
  // gk = dS^T q.
  void apply_differentiably(const Tensor& gradient, const AttentionCall& call,
                            std::span<Tensor> results) {
    const Tensor q = widened(call.q), k = widened(call.k), v = widened(call.v);
    const Tensor gy = widened(gradient);
    const Tensor weights = weights_of(q, k, call.scale, call.causal, {});
    const Tensor dropped = dropout_of(call);
    const auto drop = [&](const Tensor& x) { return dropped.defined() ? mul(x, dropped) : x; };
    const DType dtype = call.q.dtype();
    if (needs(2)) results[2] = matmul(swapped(drop(weights)), gy).to(dtype);
    if (!needs(0) && !needs(1)) return;
    const Tensor slopes = drop(matmul(gy, swapped(v)));
    const Tensor rest = sub(slopes, sum(mul(slopes, weights), {-1}, true));
    const Tensor scores = mul(mul(weights, rest), call.scale);
    if (needs(0)) results[0] = matmul(scores, k).to(dtype);
    if (needs(1)) results[1] = matmul(swapped(scores), q).to(dtype);
  }
  // 1 / (1 - p) where a weight was kept, else 0; undefined without dropout.
  static Tensor dropout_of(const AttentionCall& call) {
    if (call.dropout == 0) return {};
    const autograd::NoGrad no_grad;
    const Tensor mask =
        empty_dense({call.q.size(0), call.q.size(1), call.q.size(2), call.k.size(2)},
                    DType::kFloat32, call.q.device());
    fused_attention_of(call.q.device())->attention_mask(mask, call);
    return mul(mask, 1 / (1 - call.dropout));
  }
};

// What every backend's kernel wants.
bool may_be_fused(const Tensor& q, const Tensor& k, const Tensor& v,
                  const AttentionOptions& options) {
  if (options.mask.defined() || options.dropout < 0 || options.dropout >= 1) return false;
  for (const Tensor* t : {&q, &k, &v}) {
    constexpr int64_t kStep = 8;  // elements of 16 bits in kAlignment
    if (t->dim() != 4 || t->numel() == 0 || t->size(3) % kStep != 0) return false;
    if (!is_half(t->dtype()) || t->dtype() != q.dtype() || t->device() != q.device()) return false;
    if (t->size(0) != q.size(0) || t->size(1) != q.size(1)) return false;
  }
  return q.size(3) == k.size(3) && k.size(2) == v.size(2);
}

// Undefined where it has to be composed.
Tensor fused(const Tensor& query, const Tensor& key, const Tensor& value, double scale,
             const AttentionOptions& options) {
  if (!may_be_fused(query, key, value, options)) return {};
  // cuDNN's seed comes from the host, where a replay does not come by.
  if (options.dropout > 0 && graph_in_capture()) return {};
  FusedAttention* const backend = fused_attention_of(query.device());
  if (!backend) return {};
  const Tensor q = aligned(query), k = aligned(key), v = aligned(value);
  AttentionCall call{.q = q, .k = k, .v = v, .scale = scale, .dropout = options.dropout};
  call.causal = options.causal;
  const bool recorded =
      autograd::grad_enabled() && (q.requires_grad() || k.requires_grad() || v.requires_grad());
  if (!backend->can_attend(call, recorded)) return {};
  if (call.dropout > 0) call.key = next_random_key();

  const Tensor y = empty_by_heads(q.size(2), v.size(3), q), stats = empty_rows(q);
  backend->attention(y, stats, call);
  if (auto node = record<AttentionBackward>(y, q, k, v)) {
    node->save(0, q);
    node->save(1, k);
    node->save(2, v);
    node->save_output(3, y);
    node->save(4, stats);
    call.q = call.k = call.v = Tensor();
    node->options = call;
  }
  return y;
}

}  // namespace

Tensor scaled_dot_product_attention(const Tensor& query, const Tensor& key, const Tensor& value,
                                    const AttentionOptions& options) {
  LOCKSTEP_AUTOCAST(scaled_dot_product_attention, query, key, value, options);
  check(query.dim() >= 2 && key.dim() >= 2 && value.dim() >= 2,
        "scaled_dot_product_attention: Expected query, key, and value to all be  at least 2 "
        "dimensional, but got query.dim: {}, key.dim: {} and value.dim: {} instead.",
        query.dim(), key.dim(), value.dim());
  check(!options.causal || !options.mask.defined(),
        "scaled_dot_product_attention: Explicit attn_mask should not be set when is_causal=True");
  check(options.dropout >= 0 && options.dropout <= 1,
        "dropout probability has to be between 0 and 1, but got {}", options.dropout);
  const double scale =
      options.scale != 0 ? options.scale : 1 / std::sqrt(static_cast<double>(query.size(-1)));
  if (const Tensor y = fused(query, key, value, scale, options); y.defined()) return y;
  const Tensor weights = weights_of(query, key, scale, options.causal, options.mask);
  return matmul(options.dropout > 0 ? dropout(weights, options.dropout, true) : weights, value);
}

}  // namespace lockstep
