#pragma once

#include "lockstep/engine/fused_attention.h"

namespace lockstep::cuda {

// Which calls cuDNN is asked about.
inline bool may_attend(const AttentionCall& call, bool gradient) {
  // Its kernels read 16 bytes at a time; the wider ones are not for every GPU.
  const auto fits = [](int64_t width) { return width % 8 == 0 && width <= 128; };
  if (!fits(call.q.size(3)) || !fits(call.v.size(3))) return false;
  if (!gradient) return true;
  // Its gradients go over tiles of up to 128 queries and keys. What fills up the last tile has a
  // score of 0, and is infinite beside a row whose scores are all below -88: NaN (seen up to 9.26:
  // pytorch#196678, cudnn-frontend#1072). The causal mask hides it if there are no more queries
  // than keys.
  constexpr int64_t kTile = 128;
  const int64_t queries = call.q.size(2), keys = call.k.size(2);
  if (call.causal && queries > 1 && queries <= keys) return true;
  return queries % kTile == 0 && keys % kTile == 0;
}

}  // namespace lockstep::cuda
