#pragma once

#include <cstdint>

namespace lockstep::nn {

// The height and width of something 2-d; one number stands for both.
struct Pair {
  Pair(int64_t both) : height(both), width(both) {}
  Pair(int64_t h, int64_t w) : height(h), width(w) {}

  int64_t height, width;
};

}  // namespace lockstep::nn
