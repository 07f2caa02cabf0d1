#pragma once

#include <memory>

#include "graph.h"
#include "runtime_types.h"

// What streams.cc keeps of a stream, for the emulation's own.
namespace lockstep::emulation {

bool is_default(cudaStream_t stream);
// Of a live stream that is none of the default ones. The caller holds device_mutex().
CapturePlace& place_of(cudaStream_t stream);
// Whether work for the stream goes into a capture, and the error where that cannot be any more.
bool is_capturing(cudaStream_t stream);
cudaError_t check_capture(cudaStream_t stream);
// Fails if the stream is capturing, and spoils the capture: for what cannot be captured.
cudaError_t check_not_capturing(cudaStream_t stream);

}  // namespace lockstep::emulation
