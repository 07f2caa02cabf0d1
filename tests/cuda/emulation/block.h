#pragma once

#include <cstddef>
#include <cstdint>

#include "runtime_types.h"

// The scheduler of the threads of a block. Callers hold device_mutex() from begin to end.
namespace lockstep::emulation {

constexpr unsigned kMaxThreads = 1024;

struct Kernel {
  const void* address = nullptr;
  void (*run)(void*) = nullptr;
  void* arguments = nullptr;
};

// Checked dimensions; dynamic_bytes of shared memory; `seed` for the order of threads.
void begin_kernel(const Kernel& kernel, dim3 grid, dim3 block, size_t dynamic_bytes, uint64_t seed);
// All threads of block `number`, counted along x first, from begin to return.
void run_block(uint64_t number);
void end_kernel();

}  // namespace lockstep::emulation
