#include "lockstep/engine/cuda/pointwise.cuh"

namespace lockstep::cuda {

void run_pointwise(cudaStream_t stream, PointwiseOp op, const PointwiseCall& call) {
  switch (static_cast<int>(op) % kPointwiseParts) {
    case 0:
      return run_pointwise_part<0>(stream, op, call);
    case 1:
      return run_pointwise_part<1>(stream, op, call);
    case 2:
      return run_pointwise_part<2>(stream, op, call);
    default:
      return run_pointwise_part<3>(stream, op, call);
  }
}

}  // namespace lockstep::cuda
