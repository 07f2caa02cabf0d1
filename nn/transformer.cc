#include "lockstep/nn/transformer.h"

#include "lockstep/engine/ops/pointwise.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::nn {

TransformerEncoderLayer::TransformerEncoderLayer(int64_t d_model, int64_t nhead, Options o)
    : self_attn(d_model, nhead,
                {.dropout = o.dropout, .bias = o.bias, .batch_first = o.batch_first}),
      linear1(d_model, o.dim_feedforward, {.bias = o.bias}),
      dropout(o.dropout),
      linear2(o.dim_feedforward, d_model, {.bias = o.bias}),
      norm1(d_model, {.eps = o.layer_norm_eps, .bias = o.bias}),
      norm2(d_model, {.eps = o.layer_norm_eps, .bias = o.bias}),
      dropout1(o.dropout),
      dropout2(o.dropout),
      gelu_(o.activation == "gelu"),
      norm_first_(o.norm_first) {
  check(gelu_ || o.activation == "relu", "activation should be relu/gelu, not {}", o.activation);
  register_modules({{"self_attn", self_attn},
                    {"linear1", linear1},
                    {"dropout", dropout},
                    {"linear2", linear2},
                    {"norm1", norm1},
                    {"norm2", norm2},
                    {"dropout1", dropout1},
                    {"dropout2", dropout2}});
}

Tensor TransformerEncoderLayer::attend(const Tensor& x, const AttentionMasks& masks) {
  return dropout1(self_attn(x, x, x, {.masks = masks, .need_weights = false}).output);
}

Tensor TransformerEncoderLayer::feed_forward(const Tensor& x) {
  const Tensor h = linear1(x);
  return dropout2(linear2(dropout(gelu_ ? gelu(h) : relu(h))));
}

Tensor TransformerEncoderLayer::forward(const Tensor& src, const AttentionMasks& masks) {
  check(
      src.dim() == 2 || src.dim() == 3,
      "[TransformerEncoderLayer] expects (L, N, d_model), (N, L, d_model) or (L, d_model), got {}",
      src.sizes().str());
  if (norm_first_) {
    const Tensor x = src + attend(norm1(src), masks);
    return x + feed_forward(norm2(x));
  }
  const Tensor x = norm1(src + attend(src, masks));
  return norm2(x + feed_forward(x));
}

}  // namespace lockstep::nn
