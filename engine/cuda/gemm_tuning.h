#pragma once

#include <optional>

#include "lockstep/engine/cuda/blas_product.h"

namespace lockstep::cuda {

// cublasLt's algorithm for a product, as algorithm_choice() says: a first suggestion, the fastest
// of several, or that of a table. Only such count as add up in a fixed order. None if cublasLt has
// none, which is an epilogue's fate more often than a plain product's. Timing writes the product's
// results, waits for the device, and is left out, the first suggestion taken, while the stream is
// being captured.
std::optional<cublasLtMatmulAlgo_t> choose_algorithm(cublasLtHandle_t handle, cudaStream_t stream,
                                                     const BlasProduct& product, void* workspace);

// No such epilogue in this version, on this GPU.
bool is_refusal(cublasStatus_t status, const BlasProduct& product);

}  // namespace lockstep::cuda
