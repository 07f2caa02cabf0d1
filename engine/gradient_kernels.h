#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "lockstep/engine/tensor/host_device.h"
#include "lockstep/engine/tensor/philox.h"
#include "lockstep/engine/tensor/tensor.h"

// What distributed training asks of a device beside the ops: kernels of their own, one pass each,
// which nobody waits for.
namespace lockstep {

// Random rows, uniform in [-1, 1): the same on every device.
struct RandomRows {
  Philox philox;
  uint64_t stream = 0;

  // Elements 4 * quad and the following of a row, of its draw number `draw`.
  LOCKSTEP_HD std::array<float, 4> four(uint32_t draw, uint32_t row, uint32_t quad) const {
    const auto words = philox(quad, (draw << 16) ^ row, static_cast<uint32_t>(stream),
                              static_cast<uint32_t>(stream >> 32));
    std::array<float, 4> values{};
    for (size_t k = 0; k < 4; ++k) values[k] = 2.0f * uniform_float(words[k]) - 1.0f;
    return values;
  }
};

// The rows of `vectors` (count, n), contiguous, that are to become orthonormal.
struct VectorSet {
  Tensor vectors;
  Tensor draws;  // uint32 in an int32 (1); undefined: nothing is drawn
  RandomRows random;
};

// A matrix and its factors: m, error (rows, columns), p (rank, rows), q (rank, columns).
struct Factored {
  Tensor m, error, p, q;
};

class GradientKernels {
 public:
  GradientKernels() = default;
  virtual ~GradientKernels();
  GradientKernels(const GradientKernels&) = delete;
  GradientKernels& operator=(const GradientKernels&) = delete;

  // flags (float32, one for each tensor): 1 where the tensor, contiguous float32 or float64, has an
  // element that is NaN or infinite, and 0 elsewhere.
  virtual void flag_non_finite(const Tensor& flags, std::span<const Tensor> tensors) = 0;

  // Gram-Schmidt over the rows of each set, all of one dtype, float32 or float64, twice for each
  // row, since once leaves a part of the others where little is left of a row. A row that is
  // nothing but rounding beside the others becomes zero; made a unit vector, it would point
  // anywhere, at the others too. So do rows that are not finite. If there are any in a set with
  // `draws`, that is counted up, and they are drawn anew.
  virtual void orthonormalize(std::span<const VectorSet> sets) = 0;

  // m = p^T q, and error = m before that, less `share` of it now; nothing unless count (1) > 0.
  virtual void reconstruct(const Factored& matrix, double share, const Tensor& count) = 0;
};

// Null for the CPU. Throws Error like backend_of().
GradientKernels* gradient_kernels_of(Device device);

}  // namespace lockstep
