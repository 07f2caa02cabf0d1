#pragma once

#include "lockstep/data/step.h"
#include "lockstep/launch/sha256.h"

namespace lockstep::launch {

// SHA-256 over the tensors in the given order, a tied tensor (the same memory and shape under a
// second name) only the first time. For each: the name, a zero byte, the dtype's name, a zero byte,
// the number of dimensions and each dimension as little-endian uint64, then the values in row-major
// order, little-endian.
Sha256Digest weights_hash(const NamedTensors& tensors);

}  // namespace lockstep::launch
