#pragma once

#include "lockstep/engine/device_comm.h"

namespace lockstep::cuda {

// Communicators of NCCL's. Where the plugin was built without it, or it is missing where the
// program runs, problem() says so.
DeviceComms& nccl_comms();

}  // namespace lockstep::cuda
