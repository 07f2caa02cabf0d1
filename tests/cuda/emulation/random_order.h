#pragma once

#include <cstdint>

namespace lockstep::emulation {

// Numbers for the order of blocks and threads.
class Random {  // splitmix64
 public:
  void seed(uint64_t seed) { state_ = seed; }
  uint64_t next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  uint32_t below(uint32_t n) { return static_cast<uint32_t>(((next() >> 32) * n) >> 32); }

 private:
  uint64_t state_ = 0;
};

}  // namespace lockstep::emulation
