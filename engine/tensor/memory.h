#pragma once

#include <cstddef>

#include "lockstep/engine/tensor/device.h"

namespace lockstep {

// Bytes of `device` that tensors (and kernels at work) hold now, rounded up to the allocator's
// size classes; what is cached for reuse does not count.
size_t memory_allocated(Device device = {});
// The most that memory_allocated() has been since the start or the last reset_peak_memory().
size_t max_memory_allocated(Device device = {});
void reset_peak_memory(Device device = {});

}  // namespace lockstep
