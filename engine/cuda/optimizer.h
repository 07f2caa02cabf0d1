#pragma once

#include <span>

#include <cuda_runtime.h>

#include "lockstep/engine/backend.h"

// The optimizers of backend.h, float32 and float64, a launch for up to 64 segments. The same bits
// as on the CPU, but for sum_of_squares, which adds in another order.
namespace lockstep::cuda {

// Where a replay of the kernel finds its SgdMath or AdamMath, on the device. Null: as launched.
struct MathSlots {
  const void* of_float = nullptr;
  const void* of_double = nullptr;
  const float* skip = nullptr;  // if it is not 0 then, nothing is done
};

void sgd_step(cudaStream_t stream, std::span<const OptimizerSegment> segments, const SgdArgs& args,
              MathSlots slots = {});
void adam_step(cudaStream_t stream, std::span<const OptimizerSegment> segments,
               const AdamArgs& args, MathSlots slots = {});
// Waits for the stream.
double sum_of_squares(cudaStream_t stream, Device device,
                      std::span<const OptimizerSegment> segments);

}  // namespace lockstep::cuda
