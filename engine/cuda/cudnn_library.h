#pragma once

#include <cudnn.h>

// cuDNN, which is no part of the CUDA Toolkit and may be missing where the program runs. So it is
// looked for by the first convolution, and costs nothing before.
namespace lockstep::cuda {

static_assert(CUDNN_VERSION >= 90800,
              "needs cuDNN 9.8: install it, or configure with -DLOCKSTEP_CUDA_CUDNN=OFF");

struct CudnnLibrary {
  decltype(&cudnnGetVersion) version;
  decltype(&cudnnGetErrorString) error_string;
  decltype(&cudnnGetLastErrorString) last_error_string;
  decltype(&cudnnCreate) create;
  decltype(&cudnnDestroy) destroy;
  decltype(&cudnnSetStream) set_stream;
  decltype(&cudnnBackendCreateDescriptor) create_descriptor;
  decltype(&cudnnBackendDestroyDescriptor) destroy_descriptor;
  decltype(&cudnnBackendSetAttribute) set_attribute;
  decltype(&cudnnBackendGetAttribute) get_attribute;
  decltype(&cudnnBackendFinalize) finalize;
  decltype(&cudnnBackendExecute) execute;
};

// Loaded once, and never unloaded. Null where there is no cuDNN of the major version that this was
// compiled for.
const CudnnLibrary* find_cudnn();
// The same. Throws Error where there is none.
const CudnnLibrary& cudnn();

// Throws Error naming the call, cuDNN's status and its last message, unless `status` is success.
void check_cudnn(cudnnStatus_t status, const char* call);

}  // namespace lockstep::cuda
