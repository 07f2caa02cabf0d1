#pragma once

#include <array>
#include <cstdint>

#include "lockstep/engine/tensor/host_device.h"

namespace lockstep {

// Philox 4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC
// 2011): a counter-based generator. The same key and counter give the same four words on every
// device.
struct Philox {
  uint32_t key0 = 0, key1 = 0;

  LOCKSTEP_HD std::array<uint32_t, 4> operator()(uint32_t c0, uint32_t c1, uint32_t c2,
                                                 uint32_t c3) const {
    uint32_t k0 = key0, k1 = key1;
    for (int round = 0; round < 10; ++round) {
      const uint64_t p0 = uint64_t{0xD2511F53u} * c0;
      const uint64_t p1 = uint64_t{0xCD9E8D57u} * c2;
      const uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
      const uint32_t n2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
      c1 = static_cast<uint32_t>(p1);
      c3 = static_cast<uint32_t>(p0);
      c0 = n0;
      c2 = n2;
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    return {c0, c1, c2, c3};
  }
};

// [0, 1) with 24 random bits, and with 53 from two words.
LOCKSTEP_HD inline float uniform_float(uint32_t word) {
  return static_cast<float>(word >> 8) * 0x1p-24f;
}
LOCKSTEP_HD inline double uniform_double(uint32_t high, uint32_t low) {
  return static_cast<double>((uint64_t{high} << 21) ^ (uint64_t{low} >> 11)) * 0x1p-53;
}

}  // namespace lockstep
