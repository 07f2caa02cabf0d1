#pragma once

#include <atomic>
#include <memory>
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

// Ends what stands still because of it.
struct Stall {
  std::atomic<bool> over = false;
};
// What is recorded in the stream from now on is not done before the stall is over, nor is what
// waits for it. The work itself is not held up.
void stall(cudaStream_t stream, std::shared_ptr<Stall> stall);

// Held while a kernel or a copy runs and while memory is allocated or released.
std::mutex& device_mutex();

// One line on stderr, "lockstep emulation: ...", then abort(): for kernels that a device would
// leave undefined or hang in.
[[noreturn]] __attribute__((format(printf, 1, 2))) void stop(const char* format, ...);

}  // namespace lockstep::emulation
