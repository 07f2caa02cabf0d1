#pragma once

#include <cuda_runtime.h>

#include "lockstep/engine/tensor/tensor.h"

// Reading and adding at places that an index names. Everything is contiguous; indices are int64.
// Where one is out of range nothing is read, and NaN (in integers -1) comes out, or nothing is
// added. What is added to one place is added up in double (integers in 64 bits), in an order that
// depends on the indices only, and rounded once.
namespace lockstep::cuda {

// out[..., k, ...] = in[..., index[k], ...]
void gather_slices(cudaStream_t stream, const Tensor& out, const Tensor& in, int dim,
                   const Tensor& index);
// out[..., index[k], ...] += in[..., k, ...]
void add_slices(cudaStream_t stream, const Tensor& out, int dim, const Tensor& index,
                const Tensor& in);
// out[..., k, ...] = in[..., index[..., k, ...], ...]; index of out's shape.
void gather_elements(cudaStream_t stream, const Tensor& out, const Tensor& in, int dim,
                     const Tensor& index);
// out[..., index[..., k, ...], ...] += in[..., k, ...]; index of in's shape.
void scatter_add_elements(cudaStream_t stream, const Tensor& out, int dim, const Tensor& index,
                          const Tensor& in);

}  // namespace lockstep::cuda
