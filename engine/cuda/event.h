#pragma once

#include <cuda_runtime.h>

#include "lockstep/engine/cuda/status.h"
#include "lockstep/engine/device_comm.h"
#include "lockstep/engine/sync_debug.h"

namespace lockstep::cuda {

// Whether the event has come. "Not yet" must not stay behind as the last error: the next launch
// would be blamed for it.
inline bool is_over(cudaEvent_t event) {
  const cudaError_t status = cudaEventQuery(event);
  if (status == cudaErrorNotReady) {
    cudaGetLastError();
    return false;
  }
  check_cuda(status, "cudaEventQuery");
  return true;
}

// A point in any stream, the backend's or a communicator's. The flags are CUDA's: only timed ones
// (cudaEventDefault) know how far apart they are; waiting for those with cudaEventBlockingSync
// leaves the core to others, and takes some microseconds more. Any thread may ask: on one that has
// no device yet, CUDA would start up the first one for it.
class CudaEvent final : public CommEvent {
 public:
  explicit CudaEvent(cudaStream_t stream, unsigned flags = cudaEventDisableTiming) {
    check_cuda(cudaGetDevice(&device_), "cudaGetDevice");
    check_cuda(cudaEventCreateWithFlags(&event_, flags), "cudaEventCreate");
    const cudaError_t status = cudaEventRecord(event_, stream);
    if (status != cudaSuccess) cudaEventDestroy(event_);
    check_cuda(status, "cudaEventRecord");
  }
  ~CudaEvent() override {
    cudaSetDevice(device_);
    cudaEventDestroy(event_);
  }
  CudaEvent(const CudaEvent&) = delete;
  CudaEvent& operator=(const CudaEvent&) = delete;

  void wait_on_host() override {
    about_to_wait("an event's wait_on_host()");
    make_current(device_);
    check_cuda(cudaEventSynchronize(event_), "cudaEventSynchronize");
  }
  bool is_done() const override {
    make_current(device_);
    return is_over(event_);
  }
  double seconds_since(const CommEvent& earlier) const override {
    make_current(device_);
    float milliseconds = 0.0f;
    check_cuda(
        cudaEventElapsedTime(&milliseconds, dynamic_cast<const CudaEvent&>(earlier).event_, event_),
        "cudaEventElapsedTime");
    return static_cast<double>(milliseconds) * 1e-3;
  }
  cudaEvent_t get() const { return event_; }

 private:
  int device_ = 0;
  cudaEvent_t event_ = nullptr;
};

}  // namespace lockstep::cuda
