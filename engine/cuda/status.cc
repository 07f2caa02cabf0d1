#include "lockstep/engine/cuda/status.h"

#include "lockstep/engine/tensor/check.h"

namespace lockstep::cuda {
namespace {

// After these the process has lost its device; everything later fails alike.
bool is_sticky(cudaError_t status) {
  switch (status) {
    case cudaErrorIllegalAddress:
    case cudaErrorMisalignedAddress:
    case cudaErrorLaunchFailure:
    case cudaErrorAssert:
    case cudaErrorIllegalInstruction:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorHardwareStackError:
    case cudaErrorECCUncorrectable:
      return true;
    default:
      return false;
  }
}

}  // namespace

void check_cuda(cudaError_t status, const char* call) {
  if (status == cudaSuccess) [[likely]] {
    return;
  }
  cudaGetLastError();
  if (is_sticky(status)) {
    fail<Error>(
        "[cuda] {}: {} ({}). A kernel issued earlier failed, and this process can use the device "
        "no "
        "longer; CUDA_LAUNCH_BLOCKING=1 makes the failing op report it itself",
        call, cudaGetErrorString(status), cudaGetErrorName(status));
  }
  if (status >= cudaErrorStreamCaptureUnsupported && status <= cudaErrorStreamCaptureWrongThread) {
    fail<Error>(
        "[cuda graph] {}: {} ({}). The step called what cannot be captured; what is done in the "
        "first step only, like loading libraries, is done with when a step ran before the capture",
        call, cudaGetErrorString(status), cudaGetErrorName(status));
  }
  fail<Error>("[cuda] {}: {} ({})", call, cudaGetErrorString(status), cudaGetErrorName(status));
}

void make_current(int device) {
  int current = -1;
  check_cuda(cudaGetDevice(&current), "cudaGetDevice");
  if (current != device) check_cuda(cudaSetDevice(device), "cudaSetDevice");
}

void no_kernel(const char* op, DType dtype) { fail("[{}] no kernel for {}", op, name_of(dtype)); }

}  // namespace lockstep::cuda
