#pragma once

#include <cstdint>

#include "lockstep/engine/cpu/thread_pool.h"

namespace lockstep::cpu {

// Adds `count` rows of `size` elements, `stride` apart, into the first one, pairwise:
// (0+1)+(2+3)... The order of the additions depends on count alone.
template <typename T>
void tree_sum(T* rows, int64_t count, int64_t stride, int64_t size) {
  if (count < 2) {
    return;
  }
  constexpr int64_t kChunk = 8192;
  parallel_for((size + kChunk - 1) / kChunk, [=](int64_t chunk) {
    const int64_t begin = chunk * kChunk;
    const int64_t length = size - begin < kChunk ? size - begin : kChunk;
    for (int64_t step = 1; step < count; step *= 2) {
      for (int64_t row = 0; row + step < count; row += 2 * step) {
        T* __restrict to = rows + row * stride + begin;
        const T* __restrict from = rows + (row + step) * stride + begin;
        for (int64_t i = 0; i < length; ++i) {
          to[i] += from[i];
        }
      }
    }
  });
}

}  // namespace lockstep::cpu
