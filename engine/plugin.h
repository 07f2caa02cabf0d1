#pragma once

#include <string>

#include "lockstep/engine/plugin_table.h"

// Loads liblockstep_cuda.so: $LOCKSTEP_CUDA_PLUGIN if set, else the file beside liblockstep.so. It
// is looked for once, at the first call.
namespace lockstep {

struct CudaStatus {
  int devices = 0;
  std::string why;   // why there are none: no plugin, no driver, no device
  std::string path;  // of the plugin that was loaded; empty if none
  Facts facts;       // what the plugin found, even without a device
};
const CudaStatus& cuda_status();

// The backend of a device, made once. Throws Error with the reason when it is unavailable.
Backend& cuda_backend(int index);

}  // namespace lockstep
