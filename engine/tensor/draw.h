#pragma once

#include <array>
#include <cmath>
#include <cstdint>

#include "lockstep/engine/tensor/host_device.h"
#include "lockstep/engine/tensor/random.h"

// From random words to random numbers, the same on every device (normals to rounding).
namespace lockstep {

enum class RandomKind : uint8_t {
  kUniform,    // [p, q)
  kNormal,     // mean p, standard deviation q
  kBernoulli,  // q with probability p, else 0
};

// Standard normals from two words each, by Box and Muller (Annals of Mathematical Statistics 29,
// 1958).
LOCKSTEP_HD inline void box_muller(double u, double v, double* a, double* b) {
  const double radius = std::sqrt(-2.0 * std::log1p(-u));
#if defined(__CUDA_ARCH__)
  *a = radius * ::cospi(2.0 * v);  // needs no tables for large arguments
  *b = radius * ::sinpi(2.0 * v);
#else
  constexpr double kTwoPi = 6.283185307179586477;
  *a = radius * std::cos(kTwoPi * v);
  *b = radius * std::sin(kTwoPi * v);
#endif
}

// How many numbers one Philox block gives.
template <typename T>
inline constexpr int kDrawsPerBlock = sizeof(T) == 4 ? 4 : 2;

LOCKSTEP_HD inline void draw(float* out, const std::array<uint32_t, 4>& w, RandomKind kind,
                             double p, double q) {
  const auto pf = static_cast<float>(p), qf = static_cast<float>(q);
  switch (kind) {
    case RandomKind::kUniform:
      for (size_t i = 0; i < 4; ++i) {
        const float value = pf + uniform_float(w[i]) * (qf - pf);
        out[i] = value < qf ? value : pf;  // rounding must not reach the open end
      }
      return;
    case RandomKind::kNormal:
      for (size_t i = 0; i < 4; i += 2) {
        double a, b;
        box_muller(uniform_float(w[i]), uniform_float(w[i + 1]), &a, &b);
        out[i] = static_cast<float>(p + q * a);
        out[i + 1] = static_cast<float>(p + q * b);
      }
      return;
    case RandomKind::kBernoulli:
      for (size_t i = 0; i < 4; ++i) out[i] = uniform_float(w[i]) < pf ? qf : 0.0f;
      return;
  }
}

LOCKSTEP_HD inline void draw(double* out, const std::array<uint32_t, 4>& w, RandomKind kind,
                             double p, double q) {
  const double u = uniform_double(w[0], w[1]), v = uniform_double(w[2], w[3]);
  switch (kind) {
    case RandomKind::kUniform:
      out[0] = p + u * (q - p);
      out[1] = p + v * (q - p);
      return;
    case RandomKind::kNormal:
      box_muller(u, v, &out[0], &out[1]);
      out[0] = p + q * out[0];
      out[1] = p + q * out[1];
      return;
    case RandomKind::kBernoulli:
      out[0] = u < p ? q : 0.0;
      out[1] = v < p ? q : 0.0;
      return;
  }
}

}  // namespace lockstep
