#pragma once

#include "lockstep/engine/tensor/tensor.h"

namespace lockstep {

struct AttentionOptions {
  Tensor
      mask{};  // (..., L, S), or undefined: bool (true takes part) or a number added to the scores
  double dropout = 0;   // of the attention weights
  bool causal = false;  // position i sees positions up to i; not together with a mask
  double scale = 0;     // of the scores; 0: 1 / sqrt(E)
};

// softmax(query key^T scale + mask) value: query (..., L, E), key (..., S, E), value (..., S, V);
// returns (..., L, V).
Tensor scaled_dot_product_attention(const Tensor& query, const Tensor& key, const Tensor& value,
                                    const AttentionOptions& options = {});

}  // namespace lockstep
