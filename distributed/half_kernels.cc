#include "lockstep/distributed/half_kernels.h"

// No branch depends on a value, so that the loops become vectors. The subnormal numbers of float16
// are found by one addition in float32: of 0.5, whose last place is 2^-24, that of a subnormal
// half, so that the addition rounds where the conversion has to. No float32 number in it is
// subnormal itself, except for inputs that become zero, so flushing changes nothing.
namespace lockstep::cpu::LOCKSTEP_ISA {
namespace {

constexpr uint32_t kSign = 0x80000000u;
constexpr uint32_t kInfinity = 0x7f800000u;
constexpr uint32_t kExponent1 = 1u << 23;
constexpr uint32_t kLargest16 = 0x477ff000u;  // from here on it rounds past 65504
constexpr uint32_t kNormal16 = 0x38800000u;   // 2^-14
constexpr uint32_t kBiases = 112u << 23;      // between the exponents of the two formats

uint32_t bits_of(float value) { return __builtin_bit_cast(uint32_t, value); }
float float_of(uint32_t bits) { return __builtin_bit_cast(float, bits); }

void from_bfloat16(const uint16_t* __restrict from, float* __restrict to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = float_of(uint32_t{from[i]} << 16);
}

void from_float16(const uint16_t* __restrict from, float* __restrict to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t sign = uint32_t{from[i] & 0x8000u} << 16;
    const uint32_t magnitude = uint32_t{from[i] & 0x7fffu} << 13;
    const uint32_t normal = magnitude + kBiases;
    const uint32_t special = magnitude | kInfinity;
    const uint32_t subnormal = bits_of(float_of(magnitude + kNormal16) - float_of(kNormal16));
    uint32_t bits = magnitude >= (31u << 23) ? special : normal;
    bits = magnitude < kExponent1 ? subnormal : bits;
    to[i] = float_of(sign | bits);
  }
}

void to_bfloat16(const float* __restrict from, uint16_t* __restrict to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t bits = bits_of(from[i]);
    const uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
    const uint32_t nan = bits | 0x400000u;
    to[i] = static_cast<uint16_t>(((bits & ~kSign) > kInfinity ? nan : rounded) >> 16);
  }
}

void to_float16(const float* __restrict from, uint16_t* __restrict to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t sign = bits_of(from[i]) & kSign;
    const uint32_t magnitude = bits_of(from[i]) & ~kSign;
    const uint32_t normal = (magnitude - kBiases + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    const uint32_t subnormal = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
    const uint32_t nan = 0x7e00u | ((magnitude >> 13) & 0x3ffu);
    uint32_t bits = magnitude < kNormal16 ? subnormal : normal;
    bits = magnitude >= kLargest16 ? 0x7c00u : bits;
    bits = magnitude > kInfinity ? nan : bits;
    to[i] = static_cast<uint16_t>((sign >> 16) | bits);
  }
}

}  // namespace

const HalfKernels& half_kernels() {
  static constexpr HalfKernels kTable{.from_bfloat16 = from_bfloat16,
                                      .from_float16 = from_float16,
                                      .to_bfloat16 = to_bfloat16,
                                      .to_float16 = to_float16};
  return kTable;
}

}  // namespace lockstep::cpu::LOCKSTEP_ISA
