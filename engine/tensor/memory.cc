#include "lockstep/engine/tensor/memory.h"

#include "lockstep/engine/backend.h"

namespace lockstep {

size_t memory_allocated(Device device) { return backend_of(device).bytes_in_use(); }
size_t max_memory_allocated(Device device) { return backend_of(device).peak_bytes(); }
void reset_peak_memory(Device device) { backend_of(device).reset_peak_bytes(); }

}  // namespace lockstep
