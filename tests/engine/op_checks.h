#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "lockstep/engine/autograd/backward.h"
#include "lockstep/engine/tensor/factory.h"

#include "engine/op_cases.h"

// How results of the op-case table are compared.
namespace lockstep::testing {

// |a - b| <= absolute + relative |b|. A float32 result is compared with the float64 one of the same
// values, so this bounds the rounding of the whole op; sums here are short, except where the
// absolute term is scaled by the largest element of the result.
struct Tolerance {
  double absolute, relative;
};
inline constexpr Tolerance kFloat64{1e-13, 1e-12};
inline constexpr Tolerance kFloat32{1e-6, 4e-6};

inline void expect_near(const std::vector<double>& got, const std::vector<double>& expected,
                        Tolerance tolerance, const std::string& what) {
  ASSERT_EQ(got.size(), expected.size()) << what;
  double largest = 1;
  for (double e : expected) largest = std::isfinite(e) ? std::max(largest, std::fabs(e)) : largest;
  for (size_t i = 0; i < got.size(); ++i) {
    if (std::isnan(expected[i]) && std::isnan(got[i])) continue;
    if (got[i] == expected[i]) continue;
    ASSERT_LE(std::fabs(got[i] - expected[i]),
              tolerance.absolute * largest + tolerance.relative * std::fabs(expected[i]))
        << what << ", element " << i << ": got " << got[i] << ", expected " << expected[i];
  }
}

// Weights for the backward comparisons: not all alike, the same in every precision.
inline Tensor output_gradient(const Tensor& y) {
  std::vector<float> values(static_cast<size_t>(y.numel()));
  for (size_t i = 0; i < values.size(); ++i) values[i] = 0.25f + static_cast<float>(i % 7) * 0.125f;
  return from_span<float>(values, y.sizes(), {y.dtype(), y.device()});
}

// With respect to every input that takes one.
inline std::vector<Tensor> gradients(const OpCase& c, DType dtype, Device device = {}) {
  const auto inputs = make_inputs(c, dtype, device);
  std::vector<Tensor> wanted;
  for (const Tensor& x : inputs) {
    if (x.requires_grad()) wanted.push_back(x);
  }
  const Tensor y = c.function(inputs);
  const Tensor seed = output_gradient(y);
  return autograd::grad(std::span(&y, 1), wanted, std::span(&seed, 1));
}

}  // namespace lockstep::testing
