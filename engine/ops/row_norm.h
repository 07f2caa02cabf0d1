#pragma once

#include <string_view>

#include "lockstep/engine/tensor/tensor.h"

namespace lockstep {

enum class RowNorm : uint8_t { kLayer, kRms };

// Internal: layer norm or RMS norm over the last dimensions of a floating x, whose sizes are
// `shape`; weight and bias have that shape or are undefined. `name`, a literal, is the node's.
Tensor row_norm(RowNorm kind, const Tensor& x, const Dims& shape, const Tensor& weight,
                const Tensor& bias, double eps, std::string_view name);

}  // namespace lockstep
