#pragma once

#include <string>

#include "lockstep/engine/tensor/device.h"

namespace lockstep {

// What, besides the program, decides about the bits that this process computes: versions of
// Lockstep, its compiler, oneDNN and the C library, the instruction sets in use, the sizes of the
// caches that kernels are blocked for; on a GPU also its model, NVIDIA's libraries and the
// precision of products. One line.
// Processes that say the same compute the same bits.
std::string describe_arithmetic(Device device = {});

}  // namespace lockstep
