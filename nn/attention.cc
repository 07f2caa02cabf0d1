#include "lockstep/nn/attention.h"

#include <cmath>
#include <limits>

#include "lockstep/engine/ops/ops.h"
#include "lockstep/engine/tensor/check.h"
#include "lockstep/nn/init.h"

namespace lockstep::nn {
namespace {

constexpr double kHidden = -std::numeric_limits<double>::infinity();

// How many of what a call is about.
struct Counts {
  int64_t samples, heads, queries, keys;
};

void check_kind(const char* name, const Tensor& mask) {
  check(mask.dtype() == DType::kBool || is_floating(mask.dtype()),
        "only bool and floating types of {} are supported, got {}", name, name_of(mask.dtype()));
}

// Both hide where either hides; the bool ones become numbers where the other is numbers.
Tensor both(const Tensor& a, const Tensor& b, DType dtype) {
  if (!a.defined()) return b;
  if (!b.defined()) return a;
  if (a.dtype() == DType::kBool && b.dtype() == DType::kBool) return logical_or(a, b);
  const auto numbers = [&](const Tensor& mask) {
    return mask.dtype() == DType::kBool
               ? masked_fill(zeros(mask.sizes(), {dtype, mask.device()}), mask, kHidden)
               : mask;
  };
  return add(numbers(a), numbers(b));
}

// All masks in one that broadcasts to the scores (N, H, L, S): true or -inf hides. Or undefined.
Tensor merged(const AttentionMasks& masks, const Counts& n, const Tensor& query) {
  Tensor merged;
  if (masks.causal) {
    const Tensor all = ones({n.queries, n.keys}, {DType::kUInt8, query.device()});
    merged = ne(triu(all, 1), 0);
  }
  if (const Tensor& mask = masks.attn_mask; mask.defined()) {
    check_kind("attn_mask", mask);
    check(mask.dim() == 2 || mask.dim() == 3, "attn_mask's dimension {} is not supported",
          mask.dim());
    const Dims wanted =
        mask.dim() == 2 ? Dims{n.queries, n.keys} : Dims{n.samples * n.heads, n.queries, n.keys};
    check(mask.sizes() == wanted, "The shape of the {}D attn_mask is {}, but should be {}.",
          mask.dim(), mask.sizes().str(), wanted.str());
    const bool each = mask.dim() == 3;
    merged = both(merged, each ? mask.reshape({n.samples, n.heads, n.queries, n.keys}) : mask,
                  query.dtype());
  }
  if (const Tensor& mask = masks.key_padding_mask; mask.defined()) {
    check_kind("key_padding_mask", mask);
    check(mask.dim() == 2 && mask.size(0) == n.samples && mask.size(1) == n.keys,
          "expecting key_padding_mask shape of ({}, {}), but got {}", n.samples, n.keys,
          mask.sizes().str());
    merged = both(merged, mask.reshape({n.samples, 1, 1, n.keys}), query.dtype());
  }
  const bool numbers = merged.defined() && merged.dtype() != DType::kBool;
  return numbers ? merged.to(query.dtype()) : merged;
}

// (N, length, E), or (length, N, E), to (N, H, length, E / H).
Tensor by_heads(const Tensor& x, int64_t heads, bool batch_first) {
  return x.reshape({x.size(0), x.size(1), heads, x.size(2) / heads})
      .permute(batch_first ? Dims{0, 2, 1, 3} : Dims{1, 2, 0, 3});
}

// The way back.
Tensor joined(const Tensor& heads, bool batch_first) {
  const Tensor x = heads.permute(batch_first ? Dims{0, 2, 1, 3} : Dims{2, 0, 1, 3});
  return x.reshape({x.size(0), x.size(1), x.size(2) * x.size(3)});
}

// softmax(q k^T / sqrt(E / H) + mask), (N, H, L, S).
Tensor attention_weights(const Tensor& q, const Tensor& k, const Tensor& mask) {
  const double scale = 1 / std::sqrt(static_cast<double>(q.size(-1)));
  Tensor scores = matmul(mul(q, scale), k.transpose(-2, -1));
  if (mask.defined()) {
    scores = mask.dtype() == DType::kBool ? masked_fill(scores, mask, kHidden) : add(scores, mask);
  }
  return softmax(scores, -1);
}

void check_inputs(const Tensor& query, const Tensor& key, const Tensor& value,
                  const Tensor& key_padding_mask, int64_t embed_dim) {
  check(query.dim() == 2 || query.dim() == 3,
        "query should be unbatched 2D or batched 3D tensor but received {}-D query tensor",
        query.dim());
  const bool batched = query.dim() == 3;
  const char* kind = batched ? "batched (3-D)" : "unbatched (2-D)";
  check(key.dim() == query.dim() && value.dim() == query.dim(),
        "For {} `query`, expected `key` and `value` to be {}-D but found {}-D and {}-D tensors "
        "respectively",
        kind, query.dim(), key.dim(), value.dim());
  check(!key_padding_mask.defined() || key_padding_mask.dim() == query.dim() - 1,
        "For {} `query`, expected `key_padding_mask` to be `None` or {}-D but found {}-D tensor "
        "instead",
        kind, query.dim() - 1, key_padding_mask.defined() ? key_padding_mask.dim() : 0);
  check(query.size(-1) == embed_dim, "was expecting embedding dimension of {}, but got {}",
        embed_dim, query.size(-1));
}

}  // namespace

MultiheadAttention::MultiheadAttention(int64_t embed_dim, int64_t num_heads, Options options)
    : out_proj(embed_dim, embed_dim, {.bias = options.bias}),
      embed_dim_(embed_dim),
      heads_(num_heads),
      options_(options) {
  check(embed_dim > 0 && num_heads > 0,
        "embed_dim and num_heads must be greater than 0, got embed_dim={} and num_heads={} instead",
        embed_dim, num_heads);
  check(embed_dim % num_heads == 0,
        "embed_dim must be divisible by num_heads: got embed_dim={} and num_heads={}", embed_dim,
        num_heads);
  check(options.dropout >= 0 && options.dropout <= 1,
        "dropout probability has to be between 0 and 1, but got {}", options.dropout);
  const int64_t kdim = options.kdim.value_or(embed_dim), vdim = options.vdim.value_or(embed_dim);
  const auto matrix = [&](const char* name, int64_t out, int64_t in) {
    const Tensor weight = empty({out, in});
    init::xavier_uniform_(weight);
    return register_parameter(name, weight);
  };
  if (kdim == embed_dim && vdim == embed_dim) {
    in_proj_weight = matrix("in_proj_weight", 3 * embed_dim, embed_dim);
  } else {
    q_proj_weight = matrix("q_proj_weight", embed_dim, embed_dim);
    k_proj_weight = matrix("k_proj_weight", embed_dim, kdim);
    v_proj_weight = matrix("v_proj_weight", embed_dim, vdim);
  }
  if (options.bias) {
    in_proj_bias = register_parameter("in_proj_bias", zeros({3 * embed_dim}));
    init::constant_(out_proj.bias, 0.0);
  }
  register_modules({{"out_proj", out_proj}});
}

// part: 0 for the query, 1 for the key, 2 for the value.
Tensor MultiheadAttention::projected(const Tensor& x, int part) const {
  const Tensor separate[] = {q_proj_weight, k_proj_weight, v_proj_weight};
  const Tensor weight = in_proj_weight.defined()
                            ? in_proj_weight.narrow(0, part * embed_dim_, embed_dim_)
                            : separate[part];
  return linear(
      x, weight,
      in_proj_bias.defined() ? in_proj_bias.narrow(0, part * embed_dim_, embed_dim_) : Tensor());
}

AttentionOutput MultiheadAttention::forward(const Tensor& query, const Tensor& key,
                                            const Tensor& value, const ForwardOptions& options) {
  AttentionMasks masks = options.masks;
  check_inputs(query, key, value, masks.key_padding_mask, embed_dim_);
  const bool single = query.dim() == 2;  // a sample without the N
  const int sample_dim = options_.batch_first ? 0 : 1;
  const auto with_sample = [&](const Tensor& x) { return single ? x.unsqueeze(sample_dim) : x; };
  const Tensor q = with_sample(query), k = with_sample(key), v = with_sample(value);
  check(k.size(0) == v.size(0) && k.size(1) == v.size(1),
        "key shape {} does not match value shape {}", key.sizes().str(), value.sizes().str());
  check(q.size(sample_dim) == k.size(sample_dim),
        "[MultiheadAttention] query {} and key {} must have the same number of samples",
        query.sizes().str(), key.sizes().str());
  if (single && masks.key_padding_mask.defined()) {
    masks.key_padding_mask = masks.key_padding_mask.unsqueeze(0);
  }
  const Counts n{q.size(sample_dim), heads_, q.size(1 - sample_dim), k.size(1 - sample_dim)};
  const auto heads_of = [&](const Tensor& x, int part) {
    return by_heads(projected(x, part), heads_, options_.batch_first);
  };
  const Tensor hq = heads_of(q, 0), hk = heads_of(k, 1), hv = heads_of(v, 2);

  const double p = is_training() ? options_.dropout : 0.0;
  AttentionOutput result;
  Tensor heads;
  if (options.need_weights) {
    Tensor weights = attention_weights(hq, hk, merged(masks, n, q));
    if (p > 0) weights = dropout(weights, p, true);
    heads = matmul(weights, hv);
    if (options.average_attn_weights) weights = mean(weights, {1});
    result.weights = single ? weights.squeeze(0) : weights;
  } else {
    AttentionOptions attention{.dropout = p};
    attention.causal =
        masks.causal && !masks.attn_mask.defined() && !masks.key_padding_mask.defined();
    if (!attention.causal) attention.mask = merged(masks, n, q);
    if (attention.mask.defined() && attention.mask.dtype() == DType::kBool) {
      attention.mask = logical_not(attention.mask);  // there true takes part
    }
    heads = scaled_dot_product_attention(hq, hk, hv, attention);
  }
  const Tensor y = out_proj(joined(heads, options_.batch_first));
  result.output = single ? y.squeeze(sample_dim) : y;
  return result;
}

}  // namespace lockstep::nn
