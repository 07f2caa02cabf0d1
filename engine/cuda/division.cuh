#pragma once

#include <bit>
#include <cstdint>

#include "lockstep/engine/cuda/kernel.cuh"

namespace lockstep::cuda {

// A divisor b that is known before the kernel starts. With 2^s the power of two at or above b and
// m = floor(2^64 (2^s - b) / b) + 1, the quotient of any a < 2^63 is (floor(a m / 2^64) + a) / 2^s:
// a product and a shift in place of a division, which takes some 20 instructions in 32 bits and a
// subroutine in 64.
class Divisor {
 public:
  Divisor() : Divisor(1) {}
  // Nothing is divided by a size of zero; 1 stands in for it.
  explicit Divisor(int64_t value) {
    const uint64_t b = value > 0 ? static_cast<uint64_t>(value) : 1;
    shift_ = std::bit_width(b - 1);
    __extension__ using Wide = unsigned __int128;
    magic_ = static_cast<uint64_t>((Wide((uint64_t{1} << shift_) - b) << 64) / b) + 1;
    value_ = static_cast<int64_t>(b);
  }

  LOCKSTEP_HD int64_t value() const { return value_; }
  __device__ int64_t quotient(int64_t a) const {
    const auto n = static_cast<uint64_t>(a);  // 0 <= a
    return static_cast<int64_t>((__umul64hi(n, magic_) + n) >> shift_);
  }
  __device__ int64_t remainder(int64_t a, int64_t* quotient_of_a) const {
    *quotient_of_a = quotient(a);
    return a - *quotient_of_a * value_;
  }

 private:
  uint64_t magic_ = 0;
  int64_t value_ = 1;
  int shift_ = 0;
};

}  // namespace lockstep::cuda
