#pragma once

#include <cmath>
#include <cstdint>

#include "lockstep/engine/tensor/host_device.h"

// exp and erf for the functors. In double, and on a GPU, they are the library's. In float on the
// host they are written without branches, calls or tables, so that loops over them vectorise; every
// element gets the same operations in the vector body and in its tail, and so the same bits.
namespace lockstep::functor::math {

// x = n ln 2 + r with |r| <= ln(2) / 2; exp(r) by its Taylor polynomial of degree 7 (error below
// 1e-8), 2^n by its bits. ln 2 in two parts keeps r exact to rounding. 2^n is applied in two
// halves, so that n = 128 does not overflow too early. What would be a denormal is zero. Within 1
// ulp.
[[gnu::always_inline]] LOCKSTEP_HD inline float exp(float x) {
#if defined(__CUDA_ARCH__)
  return ::expf(x);
#else
  constexpr float kShift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  constexpr float kLowest = -87.3365448f, kHighest = 88.7228394f;
  const float shifted = x * 1.44269504088896341f + kShift;
  const float n = shifted - kShift;
  const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = (p * (r * r) + r) + 1.0f;
  const auto exponent = static_cast<int32_t>(__builtin_bit_cast(uint32_t, shifted) -
                                             __builtin_bit_cast(uint32_t, kShift));
  const int32_t half = exponent >> 1;
  const float scale = __builtin_bit_cast(float, (static_cast<uint32_t>(half) + 127u) << 23);
  const float rest =
      __builtin_bit_cast(float, (static_cast<uint32_t>(exponent - half) + 127u) << 23);
  const float result = (p * scale) * rest;
  return x < kLowest ? 0.0f : (x > kHighest ? __builtin_inff() : result);
#endif
}

// Up to 1 an odd polynomial, less x; above, 1 - exp(-x^2) Q(|x|), Q approximating erfcx; from 4 on
// the result is 1 to the last bit. Both polynomials are least-squares fits reweighted towards the
// smallest maximal error: 1.2e-9 relative, 1.3e-8 absolute. Within 1.1 ulp.
[[gnu::always_inline]] LOCKSTEP_HD inline float erf(float x) {
#if defined(__CUDA_ARCH__)
  return ::erff(x);
#else
  const float size = x < 0.0f ? -x : x;
  const float a = size > 4.0f ? 4.0f : size;
  const float t = a * a;
  float small = 7.853860969094247e-05f;
  small = small * t - 8.010193508767419e-04f;
  small = small * t + 5.188327672449394e-03f;
  small = small * t - 2.685381192827769e-02f;
  small = small * t + 1.128358514844546e-01f;
  small = small * t - 3.761262582421828e-01f;
  small = small * t + 0.128379165726709f;
  const float u = a - 1.0f;
  float tail = -3.888842019140038e-04f;
  tail = tail * u + 3.282936793669622e-03f;
  tail = tail * u - 1.313397526250503e-02f;
  tail = tail * u + 3.560873638072648e-02f;
  tail = tail * u - 7.863512952650112e-02f;
  tail = tail * u + 1.542864735128695e-01f;
  tail = tail * u - 2.732075625507222e-01f;
  tail = tail * u + 4.275835401030721e-01f;
  const float large = 1.0f - exp(-t) * tail;
  return size < 1.0f ? x + x * small : (x < 0.0f ? -large : large);
#endif
}

LOCKSTEP_HD inline double exp(double x) { return std::exp(x); }
LOCKSTEP_HD inline double erf(double x) { return std::erf(x); }

}  // namespace lockstep::functor::math
