#pragma once

#include <span>

#include <cuda_runtime.h>

#include "lockstep/engine/backend.h"

// The optimizers of backend.h, float32 and float64, a launch for up to 64 segments. The same bits
// as on the CPU, but for sum_of_squares, which adds in another order.
namespace lockstep::cuda {

void sgd_step(cudaStream_t stream, std::span<const OptimizerSegment> segments, const SgdArgs& args);
void adam_step(cudaStream_t stream, std::span<const OptimizerSegment> segments,
               const AdamArgs& args);
// Waits for the stream.
double sum_of_squares(cudaStream_t stream, Device device,
                      std::span<const OptimizerSegment> segments);

}  // namespace lockstep::cuda
