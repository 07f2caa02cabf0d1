#pragma once

#include <optional>

#include "lockstep/nn/linear.h"
#include "lockstep/nn/module.h"

namespace lockstep::nn {

// Which keys a query may not see. L queries, S keys, N samples, H heads.
struct AttentionMasks {
  // (L, S) or (N H, L, S). bool: true hides; floating: a number added to the scores. Or undefined.
  Tensor attn_mask{};
  // (N, S), or (S) for a single sample; the same two kinds.
  Tensor key_padding_mask{};
  bool causal = false;  // query i sees keys up to i; together with the masks
};

struct AttentionOutput {
  Tensor output;   // as the query, (..., embed_dim)
  Tensor weights;  // (N, L, S), the heads' mean, or (N, H, L, S); undefined if not asked for
};

// Multi-head attention: Vaswani et al., "Attention is all you need", NeurIPS 2017. Takes query
// (L, N, embed_dim), key (S, N, kdim), value (S, N, vdim), with batch_first (N, L, ...), or a
// single sample without the N. A query that may see no key at all gives NaN.
class MultiheadAttention : public Module {
 public:
  struct Options {
    double dropout = 0.0;  // of the attention weights, while training
    bool bias = true;
    std::optional<int64_t> kdim{}, vdim{};  // none: embed_dim
    bool batch_first = false;
  };
  struct ForwardOptions {
    AttentionMasks masks{};
    bool need_weights = true;
    bool average_attn_weights = true;
  };

  MultiheadAttention(int64_t embed_dim, int64_t num_heads, Options options);
  MultiheadAttention(int64_t embed_dim, int64_t num_heads)
      : MultiheadAttention(embed_dim, num_heads, Options()) {}

  AttentionOutput forward(const Tensor& query, const Tensor& key, const Tensor& value,
                          const ForwardOptions& options);
  AttentionOutput forward(const Tensor& query, const Tensor& key, const Tensor& value) {
    return forward(query, key, value, ForwardOptions());
  }
  AttentionOutput operator()(const Tensor& query, const Tensor& key, const Tensor& value,
                             const ForwardOptions& options) {
    return forward(query, key, value, options);
  }
  AttentionOutput operator()(const Tensor& query, const Tensor& key, const Tensor& value) {
    return forward(query, key, value, ForwardOptions());
  }

  // One matrix (3 embed_dim, embed_dim) for query, key and value; three where kdim or vdim differ.
  Tensor in_proj_weight, q_proj_weight, k_proj_weight, v_proj_weight;
  Tensor in_proj_bias;  // (3 embed_dim)
  Linear out_proj;

 private:
  Tensor projected(const Tensor& x, int part) const;

  int64_t embed_dim_, heads_;
  Options options_;
};

}  // namespace lockstep::nn
