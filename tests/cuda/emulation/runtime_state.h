#pragma once

#include <mutex>

#include "runtime_types.h"

// What the parts of the emulated runtime share.
namespace lockstep::emulation {

// From the environment, read once.
int device_count();
size_t device_bytes();  // of each device
uint64_t order_seed();

int current_device();  // of the calling thread
// Remembers an error for cudaGetLastError() of this thread; returns it. Success is not remembered.
cudaError_t remember(cudaError_t error);
// The device of a live stream, or of the default streams; -1 if it is none.
int stream_device(cudaStream_t stream);

// Held while a kernel or a copy runs and while memory is allocated or released.
std::mutex& device_mutex();

// One line on stderr, "lockstep emulation: ...", then abort(): for kernels that a device would
// leave undefined or hang in.
[[noreturn]] __attribute__((format(printf, 1, 2))) void stop(const char* format, ...);

}  // namespace lockstep::emulation
