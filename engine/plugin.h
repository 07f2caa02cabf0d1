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
};
const CudaStatus& cuda_status();

// Versions and devices, as the plugin finds them, even without a device; asking loads the libraries
// that it uses. Empty if there is no plugin.
Facts cuda_facts();

// What joins GPUs of several processes; null if there is no plugin.
DeviceComms* cuda_comms();

// The backend of a device, made once. Throws Error with the reason when it is unavailable.
Backend& cuda_backend(int index);

}  // namespace lockstep
