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
//
// On a GPU float16 and bfloat16 without an explicit mask are one kernel where cuDNN has it
// (docs/cuda.md says when): it keeps no weights, and draws its dropout by itself: from the same
// generator, so that the same seed drops the same weights, but not those that other devices and
// dtypes drop. An explicit mask asks for the form that is composed of products and softmax.
Tensor scaled_dot_product_attention(const Tensor& query, const Tensor& key, const Tensor& value,
                                    const AttentionOptions& options = {});

}  // namespace lockstep
