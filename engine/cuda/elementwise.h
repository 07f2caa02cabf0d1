#pragma once

#include <cuda_runtime.h>

#include "lockstep/engine/backend.h"

// Copies, fills, random numbers and pointwise ops of the CUDA backend.
namespace lockstep::cuda {

void run_pointwise(cudaStream_t stream, PointwiseOp op, const PointwiseCall& call);
void copy_strided(cudaStream_t stream, const Tensor& out, const Tensor& in);
void fill_strided(cudaStream_t stream, const Tensor& out, Scalar value);
// With `base`, on the device, key is relative to it: the draws are base's, key.ordinal ops later.
void fill_random(cudaStream_t stream, const Tensor& out, RandomKind kind, double p, double q,
                 const RandomKey& key, const RandomKey* base = nullptr);

}  // namespace lockstep::cuda
