#pragma once

#include <memory>

#include <cuda_runtime.h>

#include "lockstep/engine/backend.h"

namespace lockstep::cuda {

// The backend of one device, which also is its Transfers and
// FusedAttention. All ops go to one stream, in the order of
// the calls; nothing waits for the device but copy_to_host(), synchronize(), sum_of_squares() and
// Event::wait_on_host(), which sync_debug.h knows of. Any thread may call.
// Throws Error when the device cannot be used.
std::unique_ptr<Backend> make_backend(int index);

}  // namespace lockstep::cuda
