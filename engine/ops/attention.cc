#include "lockstep/engine/ops/attention.h"

#include <cmath>
#include <limits>

#include "lockstep/engine/ops/autocast.h"
#include "lockstep/engine/ops/dropout.h"
#include "lockstep/engine/ops/masks.h"
#include "lockstep/engine/ops/matmul.h"
#include "lockstep/engine/ops/pointwise.h"
#include "lockstep/engine/ops/softmax.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/engine/tensor/factory.h"

namespace lockstep {

Tensor scaled_dot_product_attention(const Tensor& query, const Tensor& key, const Tensor& value,
                                    const AttentionOptions& options) {
  LOCKSTEP_AUTOCAST(scaled_dot_product_attention, query, key, value, options);
  check(query.dim() >= 2 && key.dim() >= 2 && value.dim() >= 2,
        "scaled_dot_product_attention: Expected query, key, and value to all be  at least 2 "
        "dimensional, but got query.dim: {}, key.dim: {} and value.dim: {} instead.",
        query.dim(), key.dim(), value.dim());
  check(!options.causal || !options.mask.defined(),
        "scaled_dot_product_attention: Explicit attn_mask should not be set when is_causal=True");
  const double scale =
      options.scale != 0 ? options.scale : 1 / std::sqrt(static_cast<double>(query.size(-1)));
  Tensor scores = matmul(mul(query, scale), key.transpose(-2, -1));
  constexpr double kHidden = -std::numeric_limits<double>::infinity();
  if (options.causal) {
    const Tensor seen = tril(ones({query.size(-2), key.size(-2)}, {DType::kUInt8, query.device()}));
    scores = masked_fill(scores, eq(seen, 0), kHidden);
  } else if (options.mask.defined() && options.mask.dtype() == DType::kBool) {
    scores = masked_fill(scores, logical_not(options.mask), kHidden);
  } else if (options.mask.defined()) {
    scores = add(scores, options.mask.to(scores.dtype()));
  }
  const Tensor weights = softmax(scores, -1);
  return matmul(options.dropout > 0 ? dropout(weights, options.dropout, true) : weights, value);
}

}  // namespace lockstep
