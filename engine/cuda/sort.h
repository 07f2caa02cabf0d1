#pragma once

#include <cuda_runtime.h>

#include "lockstep/engine/tensor/tensor.h"

namespace lockstep::cuda {

// Stable; NaN counts as the largest. Contiguous, all of one shape, indices int64.
void sort_along(cudaStream_t stream, const Tensor& values, const Tensor& indices, const Tensor& in,
                int dim, bool descending);

// The lines of a contiguous int64 tensor along `dim`, each sorted stably.
struct SortedLines {
  Tensor values;  // (lines, length)
  Tensor places;  // where in the line each came from
};
SortedLines sort_lines(cudaStream_t stream, const Tensor& in, int dim);

}  // namespace lockstep::cuda
